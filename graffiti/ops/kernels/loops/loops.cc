#include "loops/loops.h"

#include "arch.h"

namespace graffiti {

const Loops& GetLoops(int tier) {
  switch (tier) {
#if GRAFFITI_X86_64
    case GRAFFITI_TIER_AVX2: return LoopsAvx2();
    case GRAFFITI_TIER_AVX512VNNI: return LoopsAvx512Vnni();
#endif
    default: return LoopsScalar();
  }
}

}  // namespace graffiti
