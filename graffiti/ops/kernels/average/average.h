// Averages over windows: the exact sum of codes, one division, one rounding.
//
//   y[b, p, c] = clamp(round(sum of x[b, window of p, c] * 2**left / count), low, high)
//
// Eight-bit codes are added as pairs in 16-bit lanes, v and v >> 8 apart: three instructions for a whole register of bytes. The quotient is
// exact with floats where they hold everything it depends on:
//   - it is never a tie, and |sum| * 2**max(left, 0) < 2**22: the product with the rounded reciprocal stays on its side of every tie,
//     because a quotient that is none is at least 1 / (2 * count) away from one;
//   - else, below the same bound, a division: IEEE 754 rounds it correctly, so a tie stays a tie;
//   - beyond the bound, the division in double, which holds 52 bits.
// Sums of at most 64 bytes stay in their 16-bit lanes: a divisor of a power of two is a rounding shift there, and an odd count the
// upper half of a product, floor((2 * sum + count) / (2 * count)).
#ifndef GRAFFITI_OPS_KERNELS_AVERAGE_AVERAGE_H_
#define GRAFFITI_OPS_KERNELS_AVERAGE_AVERAGE_H_

#include <cstdint>

namespace graffiti {

enum class Quotient { kProduct, kFloat, kDouble };
enum class Small { kNo, kShift, kHigh };

constexpr int64_t kSmallTaps = 64;

// How sums of one output pixel become codes. `divisor` is count * 2**-left.
struct Division {
  Quotient kind;
  double divisor;
  int rounding;
  int32_t low, high;
  Small small = Small::kNo;  // how sums of few bytes are divided in 16-bit lanes
  int power = 0;             // kShift: divisor == 2**power; kHigh: what is left to shift after the upper half
  uint16_t multiplier = 0;   // kHigh
  int16_t count = 0;         // kHigh
};

// Fills the last four fields: `taps` bytes are added and divided by count * 2**shift, to codes of 8 bits.
void ChooseSmall(int64_t taps, int64_t count, int shift, Division* d);

// One output pixel: the part of its window that lies in the image.
struct AveragePixel {
  const uint8_t* base;          // the first tap's first channel of the block
  int64_t rows, columns;        // of the window
  int64_t row_bytes, pixel_bytes;
  const uint8_t* end;           // nothing is read from here on
  int64_t channels;             // of the block
  void* out;
};

struct AverageKernels {
  void (*run)(int x_type, int y_type, const AveragePixel& pixel, const Division& division);
};
const AverageKernels& AverageScalar();
const AverageKernels& AverageAvx2();
const AverageKernels& AverageAvx512Vnni();
const AverageKernels& GetAverage(int tier);

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_AVERAGE_AVERAGE_H_
