// Operands of the tile primitive as it reads them: packed columns, and what becomes of a column's accumulators.
#ifndef GRAFFITI_OPS_KERNELS_DOT_PACK_H_
#define GRAFFITI_OPS_KERNELS_DOT_PACK_H_

#include "common.h"
#include "dot/dot.h"
#include "requantizer.h"

namespace graffiti {

// Columns [first, first + count) of a matrix of segments * length rows, each of `row_length` values of `type`.
struct Columns {
  const void* values;
  int type;
  int64_t row_length, first, count;
};

inline int64_t PackedSteps(DotTypes types, int64_t length) { return CeilDiv(length, DotGroup(types)); }

// [segment][step][width][4 bytes] into `packed`, which holds zeros; sums[i] becomes the sum of column i.
void PackColumns(DotTypes types, const Columns& columns, int64_t segments, int64_t length, int64_t width,
                 uint8_t* packed, int64_t* sums);

// For each column, padded: what its accumulators start from, and the Epilogue that makes codes of them.
class ColumnParameters {
 public:
  void Allocate(int64_t columns);
  // `to` is nullptr where the sums are wanted; `channel` is the column's number there. Wraps modulo 2**32, like the
  // products.
  void Set(int64_t column, int64_t start, const Requantizer* to, int64_t channel);
  int32_t* init(int64_t column) { return init_.get() + column; }
  const int32_t* init(int64_t column) const { return init_.get() + column; }
  Epilogue From(int64_t column, const Requantizer& to) const {
    return {shift_.get() + column, mask_.get() + column, drop_.get() + column, to.low(), to.high()};
  }

 private:
  AlignedArray<int32_t> init_, shift_, mask_, drop_;
};

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_DOT_PACK_H_
