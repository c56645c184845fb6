#include "depthwise/depthwise.h"

#include "arch.h"

namespace graffiti {

const DepthwiseKernels& GetDepthwise(int tier) {
  switch (tier) {
#if GRAFFITI_X86_64
    case GRAFFITI_TIER_AVX2: return DepthwiseAvx2();
    case GRAFFITI_TIER_AVX512VNNI: return DepthwiseAvx512Vnni();
#endif
    default: return DepthwiseScalar();
  }
}

}  // namespace graffiti
