#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "training/depthwise.h"
#include "training/training.h"

namespace graffiti {
namespace {

constexpr int kLanes = 16;
#include "training/depthwise.inc"
#include "training/stores.inc"

}  // namespace

const DepthwiseLoops& DepthwiseLoopsAvx512Vnni() { return kDepthwise; }
const TrainingStores& TrainingStoresAvx512Vnni() { return kStores; }

}  // namespace graffiti
