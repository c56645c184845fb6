#include "average/average.h"

#include "c_api.h"

namespace graffiti {
namespace {

constexpr int kVectorBytes = 16;

#include "average/average.inc"

}  // namespace

const AverageKernels& AverageScalar() { return kKernels; }

}  // namespace graffiti
