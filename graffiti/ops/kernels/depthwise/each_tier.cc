// The depthwise products of one tier.
#include "depthwise/depthwise.h"
#include "this_tier.h"

namespace graffiti {
namespace {

#include GRAFFITI_VECTORS
#include "depthwise/depthwise.inc"

}  // namespace

template <>
const DepthwiseKernels& TierLoops<DepthwiseKernels, GRAFFITI_TIER>() {
  return kKernels;
}

}  // namespace graffiti
