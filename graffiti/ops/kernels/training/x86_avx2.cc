#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "training/depthwise.h"
#include "training/training.h"

namespace graffiti {
namespace {

#include "simd_avx2.inc"
#include "training/depthwise.inc"
#include "training/interleave.inc"
#include "training/stores.inc"

}  // namespace

const DepthwiseLoops& DepthwiseLoopsAvx2() { return kDepthwise; }
const TrainingStores& TrainingStoresAvx2() { return kStores; }

}  // namespace graffiti
