#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "training/depthwise.h"
#include "training/training.h"

namespace graffiti {
namespace {

#include "simd_scalar.inc"
#include "training/depthwise.inc"
#include "training/interleave.inc"
#include "training/stores.inc"

}  // namespace

const DepthwiseLoops& DepthwiseLoopsScalar() { return kDepthwise; }
const TrainingStores& TrainingStoresScalar() { return kStores; }

}  // namespace graffiti
