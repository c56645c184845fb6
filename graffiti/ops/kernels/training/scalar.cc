#include "training/training.h"

namespace graffiti {
namespace {

#include "training/stores.inc"

}  // namespace

const TrainingStores& TrainingStoresScalar() { return kStores; }

}  // namespace graffiti
