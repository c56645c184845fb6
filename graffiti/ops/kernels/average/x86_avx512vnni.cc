#include "average/average.h"

#include "c_api.h"

namespace graffiti {
namespace {

constexpr int kVectorBytes = 64;

#include "average/average.inc"

}  // namespace

const AverageKernels& AverageAvx512Vnni() { return kKernels; }

}  // namespace graffiti
