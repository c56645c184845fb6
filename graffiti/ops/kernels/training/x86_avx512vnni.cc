#include "training/training.h"

namespace graffiti {
namespace {

#include "training/stores.inc"

}  // namespace

const TrainingStores& TrainingStoresAvx512Vnni() { return kStores; }

}  // namespace graffiti
