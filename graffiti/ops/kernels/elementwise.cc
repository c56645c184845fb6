#include "elementwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace graffiti {
namespace {

inline const uint8_t* At(const void* p, int type, int64_t index) {
  return static_cast<const uint8_t*>(p) + index * TypeSize(type);
}
inline uint8_t* At(void* p, int type, int64_t index) { return static_cast<uint8_t*>(p) + index * TypeSize(type); }

constexpr int64_t kBlockChannels = 256;

// The 16-bit one-pass loops: 8 bits in and out, one shift, half to even. Up to 5 to the left the sum of two codes stays
// in 16 bits.
bool IsNarrow(const Requantizer& to) {
  return !to.identity() && TypeSize(to.type()) == 1 && to.common() && to.shift(0) >= -5 && to.shift(0) <= 14 &&
         (to.rounding() == GRAFFITI_HALF_EVEN || to.shift(0) <= 0);
}

}  // namespace

int RequantizeOp::Init(int type, int64_t channel_count, const graffiti_requantization* requantization, int tier) {
  if (!IsCodeType(type))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "requantize takes integer codes, got %s", TypeName(type));
  if (channel_count < 1)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "requantize needs at least one channel, got %lld",
                static_cast<long long>(channel_count));
  x_type = type;
  channels = channel_count;
  loops = &LoopsOf<Loops>(tier);
  return to.Init(requantization, channels);
}

void RequantizeOp::Run(const void* x, void* y, int64_t lo, int64_t hi) const {
  if (TypeSize(x_type) == 1 && IsNarrow(to))
    return loops->round8(x_type, At(x, x_type, lo), hi - lo, to.shift(0), to.low(), to.high(), At(y, to.type(), lo));
  int32_t block[kBlock];
  for (int64_t i = lo; i < hi;) {
    const int64_t channel = to.common() ? 0 : i % channels;
    const int64_t n = std::min({kBlock, hi - i, to.common() ? kBlock : channels - channel});
    loops->load(x_type, At(x, x_type, i), n, block);
    to.Apply(*loops, block, n, channel, At(y, to.type(), i));
    i += n;
  }
}

int BinaryOp::Init(int binary, int64_t channel_count, int x, int y, const graffiti_requantization* requantization,
                   int tier) {
  const char* name = nullptr;
  bool selects = false;
  switch (binary) {
#define GRAFFITI_BINARY_OP(constant, op_name, number, op_selects, result) \
  case GRAFFITI_##constant:                                               \
    name = #op_name;                                                      \
    selects = op_selects;                                                 \
    break;
#define GRAFFITI_INNER_BINARY_OP(constant, number, result) \
  case GRAFFITI_##constant:                                \
    name = #constant;                                      \
    break;
#include "binary.inc"
  }
  if (name == nullptr) return Fail(GRAFFITI_INVALID_ARGUMENT, "there is no elementwise operation %d", binary);
  if (!IsCodeType(x) || !IsCodeType(y))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "elementwise ops take integer codes, got %s and %s", TypeName(x),
                TypeName(y));
  if (selects && x != y)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "%s needs one type, got %s and %s", name, TypeName(x), TypeName(y));
  if (channel_count < 1)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "elementwise ops need at least one channel, got %lld",
                static_cast<long long>(channel_count));
  operation = binary;
  channels = channel_count;
  x_type = x;
  y_type = y;
  loops = &LoopsOf<Loops>(tier);
  const int code = to.Init(requantization, channels);
  out_type = to.identity() && selects ? x_type : to.type();
  return code;
}

void BinaryOp::Run(const void* x, const void* y, int64_t y_count, void* out, int64_t lo, int64_t hi) const {
  const bool narrow = TypeSize(x_type) == 1 && TypeSize(y_type) == 1 && operation <= GRAFFITI_SUBTRACT && IsNarrow(to);
  alignas(64) int32_t a[kBlock], b[kBlock];
  for (int64_t i = lo; i < hi;) {
    const int64_t channel = to.common() ? 0 : i % channels, j = i % y_count;
    int64_t n = hi - i;
    if (y_count > 1) n = std::min(n, y_count - j);
    if (narrow && y_count > 1) {
      loops->add8(operation == GRAFFITI_SUBTRACT, x_type, At(x, x_type, i), y_type, At(y, y_type, j), n, to.shift(0),
                  to.low(), to.high(), At(out, out_type, i));
      i += n;
      continue;
    }
    n = std::min(n, kBlock);
    if (!to.common()) n = std::min(n, channels - channel);
    loops->load(x_type, At(x, x_type, i), n, a);
    if (y_count == 1) {
      loops->load(y_type, y, 1, b);
      std::fill(b + 1, b + n, b[0]);
    } else {
      loops->load(y_type, At(y, y_type, j), n, b);
    }
    loops->combine(operation, a, b, n);
    if (to.identity())
      loops->store(out_type, a, n, At(out, out_type, i));
    else
      to.Apply(*loops, a, n, channel, At(out, out_type, i));
    i += n;
  }
}

int LookupOp::Init(int x, int32_t lowest, const void* values, int type, int64_t count) {
  if (!IsCodeType(x) || !IsCodeType(type))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "lookup takes integer codes and an integer table, got %s and %s",
                TypeName(x), TypeName(type));
  if (count < 1 || count > (int64_t{1} << 24))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "a table has 1 to 2**24 entries, got %lld", static_cast<long long>(count));
  x_type = x;
  table_type = type;
  low = lowest;
  entries = count;
  const int64_t size = TypeSize(type);
  table.assign(static_cast<const uint8_t*>(values), static_cast<const uint8_t*>(values) + count * size);
  complete = low <= TypeLow(x) && low + count - 1 >= TypeHigh(x);
  if (TypeSize(x) == 1) {
    expanded.assign(256 * size, 0);
    for (int64_t code = TypeLow(x); code <= TypeHigh(x); ++code)
      if (code >= low && code < low + count)
        std::memcpy(&expanded[(code & 255) * size], &table[(code - low) * size], size);
  }
  return GRAFFITI_OK;
}

namespace {

template <typename T>
void LookupBytes(const uint8_t* x, const void* table, int64_t n, void* y) {
  const T* t = static_cast<const T*>(table);
  T* out = static_cast<T*>(y);
  for (int64_t i = 0; i < n; ++i) out[i] = t[x[i]];
}

}  // namespace

bool LookupOp::Run(const void* x, void* y, int64_t lo, int64_t hi) const {
  const int64_t size = TypeSize(table_type);
  int32_t block[kBlock];
  const Loops& loops = LoopsOf<Loops>(GRAFFITI_TIER_SCALAR);
  for (int64_t i = lo; i < hi; i += kBlock) {
    const int64_t n = std::min(kBlock, hi - i);
    const uint8_t* from = At(x, x_type, i);
    uint8_t* to = At(y, table_type, i);
    if (!complete || TypeSize(x_type) != 1) loops.load(x_type, from, n, block);
    if (!complete)
      for (int64_t k = 0; k < n; ++k)
        if (static_cast<int64_t>(block[k]) < low || static_cast<int64_t>(block[k]) >= low + entries) return false;
    if (TypeSize(x_type) == 1)
      (size == 1   ? LookupBytes<uint8_t>
       : size == 2 ? LookupBytes<uint16_t>
                   : LookupBytes<uint32_t>)(from, expanded.data(), n, to);
    else
      for (int64_t k = 0; k < n; ++k)
        std::memcpy(to + k * size, &table[(static_cast<int64_t>(block[k]) - low) * size], size);
  }
  return true;
}

namespace {

int CheckPool(const graffiti_pool_shape& shape, const char* op) {
  for (int64_t v :
       {shape.height, shape.width, shape.channels, shape.pool_height, shape.pool_width, shape.stride_h, shape.stride_w})
    if (v < 1 || v > INT32_MAX)
      return Fail(GRAFFITI_INVALID_ARGUMENT, "%s: sizes, window and strides are at least 1, got %lld", op,
                  static_cast<long long>(v));
  for (int64_t v : {shape.out_height, shape.out_width, shape.pad_top, shape.pad_left})
    if (v < 0 || v > INT32_MAX)
      return Fail(GRAFFITI_INVALID_ARGUMENT, "%s: sizes and pads are not negative, got %lld", op,
                  static_cast<long long>(v));
  if (shape.pad_top >= shape.pool_height || shape.pad_left >= shape.pool_width ||
      (shape.out_height - 1) * shape.stride_h - shape.pad_top >= shape.height ||
      (shape.out_width - 1) * shape.stride_w - shape.pad_left >= shape.width)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "%s: a window lies in the padding alone", op);
  return GRAFFITI_OK;
}

}  // namespace

int MaxPoolOp::Init(const graffiti_pool_shape& shape, int element_type, int tier) {
  if (TypeSize(element_type) == 0)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "max_pool takes codes or floats, got type %d", element_type);
  if (int code = CheckPool(shape, "max_pool")) return code;
  s = shape;
  type = element_type;
  loops = &LoopsOf<Loops>(tier);
  return GRAFFITI_OK;
}

void MaxPoolOp::Run(const void* x, void* y, int64_t lo, int64_t hi) const {
  const int64_t pixel = s.channels * TypeSize(type);
  for (int64_t unit = lo; unit < hi; ++unit) {
    const int64_t top = unit % s.out_height * s.stride_h - s.pad_top;
    const int64_t first_row = std::max<int64_t>(top, 0), last_row = std::min(top + s.pool_height, s.height);
    const uint8_t* image = static_cast<const uint8_t*>(x) + unit / s.out_height * s.height * s.width * pixel;
    uint8_t* best = static_cast<uint8_t*>(y) + unit * s.out_width * pixel;
    for (int64_t q = 0; q < s.out_width; ++q, best += pixel) {
      const int64_t left = q * s.stride_w - s.pad_left;
      const int64_t first = std::max<int64_t>(left, 0), last = std::min(left + s.pool_width, s.width);
      std::memcpy(best, image + (first_row * s.width + first) * pixel, pixel);
      for (int64_t row = first_row; row < last_row; ++row)
        for (int64_t column = first; column < last; ++column)
          loops->maximum(type, best, image + (row * s.width + column) * pixel, s.channels);
    }
  }
}

int RescaleOp::Init(std::vector<float> scales, std::vector<float> offsets, int tier) {
  if (scales.empty() || scales.size() != offsets.size())
    return Fail(GRAFFITI_INVALID_ARGUMENT, "rescale needs as many offsets as scales, at least one, got %zu and %zu",
                offsets.size(), scales.size());
  scale = std::move(scales);
  offset = std::move(offsets);
  loops = &LoopsOf<Loops>(tier);
  if (scale.size() > 1) {  // short periods are written out, so that a run is long enough for vectors
    const std::size_t period = scale.size();
    while (scale.size() < 256) {
      for (std::size_t i = 0; i < period; ++i) {
        scale.push_back(scale[i]);
        offset.push_back(offset[i]);
      }
    }
  }
  return GRAFFITI_OK;
}

void RescaleOp::Run(const float* x, float* y, int64_t lo, int64_t hi) const {
  const int64_t period = static_cast<int64_t>(scale.size());
  for (int64_t i = lo; i < hi;) {
    const int64_t first = period == 1 ? 0 : i % period, n = period == 1 ? hi - i : std::min(hi - i, period - first);
    loops->rescale(x + i, n, scale.data() + first, offset.data() + first, period == 1, y + i);
    i += n;
  }
}

int AveragePoolOp::Init(const graffiti_pool_shape& shape, int from_type, const graffiti_requantization* to,
                        bool divides, int tier) {
  if (!IsCodeType(from_type))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "average_pool takes integer codes, got type %d", from_type);
  if (int code = CheckPool(shape, "average_pool")) return code;
  int64_t count;
  if (!CheckedProduct({shape.pool_height, shape.pool_width}, INT32_MAX, &count))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "average_pool: a window has less than 2**31 elements");
  Requantizer checked;
  if (to == nullptr)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "average_pool needs a requantization: an average is rounded once");
  if (to->shift_count != 1)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "average_pool has one shift, got %lld",
                static_cast<long long>(to->shift_count));
  if (int code = checked.Init(to, 1)) return code;
  s = shape;
  x_type = from_type;
  y_type = to->type;
  shift = to->shift[0];
  divide = divides;
  division.rounding = to->rounding;
  division.low = to->low;
  division.high = to->high;
  kernels = &LoopsOf<AverageKernels>(tier);
  divisions.clear();
  if (TypeSize(x_type) == 1 && count <= kRowTaps) {
    const bool inside = s.pad_top == 0 && (s.out_height - 1) * s.stride_h + s.pool_height <= s.height &&
                        s.pad_left == 0 && (s.out_width - 1) * s.stride_w + s.pool_width <= s.width;
    divisions.resize(count + 1);
    for (int64_t taps = inside ? count : 1; taps <= count; ++taps) divisions[taps] = DivisionOf(taps);
  }
  // a window of many channels that is alone in its row is faster by itself
  const bool alone = s.out_width == 1 && (s.width > 1 || s.out_height == 1);
  by_rows = !divisions.empty() && (!alone || s.channels < 2 * kernels->lanes);
  blocks = by_rows ? 1 : CeilDiv(s.channels, kBlockChannels);
  return GRAFFITI_OK;
}

// See average/average.h; the sum is bounded by what its type holds.
Quotient AveragePoolOp::KindOf(int64_t count) const {
  const double largest = static_cast<double>(s.pool_height * s.pool_width) *
                         std::max(-static_cast<double>(TypeLow(x_type)), static_cast<double>(TypeHigh(x_type)));
  if (std::ldexp(largest, std::max(-shift, 0)) >= (1 << 22) || division.low < -(1 << 20) || division.high > (1 << 20) ||
      shift > 62)
    return Quotient::kDouble;
  const bool power_of_two = (count & (count - 1)) == 0;
  const bool ties = std::fmod(std::ldexp(static_cast<double>(count), shift), 2.0) ==
                    0.0;  // a quotient may end in one half only where the divisor is even
  const bool product = power_of_two
                           ? division.rounding == GRAFFITI_HALF_EVEN || (!ties && division.rounding != GRAFFITI_FLOOR)
                           : !ties && division.rounding != GRAFFITI_FLOOR;
  return product ? Quotient::kProduct : Quotient::kFloat;
}

Division AveragePoolOp::DivisionOf(int64_t taps) const {
  const int64_t count = divide ? taps : 1;
  Division d = division;
  d.kind = KindOf(count);
  d.divisor = std::ldexp(static_cast<double>(count), shift);
  if (TypeSize(x_type) == 1 && TypeSize(y_type) == 1)
    ChooseSmall(taps * TypeLow(x_type), taps * TypeHigh(x_type), count, shift, &d);
  return d;
}

void AveragePoolOp::RunRows(const uint8_t* x, uint8_t* y, int64_t lo, int64_t hi) const {
  const int64_t row_bytes = s.width * s.channels, image_bytes = s.height * row_bytes;
  AverageRow r{};
  r.row_bytes = row_bytes;
  r.channels = s.channels;
  r.divisions = divisions.data();
  while (lo < hi) {
    const int64_t first = lo % s.out_height, top = first * s.stride_h - s.pad_top;
    const uint8_t* image = x + lo / s.out_height * image_bytes;
    r.end = image + image_bytes;
    r.out = y + lo * s.out_width * s.channels * TypeSize(y_type);
    if (s.width == 1 && s.out_width == 1) {  // an image of one column lies in memory like one of one row
      r.base = image;
      r.rows = 1;
      r.width = s.height;
      r.window = s.pool_height;
      r.stride = s.stride_h;
      r.pad = -top;
      r.outputs = std::min(hi - lo, s.out_height - first);
      lo += r.outputs;
    } else {
      const int64_t first_row = std::max<int64_t>(top, 0);
      r.base = image + first_row * row_bytes;
      r.rows = std::min(top + s.pool_height, s.height) - first_row;
      r.width = s.width;
      r.window = s.pool_width;
      r.stride = s.stride_w;
      r.pad = s.pad_left;
      r.outputs = s.out_width;
      ++lo;
    }
    kernels->row(x_type, y_type, r);
  }
}

void AveragePoolOp::Run(const void* x, void* y, int64_t lo, int64_t hi) const {
  if (by_rows) return RunRows(static_cast<const uint8_t*>(x), static_cast<uint8_t*>(y), lo, hi);
  const int64_t size = TypeSize(x_type), pixel = s.channels * size, y_pixel = s.channels * TypeSize(y_type);
  Division made;
  int64_t known = -1;  // the taps that it is for
  for (int64_t unit = lo; unit < hi; ++unit) {
    const int64_t row = unit / blocks, channel = unit % blocks * kBlockChannels;
    const int64_t top = row % s.out_height * s.stride_h - s.pad_top;
    const int64_t first_row = std::max<int64_t>(top, 0), last_row = std::min(top + s.pool_height, s.height);
    const uint8_t* image = static_cast<const uint8_t*>(x) + row / s.out_height * s.height * s.width * pixel;
    AveragePixel p{};
    p.rows = last_row - first_row;
    p.row_bytes = s.width * pixel;
    p.pixel_bytes = pixel;
    p.end = image + s.height * s.width * pixel;
    p.channels = std::min(kBlockChannels, s.channels - channel);
    uint8_t* out = static_cast<uint8_t*>(y) + row * s.out_width * y_pixel + channel * TypeSize(y_type);
    for (int64_t q = 0; q < s.out_width; ++q, out += y_pixel) {
      const int64_t left = q * s.stride_w - s.pad_left;
      const int64_t first = std::max<int64_t>(left, 0);
      p.columns = std::min(left + s.pool_width, s.width) - first;
      p.base = image + (first_row * s.width + first) * pixel + channel * size;
      p.out = out;
      const int64_t taps = p.rows * p.columns;
      if (divisions.empty() && taps != known) {
        made = DivisionOf(taps);
        known = taps;
      }
      kernels->run(x_type, y_type, p, divisions.empty() ? made : divisions[taps]);
    }
  }
}

int QuantizeOp::Init(int32_t to_exponent, int mode, int32_t lowest, int32_t highest, int to_type, int tier) {
  if (!IsCodeType(to_type))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "quantize gives integer codes, got type %d", to_type);
  if (mode < GRAFFITI_HALF_EVEN || mode > GRAFFITI_FLOOR)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "a rounding mode is 0 to 3, got %d", mode);
  if (lowest > highest || lowest < TypeLow(to_type) || highest > TypeHigh(to_type))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "quantize saturates to low <= high within %s, got [%d, %d]",
                TypeName(to_type), lowest, highest);
  exponent = std::clamp(to_exponent, -600, 600);  // beyond, every float saturates or rounds alike
  rounding = mode;
  low = lowest;
  high = highest;
  type = to_type;
  loops = &LoopsOf<Loops>(tier);
  return GRAFFITI_OK;
}

bool QuantizeOp::Run(const float* x, void* y, int64_t lo, int64_t hi) const {
  const bool fast =
      rounding == GRAFFITI_HALF_EVEN && std::abs(exponent) <= 120 && low >= -(1 << 16) && high <= (1 << 16);
  const double scale = std::ldexp(1.0, -exponent);
  int32_t block[kBlock];
  bool nan = false;
  for (int64_t i = lo; i < hi; i += kBlock) {
    const int64_t n = std::min(kBlock, hi - i);
    nan |= fast ? loops->quantize(x + i, n, static_cast<float>(scale), low, high, block)
                : loops->quantize_any(rounding, x + i, n, scale, low, high, block);
    loops->store(type, block, n, At(y, type, i));
  }
  return !nan;
}

int DequantizeOp::Init(int64_t channel_count, int from_type, const int32_t* exponent, int64_t exponent_count,
                       int tier) {
  if (!IsCodeType(from_type))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "dequantize takes integer codes, got type %d", from_type);
  if (channel_count < 1 || exponent == nullptr || (exponent_count != 1 && exponent_count != channel_count))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "dequantize needs one exponent or one per channel (%lld), got %lld",
                static_cast<long long>(channel_count), static_cast<long long>(exponent_count));
  type = from_type;
  channels = exponent_count == 1 ? 1 : channel_count;
  for (int64_t i = 0; i < exponent_count; ++i) scale.push_back(std::ldexp(1.0, std::clamp(exponent[i], -600, 600)));
  loops = &LoopsOf<Loops>(tier);
  return GRAFFITI_OK;
}

void DequantizeOp::Run(const void* x, float* y, int64_t lo, int64_t hi) const {
  int32_t block[kBlock];
  for (int64_t i = lo; i < hi;) {
    const int64_t channel = i % channels, n = std::min({kBlock, hi - i, channels == 1 ? kBlock : channels - channel});
    loops->load(type, At(x, type, i), n, block);
    loops->dequantize(block, n, scale.data() + channel, channels == 1, y + i);
    i += n;
  }
}

}  // namespace graffiti
