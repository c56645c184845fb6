// Weight gradient: pixels are the inner dimension. Channels of x become planes of pixels, dy becomes packed columns of pixel groups.
#include <cstring>
#include <mutex>

#include "training/panels.h"
#include "training/transposes.h"

namespace graffiti {
namespace {

constexpr int64_t kBlockPixels = 8192;  // pixels of one pass over the tiles: planes and columns of it stay in the cache
constexpr int64_t kTileRows = 24;       // rows of one unit of work, a multiple of every tile's
constexpr int64_t kSlack = 64;
constexpr int64_t kBlocksEach = 2;            // blocks for each thread, where threads take whole ones
constexpr int64_t kSumsApart = 1280 * 1024;  // bytes of all those blocks' own sums: they are merged one after the other
constexpr int64_t kFewPixels = 2048;          // of a block that is still worth its own additions

// One shape of the product after flat products have been cut into rows of pixels.
struct Shape {
  int64_t batch, height, width, channels, out_h, out_w, out_channels, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  int64_t last_width;  // of the last image, flat products only
};

class WeightProduct {
 public:
  WeightProduct(const Shape& s, int x_type, int dy_type, float scale, int tier, int64_t threads)
      : s_(s), x_type_(x_type), dy_type_(dy_type), scale_(scale), types_(OperandTypes(tier, x_type, dy_type)), stores_(GetTrainingStores(tier)) {
    element_ = types_ == DotTypes::kU8S8 ? 1 : 2;
    group_ = DotGroup(types_);
    offset_ = element_ == 1 && x_type == GRAFFITI_S8;
    panels_ = Panels(tier, types_, s.out_channels);
    for (const Panel& panel : panels_) {
      panel_at_.push_back(packed_width_);
      packed_width_ += panel.width;
    }
    // x position of tap v at output column q: q * stride + v * dilation - left = (q + shift) * stride + residue
    low_shift_ = INT64_MAX;
    int64_t high_shift = INT64_MIN;
    for (int64_t v = 0; v < s.kernel_w; ++v) {
      const int64_t at = v * s.dilation_w - s.pad_left, shift = FloorDiv(at, s.stride_w);
      low_shift_ = std::min(low_shift_, shift);
      high_shift = std::max(high_shift, shift);
      const int64_t residue = at - shift * s.stride_w;
      if (std::find(residues_.begin(), residues_.end(), residue) == residues_.end()) residues_.push_back(residue);
    }
    plane_w_ = s.out_w + high_shift - low_shift_;
    plane_h_ = (s.out_h - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
    steps_ = CeilDiv(s.out_w, group_);
    image_plane_ = plane_h_ * plane_w_;
    // Where all sums are few, threads take whole blocks, each with sums of its own: one meeting for the product in place of two for a block.
    apart_ = threads > 1 && s.kernel_h * s.kernel_w * s.channels * packed_width_ * 8 * kBlocksEach * threads <= kSumsApart;
    // Small images: the images of a block side by side are the inner dimension, so that a step is four images at one position.
    inner_ = s.last_width == s.width && s.out_w < 32 && s.batch >= 16;
    if (inner_) {
      const int64_t safe = SafeTerms(types_, x_type, dy_type), many = std::min(kBlockPixels / (s.out_h * s.out_w), safe);
      block_images_ = std::min(RoundUp(s.batch, group_), std::max<int64_t>(16, many / 16 * 16));
      if (apart_) block_images_ = std::min(block_images_, std::max<int64_t>(16, Shared(threads, s.out_h * s.out_w) / 16 * 16));
      plane_w_ = (s.out_w - 1) * s.stride_w + (s.kernel_w - 1) * s.dilation_w + 1;
      image_plane_ = plane_h_ * plane_w_;
      residues_.assign(1, 0);
      steps_ = block_images_ / group_;
      segments_ = s.out_h * s.out_w;
      rows_per_sum_ = std::max<int64_t>(1, std::min(segments_, safe / block_images_));
      return;
    }
    // images of one block: enough pixels to be worth it, few enough for 32-bit sums and the cache
    const int64_t pixels = s.out_h * steps_ * group_, safe = SafeTerms(types_, x_type, dy_type);
    rows_per_sum_ = std::max<int64_t>(1, std::min(s.out_h, safe / std::max<int64_t>(1, steps_ * group_)));
    block_images_ = std::max<int64_t>(1, std::min(kBlockPixels, safe) / std::max<int64_t>(1, pixels));
    block_images_ = std::min(block_images_, s.batch);
    if (apart_) block_images_ = std::min(block_images_, Shared(threads, pixels));
    segments_ = block_images_ * s.out_h;
    rows_per_sum_ = rows_per_sum_ < s.out_h ? rows_per_sum_ : segments_;
  }

  // Whether one output row alone may leave a 32-bit sum: then the caller cuts the rows.
  bool RowTooLong() const { return !inner_ && steps_ * group_ > SafeTerms(types_, x_type_, dy_type_); }

  void Run(const void* x, const void* dy, float* dw, const graffiti_parallel* parallel) {
    const int64_t rows = s_.kernel_h * s_.kernel_w * s_.channels, outs = s_.out_channels;
    plane_ = block_images_ * image_plane_;
    planes_ = static_cast<int64_t>(residues_.size()) * s_.channels;
    row_offsets_.resize(rows);
    segment_offsets_.resize(segments_);
    for (int64_t u = 0; u < s_.kernel_h; ++u)
      for (int64_t v = 0; v < s_.kernel_w; ++v)
        for (int64_t c = 0; c < s_.channels; ++c)
          row_offsets_[(u * s_.kernel_w + v) * s_.channels + c] = static_cast<int32_t>(TapOffset(u, v, c, plane_) * element_);
    for (int64_t i = 0; i < segments_; ++i) {
      const int64_t at = inner_ ? (i / s_.out_w * s_.stride_h * plane_w_ + i % s_.out_w * s_.stride_w) * block_images_
                                : i / s_.out_h * image_plane_ + i % s_.out_h * s_.stride_h * plane_w_;
      segment_offsets_[i] = static_cast<int32_t>(at * element_);
    }
    const int64_t blocks = CeilDiv(s_.batch, block_images_), count = rows * packed_width_;
    if (blocks == 1 && rows_per_sum_ >= segments_) {
      Block(x, dy, 0, Padded(), parallel, nullptr, dw);
      return;
    }
    double* sums = Zeros(kScratchSums, count);
    if (apart_ && blocks > 1) {  // whole numbers below 2**53: the order of the blocks does not matter
      std::mutex mutex;
      ParallelFor(parallel, blocks, 1, [&](int64_t lo, int64_t hi) {
        double* own = Zeros(kScratchWide, count);
        uint8_t* planes = Padded();
        for (int64_t block = lo; block < hi; ++block) Block(x, dy, block * block_images_, planes, nullptr, own, nullptr);
        const std::lock_guard<std::mutex> lock(mutex);
        for (int64_t i = 0; i < count; ++i) sums[i] += own[i];
      });
    } else {
      uint8_t* planes = Padded();
      for (int64_t block = 0; block < blocks; ++block) Block(x, dy, block * block_images_, planes, parallel, sums, nullptr);
    }
    ParallelFor(parallel, rows, 512, [&](int64_t lo, int64_t hi) {
      for (int64_t r = lo; r < hi; ++r)
        for (std::size_t i = 0; i < panels_.size(); ++i)
          stores_.scale64(sums + panel_at_[i] * rows + r * panels_[i].width, panels_[i].columns, scale_, dw + r * outs + panels_[i].first);
    });
  }

 private:
  static int64_t FloorDiv(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
  // Images of a block that leave kBlocksEach blocks for each thread, but not fewer than are worth it.
  int64_t Shared(int64_t threads, int64_t pixels) const {
    return std::max<int64_t>(1, std::max(s_.batch / (kBlocksEach * threads), kFewPixels / std::max<int64_t>(1, pixels)));
  }
  int64_t WidthOf(int64_t image) const { return image + 1 == s_.batch ? s_.last_width : s_.width; }
  int64_t OutWidthOf(int64_t image) const { return s_.last_width == s_.width ? s_.out_w : WidthOf(image); }

  const uint8_t* Image(const void* x, int64_t image, int type, int64_t pixels, int64_t channels) const {
    return static_cast<const uint8_t*>(x) + image * pixels * channels * TypeSize(type);
  }

  // Where tap (u, v) of channel c begins among the planes, in elements.
  int64_t TapOffset(int64_t u, int64_t v, int64_t c, int64_t plane) const {
    if (inner_) return c * plane + (u * s_.dilation_h * plane_w_ + v * s_.dilation_w) * block_images_;
    const int64_t at = v * s_.dilation_w - s_.pad_left, shift = FloorDiv(at, s_.stride_w);
    const int64_t residue = std::find(residues_.begin(), residues_.end(), at - shift * s_.stride_w) - residues_.begin();
    return (residue * s_.channels + c) * plane + u * s_.dilation_h * plane_w_ + shift - low_shift_;
  }

  // Planes and columns of a block with the images innermost.
  void GatherInner(const void* x, const void* dy, int64_t first, int64_t images, uint8_t* planes, uint8_t* columns, const graffiti_parallel* parallel) const {
    const uint8_t zero = offset_ ? 0x80 : 0;
    const int64_t x_image = s_.height * s_.width * s_.channels, dy_image = s_.out_h * s_.out_w * s_.out_channels;
    const uint8_t* xs = static_cast<const uint8_t*>(x) + first * x_image * TypeSize(x_type_);
    const uint8_t* dys = static_cast<const uint8_t*>(dy) + first * dy_image * TypeSize(dy_type_);
    ParallelFor(parallel, image_plane_, std::max<int64_t>(1, image_plane_ / 8), [&](int64_t lo, int64_t hi) {
      for (int64_t i = lo; i < hi; ++i) {
        const int64_t h = i / plane_w_ - s_.pad_top, w = i % plane_w_ - s_.pad_left;
        if (h < 0 || h >= s_.height || w < 0 || w >= s_.width) continue;
        const int64_t at = (h * s_.width + w) * s_.channels;
        uint8_t* to = planes + i * block_images_ * element_;
        if (element_ == 1)
          ToPlanes8(xs + at, images, x_image, s_.channels, zero, to, plane_);
        else if (x_type_ == GRAFFITI_U8)
          ToPlanes16(xs + at, images, x_image, s_.channels, reinterpret_cast<int16_t*>(to), plane_);
        else
          ToPlanes16(reinterpret_cast<const int8_t*>(xs) + at, images, x_image, s_.channels, reinterpret_cast<int16_t*>(to), plane_);
      }
    });
    ParallelFor(parallel, segments_, std::max<int64_t>(1, segments_ / 8), [&](int64_t lo, int64_t hi) {
      for (int64_t i = lo; i < hi; ++i)
        for (std::size_t k = 0; k < panels_.size(); ++k) {
          const Panel& panel = panels_[k];
          uint8_t* to = columns + (panel_at_[k] * segments_ + i * panel.width) * steps_ * 4;
          if (images < block_images_) std::memset(to, 0, steps_ * panel.width * 4);
          PackColumns(dys, i * s_.out_channels, images, dy_image, panel, to);
        }
    });
  }

  // dy from element `at` on, `pixels` of them `stride` apart, as packed columns.
  void PackColumns(const uint8_t* dy, int64_t at, int64_t pixels, int64_t stride, const Panel& panel, uint8_t* to) const {
    if (element_ == 1)
      ToColumns8(reinterpret_cast<const int8_t*>(dy) + at, pixels, stride, panel.first, panel.columns, panel.width, reinterpret_cast<int8_t*>(to));
    else if (dy_type_ == GRAFFITI_S16)
      ToColumns16(reinterpret_cast<const int16_t*>(dy) + at, pixels, stride, panel.first, panel.columns, panel.width, reinterpret_cast<int16_t*>(to));
    else
      ToColumns16(reinterpret_cast<const int8_t*>(dy) + at, pixels, stride, panel.first, panel.columns, panel.width, reinterpret_cast<int16_t*>(to));
  }

  static double* Zeros(ScratchSlot slot, int64_t count) {
    double* sums = reinterpret_cast<double*>(Scratch(slot, count * 8));
    std::memset(sums, 0, count * 8);
    return sums;
  }

  // Planes of a block, of this thread, that hold only the padding, which no image writes. Where x is signed, one plane more, of ones: it gives
  // the sums of dy that take the +128 of x out again.
  uint8_t* Padded() const {
    uint8_t* planes = Scratch(kScratchPlanes, (planes_ + (offset_ ? 1 : 0)) * plane_ * element_ + kSlack);
    std::memset(planes, offset_ ? 0x80 : 0, planes_ * plane_ * element_);
    if (offset_) std::memset(planes + planes_ * plane_, 1, plane_ + kSlack);
    return planes;
  }

  // The products of images [first, first + block_images_): added to `sums`, or, where there is one block only, right into `dw`.
  void Block(const void* x, const void* dy, int64_t first, uint8_t* planes, const graffiti_parallel* parallel, double* sums, float* dw) const {
    const int64_t rows = static_cast<int64_t>(row_offsets_.size()), row_tiles = CeilDiv(rows, kTileRows);
    const int64_t images = std::min(block_images_, s_.batch - first), used = inner_ ? segments_ : images * s_.out_h;
    uint8_t* columns = Scratch(kScratchColumns, packed_width_ * segments_ * steps_ * 4);
    const auto columns_of = [&](std::size_t i) { return columns + panel_at_[i] * segments_ * steps_ * 4; };
    if (inner_)
      GatherInner(x, dy, first, images, planes, columns, parallel);
    else
      ParallelFor(parallel, images, std::max<int64_t>(1, 1024 / std::max<int64_t>(1, s_.out_h * s_.out_w)), [&](int64_t lo, int64_t hi) {
        for (int64_t g = lo; g < hi; ++g) {
          Planes(x, first + g, planes + g * image_plane_ * element_);
          for (std::size_t i = 0; i < panels_.size(); ++i) Columns(dy, first + g, panels_[i], columns_of(i) + g * s_.out_h * panels_[i].width * steps_ * 4);
        }
      });
    std::vector<int32_t> corrections(packed_width_);
    if (offset_)
      for (std::size_t i = 0; i < panels_.size(); ++i) SumOfColumns(panels_[i], planes + planes_ * plane_, columns_of(i), used, &corrections[panel_at_[i]]);
    const int64_t units = row_tiles * static_cast<int64_t>(panels_.size());
    ParallelFor(parallel, units, std::max<int64_t>(1, units / 8), [&](int64_t lo, int64_t hi) {
      for (int64_t unit = lo; unit < hi; ++unit) {
        const std::size_t i = static_cast<std::size_t>(unit / row_tiles);
        const int64_t row = unit % row_tiles * kTileRows;
        Tiles(panels_[i], planes, columns_of(i), used, &corrections[panel_at_[i]], row, std::min(rows, row + kTileRows),
              sums == nullptr ? nullptr : sums + panel_at_[i] * rows, dw);
      }
    });
  }

  // All channels of one image into the planes of its place in the block.
  void Planes(const void* x, int64_t image, uint8_t* to) const {
    const uint8_t* from = Image(x, image, x_type_, s_.height * s_.width, s_.channels);
    const int64_t width = WidthOf(image);
    const uint8_t zero = offset_ ? 0x80 : 0;
    for (std::size_t index = 0; index < residues_.size(); ++index)
      for (int64_t r = 0; r < plane_h_; ++r) {
        uint8_t* row = to + (static_cast<int64_t>(index) * s_.channels * plane_ + r * plane_w_) * element_;
        const int64_t h = r - s_.pad_top;
        // columns u of the plane hold x at (u + low_shift) * stride + residue
        const int64_t residue = residues_[index];
        if (h < 0 || h >= s_.height) continue;
        const int64_t begin = std::max<int64_t>(0, -low_shift_);
        const int64_t end = std::min(plane_w_, FloorDiv(width - 1 - residue, s_.stride_w) - low_shift_ + 1);
        if (end <= begin) continue;
        const int64_t at = (h * s_.width + (begin + low_shift_) * s_.stride_w + residue) * s_.channels, stride = s_.stride_w * s_.channels;
        if (element_ == 1)
          ToPlanes8(from + at, end - begin, stride, s_.channels, zero, row + begin, plane_);
        else if (x_type_ == GRAFFITI_S16)
          ToPlanes16(reinterpret_cast<const int16_t*>(from) + at, end - begin, stride, s_.channels, reinterpret_cast<int16_t*>(row) + begin, plane_);
        else if (x_type_ == GRAFFITI_U8)
          ToPlanes16(from + at, end - begin, stride, s_.channels, reinterpret_cast<int16_t*>(row) + begin, plane_);
        else
          ToPlanes16(reinterpret_cast<const int8_t*>(from) + at, end - begin, stride, s_.channels, reinterpret_cast<int16_t*>(row) + begin, plane_);
      }
  }

  void Columns(const void* dy, int64_t image, const Panel& panel, uint8_t* to) const {
    const uint8_t* from = Image(dy, image, dy_type_, s_.out_h * s_.out_w, s_.out_channels);
    const int64_t width = OutWidthOf(image), row_bytes = steps_ * panel.width * 4;
    for (int64_t p = 0; p < s_.out_h; ++p, to += row_bytes) {
      const int64_t at = p * s_.out_w * s_.out_channels;
      if (width < s_.out_w) std::memset(to, 0, row_bytes);
      PackColumns(from, at, width, s_.out_channels, panel, to);
    }
  }

  // -128 times the sums of dy over the block, by a row of ones.
  void SumOfColumns(const Panel& panel, const uint8_t* ones, const uint8_t* columns, int64_t segments, int32_t* corrections) const {
    alignas(64) static const int32_t zeros[kMaxTileColumns] = {};
    const DotKernel* kernel = KernelFor(panel, 1);
    const std::vector<int32_t> rows(kernel->rows, 0);
    TileArgs t{};
    t.base = ones;
    t.row_offsets = rows.data();
    t.segment_offsets = segment_offsets_.data();
    t.segments = segments;
    t.steps = steps_;
    t.b = columns;
    t.init = zeros;
    t.out = corrections;
    t.valid_rows = 1;
    t.valid_columns = panel.width;
    kernel->run32(t);
    for (int64_t c = 0; c < panel.width; ++c) corrections[c] *= -128;
  }

  // Tiles of rows [row, end) of one panel: into `sums`, or, where there is one block only, right into `dw`.
  void Tiles(const Panel& panel, const uint8_t* planes, const uint8_t* columns, int64_t segments, const int32_t* corrections, int64_t row, int64_t end,
             double* sums, float* dw) const {
    alignas(64) int32_t tile[kMaxTileRows * kMaxTileColumns];
    alignas(64) static const int32_t zeros[kMaxTileColumns] = {};
    TileArgs t{};
    t.base = planes;
    t.steps = steps_;
    t.scale = scale_;
    t.out_stride = 4 * panel.width;
    while (row < end) {
      const DotKernel* kernel = panel.kernels.back();
      int32_t last[kMaxTileRows], out_offsets[kMaxTileRows];
      const int64_t valid = std::min<int64_t>(kernel->rows, end - row);
      t.row_offsets = row_offsets_.data() + row;
      if (valid < kernel->rows) {
        kernel = KernelFor(panel, valid);
        for (int64_t r = 0; r < kernel->rows; ++r) last[r] = t.row_offsets[std::min(r, valid - 1)];
        t.row_offsets = last;
      }
      t.valid_rows = valid;
      for (int64_t segment = 0; segment < segments; segment += rows_per_sum_) {
        t.segments = std::min(rows_per_sum_, segments - segment);
        t.segment_offsets = segment_offsets_.data() + segment;
        t.b = columns + segment * steps_ * panel.width * 4;
        t.init = segment == 0 ? corrections : zeros;
        if (sums == nullptr) {
          for (int64_t r = 0; r < valid; ++r) out_offsets[r] = static_cast<int32_t>((row + r) * s_.out_channels);
          t.out = dw + panel.first;
          t.out_offsets = out_offsets;
          t.valid_columns = panel.columns;
          kernel->run_float(t);
        } else {
          t.out = tile;
          t.valid_columns = panel.width;
          kernel->run32(t);
          stores_.add(tile, valid * panel.width, sums + row * panel.width);
        }
      }
      row += valid;
    }
  }

  Shape s_;
  int x_type_, dy_type_;
  float scale_;
  DotTypes types_;
  const TrainingStores& stores_;
  int64_t element_ = 1, group_ = 4;
  bool offset_ = false;
  std::vector<Panel> panels_;
  std::vector<int64_t> residues_;
  bool inner_ = false, apart_ = false;
  int64_t segments_ = 1, plane_ = 0, planes_ = 0, packed_width_ = 0;  // planes_: of all channels and residues, plane_ elements each
  std::vector<int64_t> panel_at_;                                      // first column of each panel among all
  std::vector<int32_t> row_offsets_, segment_offsets_;
  int64_t low_shift_ = 0, plane_w_ = 0, plane_h_ = 0, steps_ = 0, image_plane_ = 0, block_images_ = 1, rows_per_sum_ = 1;
};

}  // namespace

int TrainingWeightGradient(const graffiti_conv_shape& s, int64_t batch, const void* x, int x_type, const void* dy, int dy_type, float scale, float* dw,
                           int tier, const graffiti_parallel* parallel) {
  Shape shape{batch, s.height, s.width, s.channels, s.out_height, s.out_width, s.out_channels, s.kernel_height, s.kernel_width,
              s.stride_h, s.stride_w, s.dilation_h, s.dilation_w, s.pad_top, s.pad_left, s.width};
  const bool flat = s.kernel_height == 1 && s.kernel_width == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_top == 0 && s.pad_left == 0 &&
                    s.out_height == s.height && s.out_width == s.width;
  if (flat) {  // one row of pixels over all images, cut into pieces that a 32-bit sum holds
    const int64_t pixels = batch * s.height * s.width;
    const int64_t safe = SafeTerms(OperandTypes(tier, x_type, dy_type), x_type, dy_type) / 4 * 4;
    const int64_t piece = std::max<int64_t>(4, std::min<int64_t>({safe, int64_t{1024}, RoundUp(std::max<int64_t>(pixels, 1), 4)}));
    shape.batch = CeilDiv(pixels, piece);
    shape.height = shape.out_h = 1;
    shape.width = shape.out_w = piece;
    shape.last_width = pixels - (shape.batch - 1) * piece;
  }
  if (shape.batch == 0 || shape.out_h == 0 || shape.out_w == 0) {
    std::fill(dw, dw + s.kernel_height * s.kernel_width * s.channels * s.out_channels, 0.0f * scale);
    return GRAFFITI_OK;
  }
  WeightProduct product(shape, x_type, dy_type, scale, tier, parallel == nullptr ? 1 : parallel->threads);
  if (product.RowTooLong())
    return Fail(GRAFFITI_INVALID_ARGUMENT, "a weight gradient takes output rows of at most %lld pixels for these types, got %lld",
                static_cast<long long>(SafeTerms(OperandTypes(tier, x_type, dy_type), x_type, dy_type)), static_cast<long long>(shape.out_w));
  product.Run(x, dy, dw, parallel);
  return GRAFFITI_OK;
}

}  // namespace graffiti
