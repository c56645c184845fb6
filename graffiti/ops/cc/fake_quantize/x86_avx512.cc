#include "fake_quantize.h"

#ifdef __AVX512F__
#include "loops.h"

namespace graffiti {
const FakeQuantizeLoops& FakeQuantizeAvx512() {
  static const FakeQuantizeLoops loops{"avx512", Forward, Backward};
  return loops;
}
}  // namespace graffiti
#else
namespace graffiti {
const FakeQuantizeLoops& FakeQuantizeAvx512() { return FakeQuantizeScalar(); }
}  // namespace graffiti
#endif
