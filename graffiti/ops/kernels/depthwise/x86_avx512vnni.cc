#include <immintrin.h>

#include "c_api.h"
#include "depthwise/depthwise.h"

namespace graffiti {
namespace {

#include "simd_avx512.inc"

#include "depthwise/depthwise.inc"

}  // namespace

const DepthwiseKernels& DepthwiseAvx512Vnni() { return kKernels; }

}  // namespace graffiti
