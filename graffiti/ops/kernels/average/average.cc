#include "average/average.h"

#include <algorithm>

#include "arch.h"
#include "c_api.h"
#include "common.h"

namespace graffiti {
namespace {

Small Tied(Small even, Small plain, Small away, int rounding, bool negative) {
  return rounding == GRAFFITI_HALF_EVEN ? even : rounding == GRAFFITI_HALF_AWAY && negative ? away : plain;
}

// floor(n / divisor) == (n * multiplier >> 16) >> power for every n up to n_high. False where no 16 bits do it.
bool FindMultiplier(int64_t divisor, int64_t n_high, Division* d) {
  for (int power = 15; power >= 0; --power) {
    const int64_t one = int64_t{1} << (16 + power), multiplier = (one + divisor - 1) / divisor;
    // n * multiplier / one == n / divisor + n * excess / (divisor * one): less than 1 / divisor too much
    const int64_t excess = multiplier * divisor - one;
    if (multiplier >= (1 << 16) || excess * n_high >= one) continue;
    d->multiplier = static_cast<uint16_t>(multiplier);
    d->power = power;
    return true;
  }
  return false;
}

bool ChooseHigh(int64_t sum_low, int64_t sum_high, int64_t count, int shift, Division* d) {
  const int up = std::max(-shift, 0), down = std::max(shift, 0);
  if (up > 13 || down > 14 || (count << down) >= (1 << 15)) return false;
  const int64_t divisor = count << down, scale = int64_t{2} << up, twice = 2 * divisor;
  int64_t offset = sum_low < 0 ? (-sum_low * (scale / 2) + divisor - 1) / divisor : 0;
  offset += offset % 2;
  const int64_t bias = twice * offset + (d->rounding == GRAFFITI_FLOOR ? 0 : divisor), n_high = sum_high * scale + bias;
  if (n_high >= (1 << 16) || offset > INT16_MAX || !FindMultiplier(twice, n_high, d)) return false;
  d->scale = static_cast<uint16_t>(scale);
  d->bias = static_cast<uint16_t>(bias);
  d->d = static_cast<uint16_t>(twice);
  d->offset = static_cast<int16_t>(offset);
  const bool ties = d->rounding != GRAFFITI_FLOOR && divisor % scale == 0;  // s * 2**up = divisor * (k + 1/2)
  d->small = ties ? Tied(Small::kHighEven, Small::kHigh, Small::kHighAway, d->rounding, sum_low < 0) : Small::kHigh;
  return true;
}

}  // namespace

void ChooseSmall(int64_t sum_low, int64_t sum_high, int64_t count, int shift, Division* d) {
  d->small = Small::kNo;
  if (sum_low < INT16_MIN || sum_high > INT16_MAX || count < 1 || count > (1 << 14)) return;
  if (shift < -14 || shift > 14) return;
  const int power = __builtin_ctzll(static_cast<unsigned long long>(count)) + shift;
  const int64_t half = power > 0 && d->rounding != GRAFFITI_FLOOR ? int64_t{1} << (power - 1) : 0;
  if ((count & (count - 1)) == 0 && power >= 0 && power < 15 && sum_high + half <= INT16_MAX) {
    d->power = power;
    d->bias = static_cast<uint16_t>(half);
    d->small = half == 0 ? Small::kShift
                         : Tied(Small::kShiftEven, Small::kShift, Small::kShiftAway, d->rounding, sum_low < 0);
    return;
  }
  if (ChooseHigh(sum_low, sum_high, count, shift, d)) return;
  // from the last sum whose exact quotient is not above `low` to the first whose is not below `high`
  const int64_t left = int64_t{1} << std::max(-shift, 0), divisor = count << std::max(shift, 0);
  const int64_t clip_low = std::max(sum_low, FloorDiv(d->low * divisor, left));
  const int64_t clip_high = std::min(sum_high, -FloorDiv(-d->high * divisor, left));
  if (clip_low > clip_high || !ChooseHigh(clip_low, clip_high, count, shift, d)) return;
  d->clip_low = static_cast<int16_t>(clip_low);
  d->clip_high = static_cast<int16_t>(clip_high);
  d->small = d->small == Small::kHigh       ? Small::kClipHigh
             : d->small == Small::kHighEven ? Small::kClipHighEven
                                            : Small::kClipHighAway;
}

}  // namespace graffiti
