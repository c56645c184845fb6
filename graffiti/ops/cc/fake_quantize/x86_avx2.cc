#include "fake_quantize.h"

#ifdef __AVX2__
#include "loops.h"

namespace graffiti {
const FakeQuantizeLoops& FakeQuantizeAvx2() {
  static const FakeQuantizeLoops loops{"avx2", Forward, Backward};
  return loops;
}
}  // namespace graffiti
#else
namespace graffiti {
const FakeQuantizeLoops& FakeQuantizeAvx2() { return FakeQuantizeScalar(); }
}  // namespace graffiti
#endif
