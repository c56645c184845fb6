#include "dot/pack.h"

#include <cstring>

namespace graffiti {

void PackColumns(DotTypes types, const Columns& columns, int64_t segments, int64_t length, int64_t width,
                 uint8_t* packed, int64_t* sums) {
  const int64_t group = DotGroup(types), steps = PackedSteps(types, length);
  for (int64_t n = 0; n < columns.count; ++n) sums[n] = 0;
  for (int64_t g = 0; g < segments; ++g)
    for (int64_t k = 0; k < length; ++k) {
      uint8_t* row = packed + (g * steps + k / group) * width * 4 + k % group * (4 / group);
      const int64_t from = (g * length + k) * columns.row_length + columns.first;
      for (int64_t n = 0; n < columns.count; ++n) {
        const int32_t w = ValueAt(columns.values, columns.type, from + n);
        sums[n] += w;
        const int16_t wide = static_cast<int16_t>(w);
        if (group == 4)
          row[4 * n] = static_cast<uint8_t>(w);
        else
          std::memcpy(row + 4 * n, &wide, 2);
      }
    }
}

void ColumnParameters::Allocate(int64_t columns) {
  for (AlignedArray<int32_t>* array : {&init_, &shift_, &mask_, &drop_}) *array = AllocateAligned<int32_t>(columns);
}

void ColumnParameters::Set(int64_t column, int64_t start, const Requantizer* to, int64_t channel) {
  int64_t half = 0;
  if (to != nullptr) {
    const int32_t shift = to->shift(channel);
    shift_[column] = shift;
    mask_[column] = static_cast<int32_t>((int64_t{1} << shift) - 1);
    drop_[column] = to->rounding() == GRAFFITI_HALF_EVEN && shift > 0;
    half = to->rounding() != GRAFFITI_FLOOR && shift > 0 ? int64_t{1} << (shift - 1) : 0;
  }
  init_[column] = static_cast<int32_t>(static_cast<uint32_t>(start + half));
}

}  // namespace graffiti
