#include "average/average.h"

#include "arch.h"
#include "c_api.h"

namespace graffiti {

const AverageKernels& GetAverage(int tier) {
  switch (tier) {
#if GRAFFITI_X86_64
    case GRAFFITI_TIER_AVX2: return AverageAvx2();
    case GRAFFITI_TIER_AVX512VNNI: return AverageAvx512Vnni();
#endif
    default: return AverageScalar();
  }
}

}  // namespace graffiti
