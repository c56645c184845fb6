#include "training/loops.h"

namespace graffiti {

const TrainingLoops& TrainingAvx512() { return kLoops; }

}  // namespace graffiti
