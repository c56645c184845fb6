#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "training/depthwise.h"
#include "training/training.h"

namespace graffiti {
namespace {

#include "simd_avx512.inc"
#include "training/depthwise.inc"
#include "training/interleave.inc"
#include "training/stores.inc"

}  // namespace

const DepthwiseLoops& DepthwiseLoopsAvx512Vnni() { return kDepthwise; }
const TrainingStores& TrainingStoresAvx512Vnni() { return kStores; }

}  // namespace graffiti
