// Averages over windows: the exact sum of codes, one division, one rounding.
//
//   y[b, p, c] = clamp(round(sum of x[b, window of p, c] * 2**left / count), low, high)
//
// Eight-bit codes under windows of at most kRowTaps taps are added in 16-bit lanes, a row of outputs at a time: first
// every column of the row's windows, downwards, then the columns of each window. Windows that overlap share the
// columns, and where the windows step by one pixel a vector holds channels of several pixels. The quotient is made in
// the same lanes (see Small).
//
// Larger windows, and those of many channels that are alone in their row, are added one by one as pairs of bytes in
// 16-bit lanes, v and v >> 8 apart: three instructions for a whole register of bytes. Wider codes are added in 32-bit
// lanes.
//
// Sums of 32 bits become codes with floats where these hold everything that the quotient depends on:
//   - it is never a tie, and |sum| * 2**max(left, 0) < 2**22: the product with the rounded reciprocal stays on its side
//     of every tie, because a quotient that is none is at least 1 / (2 * count) away from one;
//   - else, below the same bound, a division: IEEE 754 rounds it correctly, so a tie stays a tie;
//   - beyond the bound, the division in double, which holds 52 bits.
#ifndef GRAFFITI_OPS_KERNELS_AVERAGE_AVERAGE_H_
#define GRAFFITI_OPS_KERNELS_AVERAGE_AVERAGE_H_

#include <cstdint>

#include "arch.h"

namespace graffiti {

enum class Quotient { kProduct, kFloat, kDouble };

constexpr int64_t kRowTaps = 128;  // 128 * 255 < 2**15

// How a sum s of 16 bits becomes a code of 8 bits in 16-bit lanes. All of them end in the clamp to low..high.
//   shift: the divisor is 2**power: (s + bias) >> power; `even` and `away` correct the ties
//   high:  floor(n / d) - offset with n = s * scale + bias = 2 * (s * 2**left + offset * divisor) + divisor and
//          d = 2 * divisor. floor(n / d) is the upper half of n * multiplier, >> power. The offset is an even number
//          that keeps n positive. A tie is where d divides n.
//   clip:  s is first brought to within clip_low..clip_high, where the code has reached its bounds: n stays below 2**16
enum class Small {
  kNo,
  kShift, kShiftEven, kShiftAway,
  kHigh, kHighEven, kHighAway,
  kClipHigh, kClipHighEven, kClipHighAway
};

// How sums of one output pixel become codes. `divisor` is count * 2**-left.
struct Division {
  Quotient kind = Quotient::kDouble;
  double divisor = 1.0;
  int rounding = 0;
  int32_t low = 0, high = 0;
  Small small = Small::kNo;
  int power = 0;
  uint16_t scale = 0, bias = 0, multiplier = 0, d = 0;
  int16_t offset = 0, clip_low = 0, clip_high = 0;
};

// Fills the fields from `small` on: sums within sum_low..sum_high are divided by count * 2**shift, to codes of 8 bits.
void ChooseSmall(int64_t sum_low, int64_t sum_high, int64_t count, int shift, Division* d);

// One output pixel: the part of its window that lies in the image.
struct AveragePixel {
  const uint8_t* base;          // the first tap's first channel of the block
  int64_t rows, columns;        // of the window
  int64_t row_bytes, pixel_bytes;
  const uint8_t* end;           // nothing is read from here on
  int64_t channels;             // of the block
  void* out;
};

// Neighbouring outputs of one row; codes of 8 bits. Output q has the columns of the image from q * stride - pad on, as
// many as the window has, less those outside the image.
struct AverageRow {
  const uint8_t* base;  // column 0 of the windows' first row
  const uint8_t* end;   // of the image: nothing is read from here on
  int64_t rows, row_bytes;
  int64_t width, channels;  // of the image
  int64_t window, stride, pad, outputs;
  const Division* divisions;  // by the number of taps, rows * columns <= kRowTaps
  void* out;
};

struct AverageKernels {
  void (*run)(int x_type, int y_type, const AveragePixel& pixel, const Division& division);
  void (*row)(int x_type, int y_type, const AverageRow& row);
  int lanes;  // of 16 bits
};
GRAFFITI_DECLARE_TIERS(AverageKernels)

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_AVERAGE_AVERAGE_H_
