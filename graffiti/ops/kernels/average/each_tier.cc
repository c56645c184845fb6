// The averages of one tier, in vectors as wide as its registers.
#include "average/average.h"
#include "this_tier.h"

namespace graffiti {
namespace {

#include GRAFFITI_VECTORS
#include "average/average.inc"

}  // namespace

template <>
const AverageKernels& TierLoops<AverageKernels, GRAFFITI_TIER>() {
  return kKernels;
}

}  // namespace graffiti
