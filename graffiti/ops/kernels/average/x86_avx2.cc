#include "average/average.h"

#include "c_api.h"

namespace graffiti {
namespace {

constexpr int kVectorBytes = 32;

#include "average/average.inc"

}  // namespace

const AverageKernels& AverageAvx2() { return kKernels; }

}  // namespace graffiti
