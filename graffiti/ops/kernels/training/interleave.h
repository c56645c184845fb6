// Rows of values to the four bytes that one step of the tile primitive sums.
#ifndef GRAFFITI_OPS_KERNELS_TRAINING_INTERLEAVE_H_
#define GRAFFITI_OPS_KERNELS_TRAINING_INTERLEAVE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "training/training.h"

namespace graffiti {

// Rows of values side by side, [strip][step][width][rows]: the four bytes of a column and step hold one value of each
// of the 4 / sizeof(To) rows. At step s the rows begin s * stride values further on. Rows without their bit in
// `present` count as zeros; `flip` is xored into every byte.
template <typename To, typename From>
void Interleave(const Interleaves& interleaves, const From* const* rows, int64_t stride, int64_t steps,
                unsigned present, uint8_t flip, Strips strips, uint8_t* to) {
  constexpr int kRows = 4 / sizeof(To);
  if (strips.columns == strips.width &&
      stride == strips.width) {  // the steps, too, are side by side: they are as good as columns
    strips.columns = strips.width = stride * steps;
    steps = steps > 0 ? 1 : 0;
  }
  Masks masks{{}, flip};
  for (int i = 0; i < 4; ++i) masks.keep[i] = present >> (i * kRows / 4) & 1 ? 0xff : 0;
  interleaves.Of(rows, To{})(rows, stride, steps, masks, strips, to);
}

// `steps` steps of all strips with one value in every byte.
inline void FillStrips(const Strips& strips, int64_t steps, uint8_t value, uint8_t* to) {
  for (int64_t first = 0; first < strips.columns; first += strips.width, to += strips.bytes)
    std::memset(to, value, steps * strips.width * 4);
}

// Interleave() where the rows of all steps lie `stride` values apart in one array, from value `at` on, and only rows
// [low, high) of them are there.
template <typename To, typename From>
void InterleaveRun(const Interleaves& interleaves, const From* from, int64_t at, int64_t low, int64_t high,
                   int64_t stride, int64_t steps, uint8_t flip, const Strips& strips, uint8_t* to) {
  constexpr int kRows = 4 / sizeof(To);
  if (low >= high) {
    FillStrips(strips, steps, flip, to);
    return;
  }
  for (int64_t step = 0; step < steps;) {
    const int64_t row = step * kRows;
    const int64_t whole =
        row >= low ? std::max<int64_t>(0, (high - row) / kRows) : 0;  // steps from here on with all rows
    const From* rows[kRows];
    unsigned present = 0;
    for (int i = 0; i < kRows; ++i) {
      rows[i] = from + at + std::min(std::max(row + i, low), high - 1) * stride;
      if (row + i >= low && row + i < high) present |= 1u << i;
    }
    const int64_t count = std::min(std::max<int64_t>(1, whole), steps - step);
    Interleave<To>(interleaves, rows, kRows * stride, count, present, flip, strips, to + step * strips.width * 4);
    step += count;
  }
}

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_TRAINING_INTERLEAVE_H_
