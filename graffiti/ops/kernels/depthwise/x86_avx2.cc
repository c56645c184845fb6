#include <immintrin.h>

#include "c_api.h"
#include "depthwise/depthwise.h"

namespace graffiti {
namespace {

#include "simd_avx2.inc"

#include "depthwise/depthwise.inc"

}  // namespace

const DepthwiseKernels& DepthwiseAvx2() { return kKernels; }

}  // namespace graffiti
