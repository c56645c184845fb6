#include "average/average.h"

#include "arch.h"
#include "c_api.h"

namespace graffiti {

const AverageKernels& GetAverage(int tier) {
  switch (tier) {
#if GRAFFITI_X86_64
    case GRAFFITI_TIER_AVX2: return AverageAvx2();
    case GRAFFITI_TIER_AVX512VNNI: return AverageAvx512Vnni();
#endif
    default: return AverageScalar();
  }
}

void ChooseSmall(int64_t taps, int64_t count, int shift, Division* d) {
  d->small = Small::kNo;
  if (taps > kSmallTaps || count < 1) return;
  const bool power_of_two = (count & (count - 1)) == 0;
  if (power_of_two) {
    const int power = __builtin_ctzll(static_cast<unsigned long long>(count)) + shift;
    if (power < 1 || power > 13) return;  // |sum| <= 2**14 and half a step fit 16 bits
    d->small = Small::kShift;
    d->power = power;
  } else if (count % 2 == 1 && shift == 0 && count == taps && d->rounding != GRAFFITI_FLOOR) {
    // 2**power <= 2 * count < 2**(power + 1); then the product of 2 * sum + count <= 511 * count with the multiplier, which is less
    // than 2 * count too large in 2**(16 + power), is wrong by less than one in 2 * count for every count up to 63
    int power = 0;
    while ((int64_t{2} << power) <= 2 * count) ++power;
    d->small = Small::kHigh;
    d->power = power;
    d->multiplier = static_cast<uint16_t>(((int64_t{1} << (16 + power)) + 2 * count - 1) / (2 * count));
    d->count = static_cast<int16_t>(count);
  }
}

}  // namespace graffiti
