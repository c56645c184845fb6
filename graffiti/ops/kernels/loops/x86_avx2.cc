#include "loops/loops.h"

#include "c_api.h"

namespace graffiti {
namespace {

#include "loops/loops.inc"

}  // namespace

const Loops& LoopsAvx2() { return kLoops; }

}  // namespace graffiti
