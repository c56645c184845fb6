#include "training/loops.h"

namespace graffiti {

const TrainingLoops& TrainingAvx2() { return kLoops; }

}  // namespace graffiti
