// The register tiles of one tier.
#include "dot/dot.h"
#include "this_tier.h"

namespace graffiti {
namespace {

#include GRAFFITI_VECTORS
#include "dot/tile.inc"

const DotKernelList kList = {kKernels, sizeof(kKernels) / sizeof(kKernels[0])};

}  // namespace

template <>
const DotKernelList& TierLoops<DotKernelList, GRAFFITI_TIER>() {
  return kList;
}

}  // namespace graffiti
