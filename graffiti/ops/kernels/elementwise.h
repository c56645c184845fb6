// Ops on each element by itself, and windows of maxima and averages: checked descriptions that run on any range of
// their elements.
#ifndef GRAFFITI_OPS_KERNELS_ELEMENTWISE_H_
#define GRAFFITI_OPS_KERNELS_ELEMENTWISE_H_

#include <vector>

#include "average/average.h"
#include "common.h"
#include "loops/loops.h"
#include "requantizer.h"

namespace graffiti {

// requantize, and relu as a requantization by no shift. Channels are the period of the shifts.
struct RequantizeOp {
  int x_type = 0;
  int64_t channels = 1;
  Requantizer to;
  const Loops* loops = nullptr;

  int Init(int x_type, int64_t channels, const graffiti_requantization* to, int tier);
  void Run(const void* x, void* y, int64_t lo, int64_t hi) const;
};

// out = to(operation(x, y)); y repeats with period y_count.
struct BinaryOp {
  int operation = 0, x_type = 0, y_type = 0, out_type = 0;
  int64_t channels = 1;
  Requantizer to;
  const Loops* loops = nullptr;

  int Init(int operation, int64_t channels, int x_type, int y_type, const graffiti_requantization* to, int tier);
  void Run(const void* x, const void* y, int64_t y_count, void* out, int64_t lo, int64_t hi) const;
};

struct LookupOp {
  int x_type = 0, table_type = 0;
  int32_t low = 0;
  int64_t entries = 0;
  std::vector<uint8_t> table;        // as given
  std::vector<uint8_t> expanded;     // 8-bit x: one entry for each of the 256 bytes
  bool complete = false;             // every code of x_type has an entry

  int Init(int x_type, int32_t low, const void* table, int table_type, int64_t entries);
  bool Run(const void* x, void* y, int64_t lo, int64_t hi) const;  // false where a code has no entry
};

struct MaxPoolOp {
  graffiti_pool_shape s{};
  int type = 0;
  const Loops* loops = nullptr;

  int Init(const graffiti_pool_shape& shape, int type, int tier);
  int64_t Units(int64_t batch) const { return batch * s.out_height; }  // output rows
  void Run(const void* x, void* y, int64_t lo, int64_t hi) const;
};

// Floats to floats in front of a quantizer: x * scale + offset; the numbers repeat every `scale.size()` elements.
struct RescaleOp {
  std::vector<float> scale, offset;
  const Loops* loops = nullptr;

  int Init(std::vector<float> scale, std::vector<float> offset, int tier);
  void Run(const float* x, float* y, int64_t lo, int64_t hi) const;
};

// y = to(sum over the part of each window inside the image / its elements); without `divide` the sum itself.
struct AveragePoolOp {
  graffiti_pool_shape s{};
  int x_type = 0, y_type = 0, shift = 0;
  bool divide = true;
  Division division{};
  std::vector<Division> divisions;  // of windows of up to kRowTaps bytes, by their taps
  bool by_rows = false;             // one call of the kernel for all outputs of a row
  int64_t blocks = 1;               // of channels: a unit of work is one of them in one output row
  const AverageKernels* kernels = nullptr;

  int Init(const graffiti_pool_shape& shape, int x_type, const graffiti_requantization* to, bool divide, int tier);
  int64_t Units(int64_t batch) const { return batch * s.out_height * blocks; }
  void Run(const void* x, void* y, int64_t lo, int64_t hi) const;

 private:
  Quotient KindOf(int64_t count) const;
  Division DivisionOf(int64_t taps) const;
  void RunRows(const uint8_t* x, uint8_t* y, int64_t lo, int64_t hi) const;
};

struct QuantizeOp {
  int32_t exponent = 0, low = 0, high = 0;
  int rounding = 0, type = 0;
  const Loops* loops = nullptr;

  int Init(int32_t exponent, int rounding, int32_t low, int32_t high, int type, int tier);
  bool Run(const float* x, void* y, int64_t lo, int64_t hi) const;  // false where there is a NaN
};

struct DequantizeOp {
  int type = 0;
  int64_t channels = 1;
  std::vector<double> scale;
  const Loops* loops = nullptr;

  int Init(int64_t channels, int type, const int32_t* exponent, int64_t exponent_count, int tier);
  void Run(const void* x, float* y, int64_t lo, int64_t hi) const;
};

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_ELEMENTWISE_H_
