#include "training/loops.h"

namespace graffiti {

const TrainingLoops& TrainingScalar() { return kLoops; }

}  // namespace graffiti
