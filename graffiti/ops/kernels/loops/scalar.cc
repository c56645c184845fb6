#include "loops/loops.h"

#include "c_api.h"

namespace graffiti {
namespace {

#include "loops/loops.inc"

}  // namespace

const Loops& LoopsScalar() { return kLoops; }

}  // namespace graffiti
