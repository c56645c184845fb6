#include "c_api.h"
#include "depthwise/depthwise.h"

namespace graffiti {
namespace {

#include "simd_scalar.inc"

#include "depthwise/depthwise.inc"

}  // namespace

const DepthwiseKernels& DepthwiseScalar() { return kKernels; }

}  // namespace graffiti
