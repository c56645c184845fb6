#include "conv.h"

#include <algorithm>
#include <cstring>

namespace graffiti {
namespace {

constexpr int64_t kFlatPixels = 96;           // pixels of one unit of a matrix product
constexpr int64_t kStripBytes = 96 * 1024;    // gathered input that stays in the second-level cache
constexpr int64_t kSlack = 64;                // bytes a vector may read past the end

}  // namespace

int Conv::Check(int kernel_type) const {
  const graffiti_conv_shape& s = s_;
  int64_t unused;
  constexpr int64_t kLimit = INT32_MAX;  // offsets inside an image are 32-bit
  if (!IsCodeType(x_type_) || !IsCodeType(kernel_type))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "conv takes integer codes, got x of type %s and a kernel of type %s",
                TypeName(x_type_), TypeName(kernel_type));
  for (int64_t v : {s.channels, s.out_channels, s.kernel_height, s.kernel_width, s.stride_h, s.stride_w, s.dilation_h,
                    s.dilation_w, s.groups, s.spread_h, s.spread_w})
    if (v < 1 || v > kLimit)
      return Fail(GRAFFITI_INVALID_ARGUMENT,
                  "conv: channels, window, strides, dilation, groups and spread are at least 1, got %lld",
                  static_cast<long long>(v));
  for (int64_t v : {s.height, s.width, s.out_height, s.out_width, s.pad_top, s.pad_left})
    if (v < 0 || v > kLimit)
      return Fail(GRAFFITI_INVALID_ARGUMENT, "conv: sizes and pads are not negative, got %lld",
                  static_cast<long long>(v));
  if (s.channels % s.groups || s.out_channels % s.groups)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "conv: %lld groups do not divide %lld input and %lld output channels",
                static_cast<long long>(s.groups), static_cast<long long>(s.channels),
                static_cast<long long>(s.out_channels));
  const int64_t rows = (std::max<int64_t>(s.out_height, 1) - 1) * s.stride_h + (s.kernel_height - 1) * s.dilation_h + 1;
  const int64_t columns =
      (std::max<int64_t>(s.out_width, 1) - 1) * s.stride_w + (s.kernel_width - 1) * s.dilation_w + 1;
  if (!CheckedProduct({s.height, s.width, s.channels, 4}, kLimit, &unused) ||
      !CheckedProduct({s.out_height, s.out_width, s.out_channels, 4}, kLimit, &unused) ||
      !CheckedProduct({rows, columns, std::max(s.channels, s.out_channels), 2}, kLimit, &unused) ||
      !CheckedProduct({s.kernel_height, s.kernel_width, s.channels / s.groups, s.out_channels, 4}, kLimit, &unused))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "conv: one image or the kernel takes more than 2 GiB");
  return GRAFFITI_OK;
}

int Conv::Create(const graffiti_conv_shape& shape, int x_type, const void* kernel, int kernel_type, const int32_t* bias,
                 const graffiti_requantization* to, int tier, std::unique_ptr<Conv>* conv) {
  std::unique_ptr<Conv> c(new Conv);
  c->s_ = shape;
  c->x_type_ = x_type;
  c->tier_ = tier;
  c->loops_ = &LoopsOf<Loops>(tier);
  c->depthwise_ = &LoopsOf<DepthwiseKernels>(tier);
  if (int code = c->Check(kernel_type)) return code;
  if (int code = c->to_.Init(to, shape.out_channels)) return code;
  const bool narrow_x = x_type == GRAFFITI_S8 || x_type == GRAFFITI_U8;
  const bool pairs = (narrow_x || x_type == GRAFFITI_S16) &&
                     (kernel_type == GRAFFITI_S8 || kernel_type == GRAFFITI_U8 || kernel_type == GRAFFITI_S16);
  if (!pairs) {
    c->method_ = Method::kGeneric;
  } else if (shape.groups == shape.channels && shape.channels > 1) {
    c->method_ = Method::kDepthwise;
    c->multiplier_ = shape.out_channels / shape.channels;
  } else {
    c->method_ = Method::kDot;
    c->types_ =
        narrow_x && kernel_type == GRAFFITI_S8 && HasDot(tier, DotTypes::kU8S8) ? DotTypes::kU8S8 : DotTypes::kS16S16;
  }
  c->fused_ = c->FusesRequantization(kernel, kernel_type, bias);
  c->Plan();
  switch (c->method_) {
    case Method::kDot: c->PackDot(kernel, kernel_type, bias); break;
    case Method::kDepthwise: c->PackDepthwise(kernel, kernel_type, bias); break;
    case Method::kGeneric: c->PackGeneric(kernel, kernel_type, bias); break;
  }
  *conv = std::move(c);
  return GRAFFITI_OK;
}

// Half of the last place is added to the accumulator, so that sum must provably stay in 32 bits; else the exact
// two-step path.
bool Conv::FusesRequantization(const void* kernel, int kernel_type, const int32_t* bias) const {
  if (method_ == Method::kGeneric || !to_.fits_registers()) return false;
  const int64_t taps = s_.kernel_height * s_.kernel_width * (s_.channels / s_.groups), x_low = TypeLow(x_type_),
                x_high = TypeHigh(x_type_);
  for (int64_t o = 0; o < s_.out_channels; ++o) {
    int64_t low = bias == nullptr ? 0 : bias[o], high = low + (int64_t{1} << 30);
    for (int64_t k = 0; k < taps; ++k) {
      const int64_t w = ValueAt(kernel, kernel_type, k * s_.out_channels + o);
      low += std::min(w * x_low, w * x_high);
      high += std::max(w * x_low, w * x_high);
    }
    high += (to_.shift(o) > 0 ? int64_t{1} << (to_.shift(o) - 1) : 0) - (int64_t{1} << 30);
    if (low < INT32_MIN || high > INT32_MAX) return false;
  }
  return true;
}

void Conv::Plan() {
  const graffiti_conv_shape& s = s_;
  const bool unpadded = s.pad_top == 0 && s.pad_left == 0 && s.spread_h == 1 && s.spread_w == 1 &&
                        (s.out_height - 1) * s.stride_h + (s.kernel_height - 1) * s.dilation_h < s.height &&
                        (s.out_width - 1) * s.stride_w + (s.kernel_width - 1) * s.dilation_w < s.width;
  if (method_ == Method::kGeneric) return;
  if (method_ == Method::kDot) {
    element_ = types_ == DotTypes::kU8S8 ? 1 : 2;
    channels_ = s.channels;
    flat_ = unpadded && s.groups == 1 && s.kernel_height == 1 && s.kernel_width == 1 && s.stride_h == 1 &&
            s.stride_w == 1 && s.out_height == s.height && s.out_width == s.width;
    direct_ = unpadded && x_type_ == (types_ == DotTypes::kU8S8 ? GRAFFITI_U8 : GRAFFITI_S16) &&
              (s.channels / s.groups) % DotGroup(types_) == 0;
  } else {
    element_ = TypeSize(x_type_);
    channels_ = s.channels * multiplier_;
    direct_ = unpadded && multiplier_ == 1 && s.channels % depthwise_->lanes == 0;
  }
  if (flat_) {
    pixel_offsets_.resize(kFlatPixels);
    for (int64_t p = 0; p < kFlatPixels; ++p) pixel_offsets_[p] = static_cast<int32_t>(p * channels_ * element_);
    gathered_bytes_ = kFlatPixels * channels_ * element_ + kSlack;
  } else {
    width_ = direct_ ? s.width : (s.out_width - 1) * s.stride_w + (s.kernel_width - 1) * s.dilation_w + 1;
    const int64_t row_bytes = width_ * channels_ * element_, window = (s.kernel_height - 1) * s.dilation_h + 1;
    strip_ = std::max<int64_t>(
        1, std::min<int64_t>(s.out_height, (kStripBytes / std::max<int64_t>(row_bytes, 1) - window) / s.stride_h + 1));
    gathered_bytes_ = ((strip_ - 1) * s.stride_h + window) * row_bytes + kSlack;
    pixel_offsets_.resize(strip_ * s.out_width);
    for (int64_t r = 0; r < strip_; ++r)
      for (int64_t q = 0; q < s.out_width; ++q)
        pixel_offsets_[r * s.out_width + q] =
            static_cast<int32_t>((r * s.stride_h * width_ + q * s.stride_w) * channels_ * element_);
  }
  // A segment is a run of values that are neighbours in memory and in the kernel: a kernel row, or one tap.
  const bool rows = method_ == Method::kDot && s.groups == 1 && s.dilation_w == 1;
  const int64_t per_row = rows ? 1 : s.kernel_width, length = (rows ? s.kernel_width : 1) * s.channels / s.groups;
  for (int64_t u = 0; u < s.kernel_height; ++u)
    for (int64_t v = 0; v < per_row; ++v)
      segment_offsets_.push_back(
          static_cast<int32_t>((u * s.dilation_h * width_ + v * s.dilation_w) * channels_ * element_));
  steps_ = PackedSteps(types_, length);
}

void Conv::PackDot(const void* kernel, int kernel_type, const int32_t* bias) {
  const graffiti_conv_shape& s = s_;
  const int64_t per_group = s.out_channels / s.groups;
  const int64_t segments = static_cast<int64_t>(segment_offsets_.size());
  const int64_t taps = s.kernel_height * s.kernel_width * (s.channels / s.groups), length = taps / segments;
  const int lanes = DotLanes(tier_, types_), widest = WidestDot(tier_, types_) / lanes;
  int64_t bytes = 0, parameters = 0;
  for (int64_t g = 0; g < s.groups; ++g) {
    int64_t vectors = CeilDiv(per_group, lanes), first = 0;
    for (int64_t left = CeilDiv(vectors, widest); left > 0;
         --left) {  // as equal as possible, and only widths that exist
      int64_t width = CeilDiv(vectors, left);
      while (FindDot(tier_, types_, static_cast<int>(width) * lanes, 1) == nullptr) ++width;
      Panel panel{g, g * per_group + first, std::min(width * lanes, per_group - first), bytes, parameters, {}};
      for (int rows = 1; rows <= kMaxTileRows; ++rows) {
        const DotKernel* k = FindDot(tier_, types_, static_cast<int>(width) * lanes, rows);
        if (panel.kernels.empty() || panel.kernels.back() != k) panel.kernels.push_back(k);
      }
      bytes += segments * steps_ * width * lanes * 4;
      parameters += width * lanes;
      first += panel.columns;
      vectors -= width;
      panels_.push_back(std::move(panel));
      if (vectors <= 0) break;
    }
  }
  weights_ = AllocateAligned<uint8_t>(bytes);
  parameters_.Allocate(parameters);
  const bool offset = types_ == DotTypes::kU8S8 && x_type_ == GRAFFITI_S8;
  std::vector<int64_t> sums(WidestDot(tier_, types_));
  for (const Panel& panel : panels_) {
    const Columns columns{kernel, kernel_type, s.out_channels, panel.first, panel.columns};
    const int64_t width = panel.kernels[0]->columns;
    PackColumns(types_, columns, segments, length, width, weights_.get() + panel.weights, sums.data());
    for (int64_t n = 0; n < panel.columns; ++n) {
      const int64_t channel = panel.first + n,
                    start = (bias == nullptr ? 0 : bias[channel]) - (offset ? 128 * sums[n] : 0);
      parameters_.Set(panel.parameters + n, start, fused_ ? &to_ : nullptr, channel);
    }
  }
}

void Conv::PackDepthwise(const void* kernel, int kernel_type, const int32_t* bias) {
  const int64_t lanes = depthwise_->lanes, taps = s_.kernel_height * s_.kernel_width,
                padded = RoundUp(channels_, lanes);
  weights_ = AllocateAligned<uint8_t>(padded * taps * 4);
  parameters_.Allocate(padded);
  int32_t* packed = reinterpret_cast<int32_t*>(weights_.get());
  for (int64_t o = 0; o < channels_; ++o) {
    for (int64_t t = 0; t < taps; ++t)
      packed[o / lanes * lanes * taps + t * lanes + o % lanes] =
          ValueAt(kernel, kernel_type, t * channels_ + o) & 0xffff;
    parameters_.Set(o, bias == nullptr ? 0 : bias[o], fused_ ? &to_ : nullptr, o);
  }
}

void Conv::PackGeneric(const void* kernel, int kernel_type, const int32_t* bias) {
  const int64_t count = s_.kernel_height * s_.kernel_width * (s_.channels / s_.groups) * s_.out_channels;
  weights_ = AllocateAligned<uint8_t>(4 * count);
  loops_->load(kernel_type, kernel, count, reinterpret_cast<int32_t*>(weights_.get()));
  parameters_.Allocate(s_.out_channels);
  if (bias != nullptr) std::memcpy(parameters_.init(0), bias, 4 * s_.out_channels);
}

// ---- running
// ----------------------------------------------------------------------------------------------------------
int64_t Conv::Units(int64_t batch) const {
  if (!flat_) return batch * s_.out_height;
  const int64_t pixels = batch * s_.out_height * s_.out_width;
  if (pixels == 0) return 0;
  return pixels <= kFlatPixels ? static_cast<int64_t>(panels_.size()) : CeilDiv(pixels, kFlatPixels);
}

void Conv::Run(const void* x, int64_t batch, void* y, int64_t y_stride, int64_t lo, int64_t hi) const {
  if (lo >= hi || s_.out_width == 0) return;
  const uint8_t* from = static_cast<const uint8_t*>(x);
  uint8_t* to = static_cast<uint8_t*>(y);
  const int64_t y_pixel = y_stride * TypeSize(to_.type());
  if (method_ == Method::kGeneric) return RunGeneric(from, to, y_pixel, lo, hi);
  if (flat_) return RunFlat(from, batch * s_.out_height * s_.out_width, to, y_pixel, lo, hi);
  RunImages(from, to, y_pixel, lo, hi);
}

void Conv::RunFlat(const uint8_t* x, int64_t pixels, uint8_t* y, int64_t y_pixel, int64_t lo, int64_t hi) const {
  const int64_t x_pixel = s_.channels * TypeSize(x_type_);
  const bool by_panel = pixels <= kFlatPixels;
  for (int64_t p = by_panel ? 0 : lo * kFlatPixels, end = by_panel ? pixels : std::min(pixels, hi * kFlatPixels);
       p < end; p += kFlatPixels) {
    const int64_t count = std::min(kFlatPixels, end - p);
    const uint8_t* base = x + p * x_pixel;
    if (!direct_) {
      uint8_t* gathered = Scratch(kScratchInput, gathered_bytes_);
      GatherFlat(base, count * s_.channels, gathered);
      base = gathered;
    }
    RunPixels(base, count, y + p * y_pixel, y_pixel, by_panel ? lo : 0, by_panel ? hi : panels_.size());
  }
}

void Conv::RunImages(const uint8_t* x, uint8_t* y, int64_t y_pixel, int64_t lo, int64_t hi) const {
  const graffiti_conv_shape& s = s_;
  const int64_t x_row = s.width * s.channels * TypeSize(x_type_);
  while (lo < hi) {
    const int64_t image = lo / s.out_height, row = lo % s.out_height;
    const int64_t rows = std::min({strip_, hi - lo, s.out_height - row});
    const uint8_t* base = x + image * s.height * x_row;
    if (direct_) {
      base += row * s.stride_h * x_row;
    } else {
      uint8_t* gathered = Scratch(kScratchInput, gathered_bytes_);
      GatherRows(base, row * s.stride_h - s.pad_top, (rows - 1) * s.stride_h + (s.kernel_height - 1) * s.dilation_h + 1,
                 gathered);
      base = gathered;
    }
    uint8_t* to = y + lo * s.out_width * y_pixel;
    if (method_ == Method::kDepthwise)
      RunDepthwisePixels(base, rows * s.out_width, to, y_pixel);
    else
      RunPixels(base, rows * s.out_width, to, y_pixel, 0, panels_.size());
    lo += rows;
  }
}

void Conv::GatherFlat(const uint8_t* x, int64_t elements, uint8_t* out) const {
  if (types_ == DotTypes::kS16S16)
    loops_->widen16(x_type_, x, elements, reinterpret_cast<int16_t*>(out));
  else if (x_type_ == GRAFFITI_S8)
    loops_->offset8(x, elements, out);
  else
    std::memcpy(out, x, elements);
}

// Rows first_row.. of the padded (and spread) image, in the form the kernels read.
void Conv::GatherRows(const uint8_t* image, int64_t first_row, int64_t rows, uint8_t* out) const {
  const graffiti_conv_shape& s = s_;
  const int64_t pixel = channels_ * element_, x_pixel = s.channels * TypeSize(x_type_), row_bytes = width_ * pixel;
  const bool offset = method_ == Method::kDot && types_ == DotTypes::kU8S8 && x_type_ == GRAFFITI_S8;
  const int zero = offset ? 0x80 : 0;
  const int64_t spread_height = s.height == 0 ? 0 : (s.height - 1) * s.spread_h + 1;
  const int64_t spread_width = s.width == 0 ? 0 : (s.width - 1) * s.spread_w + 1;
  const int64_t left = std::min(s.pad_left, width_),
                inside = std::max<int64_t>(0, std::min(width_ - left, spread_width));
  const auto copy = [&](const uint8_t* from, int64_t count, uint8_t* to) {  // count pixels
    if (method_ == Method::kDot) {
      GatherFlat(from, count * s.channels, to);
    } else if (multiplier_ == 1) {
      std::memcpy(to, from, count * x_pixel);
    } else {
      for (int64_t i = 0; i < count * s.channels; ++i)
        for (int64_t m = 0; m < multiplier_; ++m)
          std::memcpy(to + (i * multiplier_ + m) * element_, from + i * element_, element_);
    }
  };
  for (int64_t r = 0; r < rows; ++r, out += row_bytes) {
    const int64_t at = first_row + r;
    if (at < 0 || at >= spread_height || at % s.spread_h != 0) {
      std::memset(out, zero, row_bytes);
      continue;
    }
    const uint8_t* from = image + at / s.spread_h * s.width * x_pixel;
    std::memset(out, zero, left * pixel);
    if (s.spread_w == 1) {
      copy(from, inside, out + left * pixel);
    } else {
      std::memset(out + left * pixel, zero, inside * pixel);
      for (int64_t q = 0; q * s.spread_w < inside; ++q)
        copy(from + q * x_pixel, 1, out + (left + q * s.spread_w) * pixel);
    }
    std::memset(out + (left + inside) * pixel, zero, row_bytes - (left + inside) * pixel);
  }
}

void Conv::RunPixels(const uint8_t* base, int64_t pixels, uint8_t* y, int64_t y_pixel, std::size_t first_panel,
                     std::size_t last_panel) const {
  const int64_t segments = static_cast<int64_t>(segment_offsets_.size()), y_element = TypeSize(to_.type());
  const bool raw = to_.identity();
  alignas(64) int32_t sums[kMaxTileRows * kMaxTileColumns];
  for (std::size_t index = first_panel; index < last_panel; ++index) {
    const Panel& panel = panels_[index];
    const Epilogue epilogue = parameters_.From(panel.parameters, to_);
    const int64_t width = panel.kernels[0]->columns;
    TileArgs t{};
    t.base = base + panel.group * (s_.channels / s_.groups) * element_;
    t.segment_offsets = segment_offsets_.data();
    t.segments = segments;
    t.steps = steps_;
    t.b = weights_.get() + panel.weights;
    t.init = parameters_.init(panel.parameters);
    t.epilogue = &epilogue;
    t.valid_columns = panel.columns;
    const DotKernel* tall = panel.kernels.back();
    int32_t last_offsets[kMaxTileRows];
    for (int64_t p = 0; p < pixels;) {
      const DotKernel* kernel = tall;
      t.row_offsets = pixel_offsets_.data() + p;
      t.valid_rows = std::min<int64_t>(tall->rows, pixels - p);
      if (t.valid_rows <
          tall->rows) {  // the last pixels: the smallest tile that has them; rows past the end repeat the last one
        for (const DotKernel* k : panel.kernels)
          if (k->rows >= t.valid_rows) {
            kernel = k;
            break;
          }
        for (int64_t r = 0; r < kernel->rows; ++r) last_offsets[r] = t.row_offsets[std::min(r, t.valid_rows - 1)];
        t.row_offsets = last_offsets;
      }
      uint8_t* out = y + p * y_pixel + panel.first * y_element;
      if (fused_ || raw) {
        t.out = out;
        t.out_stride = y_pixel;
        (fused_ ? kernel->run8 : kernel->run32)(t);
      } else {
        t.out = sums;
        t.out_stride = 4 * width;
        kernel->run32(t);
        for (int64_t r = 0; r < t.valid_rows; ++r)
          to_.Apply(*loops_, sums + r * width, panel.columns, panel.first, out + r * y_pixel);
      }
      p += t.valid_rows;
    }
  }
}

void Conv::RunDepthwisePixels(const uint8_t* base, int64_t pixels, uint8_t* y, int64_t y_pixel) const {
  const Epilogue epilogue = parameters_.From(0, to_);
  DepthwiseArgs a{};
  a.base = base;
  a.pixel_offsets = pixel_offsets_.data();
  a.pixels = pixels;
  a.tap_offsets = segment_offsets_.data();
  a.taps = static_cast<int64_t>(segment_offsets_.size());
  a.weights = reinterpret_cast<const int32_t*>(weights_.get());
  a.init = parameters_.init(0);
  a.epilogue = fused_ ? &epilogue : nullptr;
  a.channels = channels_;
  a.out = y;
  a.out_stride = y_pixel;
  if (fused_ || to_.identity()) return depthwise_->run(x_type_, a);
  const int64_t chunk = std::max<int64_t>(1, 4096 / channels_);
  int32_t* sums = reinterpret_cast<int32_t*>(Scratch(kScratchSums, chunk * channels_ * 4));
  a.out = sums;
  a.out_stride = 4 * channels_;
  for (int64_t p = 0; p < pixels; p += chunk) {
    a.pixel_offsets = pixel_offsets_.data() + p;
    a.pixels = std::min(chunk, pixels - p);
    depthwise_->run(x_type_, a);
    for (int64_t r = 0; r < a.pixels; ++r)
      to_.Apply(*loops_, sums + r * channels_, channels_, 0, y + (p + r) * y_pixel);
  }
}

// Any types, no packing: for what no kernel takes (u16 and s32 codes).
void Conv::RunGeneric(const uint8_t* x, uint8_t* y, int64_t y_pixel, int64_t lo, int64_t hi) const {
  const graffiti_conv_shape& s = s_;
  const int64_t per_group = s.channels / s.groups, outs = s.out_channels / s.groups,
                image_bytes = s.height * s.width * s.channels * TypeSize(x_type_);
  const int32_t* kernel = reinterpret_cast<const int32_t*>(weights_.get());
  std::vector<int32_t> sums(s.out_channels);
  for (int64_t unit = lo; unit < hi; ++unit) {
    const uint8_t* image = x + unit / s.out_height * image_bytes;
    for (int64_t q = 0; q < s.out_width; ++q) {
      std::memcpy(sums.data(), parameters_.init(0), 4 * s.out_channels);
      for (int64_t u = 0; u < s.kernel_height; ++u)
        for (int64_t v = 0; v < s.kernel_width; ++v) {
          const int64_t row = unit % s.out_height * s.stride_h + u * s.dilation_h - s.pad_top,
                        column = q * s.stride_w + v * s.dilation_w - s.pad_left;
          if (row < 0 || column < 0 || row % s.spread_h || column % s.spread_w) continue;
          const int64_t h = row / s.spread_h, w = column / s.spread_w;
          if (h >= s.height || w >= s.width) continue;
          for (int64_t c = 0; c < s.channels; ++c) {
            const uint32_t value = static_cast<uint32_t>(ValueAt(image, x_type_, (h * s.width + w) * s.channels + c));
            const int32_t* weights = kernel + ((u * s.kernel_width + v) * per_group + c % per_group) * s.out_channels;
            for (int64_t o = c / per_group * outs, end = o + outs; o < end; ++o)
              sums[o] =
                  static_cast<int32_t>(static_cast<uint32_t>(sums[o]) + value * static_cast<uint32_t>(weights[o]));
          }
        }
      to_.Apply(*loops_, sums.data(), s.out_channels, 0, y + (unit * s.out_width + q) * y_pixel);
    }
  }
}

}  // namespace graffiti
