// The loops of the training products of one tier.
#include <algorithm>
#include <cstring>

#include "this_tier.h"
#include "training/depthwise.h"
#include "training/training.h"

namespace graffiti {
namespace {

#include GRAFFITI_VECTORS
#include "training/depthwise.inc"
#include "training/interleave.inc"
#include "training/stores.inc"

}  // namespace

template <>
const DepthwiseLoops& TierLoops<DepthwiseLoops, GRAFFITI_TIER>() {
  return kDepthwise;
}

template <>
const TrainingStores& TierLoops<TrainingStores, GRAFFITI_TIER>() {
  return kStores;
}

}  // namespace graffiti
