#include "loops/loops.h"

#include "c_api.h"

namespace graffiti {
namespace {

#include "loops/loops.inc"

}  // namespace

const Loops& LoopsAvx512Vnni() { return kLoops; }

}  // namespace graffiti
