#include "training/training.h"

namespace graffiti {
namespace {

#include "training/stores.inc"

}  // namespace

const TrainingStores& TrainingStoresAvx2() { return kStores; }

}  // namespace graffiti
