// Weight gradient: the values that one step of the tile primitive sums are those of neighbouring pixels, or of several
// images at one pixel.
//
// Both operands are interleaved alike, four values (two of 16 bits) of a channel side by side: dy in panels of the
// tile's columns, x in strips of channels, so that a tile of channels reads few lines of the cache at a step. What a
// window's tap sees begins further on in the same strip where a step is several images; where it is neighbouring
// pixels, there is a copy of x for each place within a step that a column of the window can begin at.
#include <cstring>
#include <mutex>

#include "training/interleave.h"
#include "training/panels.h"

namespace graffiti {
namespace {

constexpr int64_t kBlockSteps =
    1024;  // of one pass over the tiles, for each thread: a strip and a panel of it stay in the cache
constexpr int64_t kStrip = 16;                 // channels of a strip: a step of it is a line of the cache
constexpr int64_t kRunRows = 48;               // adjacent rows of one unit of work, a multiple of every tile's
constexpr int64_t kPiecePixels = 1024;         // of a row of pixels, where the product is one of matrices
constexpr int64_t kStepsTogether = 16;         // of all panels: their pixels stay in the nearest cache
constexpr int64_t kSlack = 4 * kMaxTileRows;   // what a tile may read behind its last row
constexpr int64_t kBlocksEach = 2;             // blocks for each thread, where threads take whole ones
constexpr int64_t kSumsApart = 1280 * 1024;  // bytes of all those blocks' own sums: they are merged one after the other
constexpr int64_t kFewSteps = 512;           // of a block that is still worth its own additions

// One shape of the product after flat products have been cut into rows of pixels.
struct Shape {
  int64_t batch, height, width, channels, out_h, out_w, out_channels, kernel_h, kernel_w, stride_h, stride_w,
      dilation_h, dilation_w, pad_top, pad_left;
  bool flat;           // a product of matrices: an image is a piece of one row of pixels
  int64_t last_width;  // of the last image, which may be narrower where the product is flat
};

class WeightProduct {
 public:
  WeightProduct(const Shape& s, int x_type, int dy_type, float scale, int tier, int64_t threads)
      : s_(s),
        x_type_(x_type),
        dy_type_(dy_type),
        scale_(scale),
        types_(OperandTypes(tier, x_type, dy_type)),
        stores_(LoopsOf<TrainingStores>(tier)),
        row_stride_(s.stride_h),
        column_stride_(s.stride_w) {
    group_ = DotGroup(types_);
    flip_ = types_ == DotTypes::kU8S8 && x_type == GRAFFITI_S8 ? 0x80 : 0;
    panels_ = Panels(tier, types_, s.out_channels);
    for (const Panel& panel : panels_) {
      panel_at_.push_back(packed_width_);
      packed_width_ += panel.width;
    }
    strip_ = std::min(kStrip, s.channels);
    // images, unless they fill the groups worse than pixels do by more than the copies are worth
    images_ = !s.flat && RoundUp(s.batch, group_) * s.out_w * 4 <= 5 * s.batch * RoundUp(s.out_w, group_);
    items_ = images_ ? CeilDiv(s.batch, group_) : s.batch;
    row_steps_ = images_ ? s.out_w : CeilDiv(s.out_w, group_);
    if (s.kernel_h == 1) std::swap(row_stride_, skip_h_);
    if (s.kernel_w == 1) std::swap(column_stride_, skip_w_);
    if (images_) {
      plane_w_ = (s.out_w - 1) * column_stride_ + (s.kernel_w - 1) * s.dilation_w + 1;
    } else {
      int64_t last = INT64_MIN;
      first_step_ = INT64_MAX;
      residues_.clear();
      for (int64_t v = 0; v < s.kernel_w; ++v) {
        const Column column = ColumnOf(v);
        first_step_ = std::min(first_step_, column.step);
        last = std::max(last, column.step);
        if (std::find(residues_.begin(), residues_.end(), column.residue) == residues_.end())
          residues_.push_back(column.residue);
      }
      plane_w_ = row_steps_ + last - first_step_;
    }
    // A block: several whole items, or some rows of one.
    const int64_t block_steps = kBlockSteps * std::min<int64_t>(threads, 4);
    block_rows_ = std::min(s.out_h, std::max<int64_t>(1, block_steps / row_steps_));
    block_items_ =
        block_rows_ < s.out_h ? 1 : std::min(items_, std::max<int64_t>(1, block_steps / (row_steps_ * s.out_h)));
    // Where all sums are few, threads take whole blocks, each with sums of its own: one meeting for the product in
    // place of two for a block.
    apart_ =
        threads > 1 && s.kernel_h * s.kernel_w * s.channels * packed_width_ * 8 * kBlocksEach * threads <= kSumsApart;
    if (apart_)
      block_items_ = std::min(block_items_, std::max<int64_t>(1, std::max(items_ / (kBlocksEach * threads),
                                                                          kFewSteps / (row_steps_ * s.out_h))));
    plane_h_ = (block_rows_ - 1) * row_stride_ + (s.kernel_h - 1) * s.dilation_h + 1;
    copy_ = block_items_ * plane_h_ * plane_w_ * strip_ * 4;
    // What a 32-bit sum is sure to hold: several rows, or a part of one.
    const int64_t safe = std::max<int64_t>(1, SafeTerms(types_, x_type, dy_type) / group_),
                  rows = block_items_ * block_rows_;
    const int64_t together = std::max<int64_t>(1, safe / row_steps_);
    for (int64_t row = 0; row < rows; row += together)
      for (int64_t step = 0; step < row_steps_; step += safe)
        chunks_.push_back({row, std::min(together, rows - row), step, std::min(safe, row_steps_ - step)});
  }

  // Of x in a block.
  int64_t StripBytes() const { return CeilDiv(s_.channels, strip_) * Copies() * copy_; }

  void Run(const void* x, const void* dy, float* dw, const graffiti_parallel* parallel) {
    const int64_t outs = s_.out_channels;
    for (int64_t first = 0; first < s_.channels; first += strip_)
      for (int64_t u = 0; u < s_.kernel_h; ++u)
        for (int64_t v = 0; v < s_.kernel_w; ++v)
          for (int64_t c = first; c < std::min(first + strip_, s_.channels); ++c) {
            row_offsets_.push_back(static_cast<int32_t>(first / strip_ * Copies() * copy_ +
                                                        u * s_.dilation_h * plane_w_ * strip_ * 4 + TapOffset(v) +
                                                        (c - first) * 4));
            row_outputs_.push_back(static_cast<int32_t>(((u * s_.kernel_w + v) * s_.channels + c) * outs));
          }
    for (std::size_t row = 0; row < row_offsets_.size(); ++row) {
      if (row == 0 || row_offsets_[row] != row_offsets_[row - 1] + 4 || runs_.back().rows == kRunRows)
        runs_.push_back({static_cast<int64_t>(row), 0});
      ++runs_.back().rows;
    }
    for (int64_t item = 0; item < block_items_; ++item)
      for (int64_t p = 0; p < block_rows_; ++p)
        segment_offsets_.push_back(static_cast<int32_t>((item * plane_h_ + p * row_stride_) * plane_w_ * strip_ * 4));
    const int64_t rows = static_cast<int64_t>(row_offsets_.size()), row_blocks = CeilDiv(s_.out_h, block_rows_),
                  blocks = CeilDiv(items_, block_items_) * row_blocks;
    const auto block = [&](int64_t i, const graffiti_parallel* threads, double* sums) {
      Block(x, dy, i / row_blocks * block_items_, i % row_blocks * block_rows_, threads, sums, dw);
    };
    if (blocks == 1 && chunks_.size() == 1) return block(0, parallel, nullptr);
    const int64_t count = rows * packed_width_;
    double* sums = Zeros(kScratchSums, count);
    if (apart_ && blocks > 1) {  // whole numbers below 2**53: the order of the blocks does not matter
      std::mutex mutex;
      ParallelFor(parallel, blocks, 1, [&](int64_t lo, int64_t hi) {
        double* own = Zeros(kScratchWide, count);
        for (int64_t i = lo; i < hi; ++i) block(i, nullptr, own);
        const std::lock_guard<std::mutex> lock(mutex);
        for (int64_t i = 0; i < count; ++i) sums[i] += own[i];
      });
    } else {
      for (int64_t i = 0; i < blocks; ++i) block(i, parallel, sums);
    }
    ParallelFor(parallel, rows, 512, [&](int64_t lo, int64_t hi) {
      for (int64_t r = lo; r < hi; ++r)
        for (std::size_t i = 0; i < panels_.size(); ++i)
          stores_.scale64(sums + panel_at_[i] * rows + r * panels_[i].width, panels_[i].columns, scale_,
                          dw + row_outputs_[r] + panels_[i].first);
    });
  }

 private:
  // Steps [step, step + steps) of each of `rows` rows of a block.
  struct Chunk {
    int64_t row, rows, step, steps;
  };

  // Where pixels are grouped: output column q sees, through column v of the window, x at (q + step * group) * stride +
  // residue.
  struct Column {
    int64_t step, residue;
  };

  Column ColumnOf(int64_t v) const {
    const int64_t at = v * s_.dilation_w - s_.pad_left, period = group_ * s_.stride_w, step = FloorDiv(at, period);
    return {step, at - step * period};
  }

  int64_t Copies() const { return static_cast<int64_t>(residues_.size()); }

  // Bytes from a strip's begin to what column v of the window sees first.
  int64_t TapOffset(int64_t v) const {
    if (images_) return v * s_.dilation_w * strip_ * 4;
    const Column column = ColumnOf(v);
    return (std::find(residues_.begin(), residues_.end(), column.residue) - residues_.begin()) * copy_ +
           (column.step - first_step_) * strip_ * 4;
  }

  // Rows that lie side by side: a strip's channels, and the next ones of a window's row where its columns do.
  struct Adjacent {
    int64_t first, rows;
  };

  static double* Zeros(ScratchSlot slot, int64_t count) {
    double* sums = reinterpret_cast<double*>(Scratch(slot, count * 8));
    std::memset(sums, 0, count * 8);
    return sums;
  }

  // Calls pack(from, bytes or 16-bit values to make) with `from` as what it points to.
  template <typename Function>
  void Typed(const void* from, int type, const Function& pack) const {
    if (types_ == DotTypes::kU8S8)
      pack(static_cast<const uint8_t*>(from), uint8_t{});
    else if (type == GRAFFITI_U8)
      pack(static_cast<const uint8_t*>(from), int16_t{});
    else if (type == GRAFFITI_S8)
      pack(static_cast<const int8_t*>(from), int16_t{});
    else
      pack(static_cast<const int16_t*>(from), int16_t{});
  }

  // `steps` steps of several images side by side, from value `at` of the first of them on; one of the images' `size`
  // values.
  template <typename From, typename To>
  void Images(const From* from, int64_t item, int64_t size, int64_t at, int64_t stride, int64_t steps, uint8_t flip,
              const Strips& strips, uint8_t* to, To) const {
    const From* images[4 / sizeof(To)];
    unsigned present = 0;
    for (int64_t i = 0; i < group_; ++i) {
      const int64_t image = item * group_ + i;
      images[i] = from + std::min(image, s_.batch - 1) * size + at;
      if (image < s_.batch) present |= 1u << i;
    }
    Interleave<To>(stores_.interleaves, images, stride, steps, present, flip, strips, to);
  }

  // Columns of an image of x; of one of dy, too, where the product is flat.
  int64_t WidthOf(int64_t image) const { return image + 1 == s_.batch ? s_.last_width : s_.width; }

  // Row r of x of an item, for a block that begins at output row `first_row`: pixels outside the image are zeros.
  void PackX(const void* x, int64_t item, int64_t first_row, int64_t r, uint8_t* to) const {
    const int64_t h = first_row * s_.stride_h + r * skip_h_ - s_.pad_top, step_bytes = strip_ * 4;
    const int64_t size = s_.height * s_.width * s_.channels;  // of an image
    const bool outside = h < 0 || h >= s_.height;
    const Strips strips{s_.channels, strip_, Copies() * copy_};
    if (images_) {
      const int64_t begin = outside ? plane_w_ : std::min(plane_w_, CeilDiv(s_.pad_left, skip_w_));
      const int64_t end = outside ? plane_w_ : std::min(plane_w_, CeilDiv(s_.pad_left + s_.width, skip_w_));
      FillStrips(strips, begin, flip_, to);
      Typed(x, x_type_, [&](const auto* from, auto kind) {
        Images(from, item, size, (h * s_.width + begin * skip_w_ - s_.pad_left) * s_.channels, skip_w_ * s_.channels,
               end - begin, flip_, strips, to + begin * step_bytes, kind);
      });
      FillStrips(strips, plane_w_ - end, flip_, to + end * step_bytes);
      return;
    }
    for (int64_t residue : residues_) {
      const int64_t shift =
          first_step_ * group_ * s_.stride_w + residue;  // column q of the copy is x at q * stride + shift
      const int64_t low = CeilDiv(std::max<int64_t>(0, -shift), s_.stride_w),
                    high = std::min(plane_w_ * group_, CeilDiv(WidthOf(item) - shift, s_.stride_w));
      Typed(x, x_type_, [&](const auto* from, auto kind) {
        InterleaveRun<decltype(kind)>(stores_.interleaves, from, item * size + (h * s_.width + shift) * s_.channels,
                                      low, outside ? low : high, s_.stride_w * s_.channels, plane_w_, flip_, strips,
                                      to);
      });
      to += copy_;
    }
  }

  // Output row p of an item of dy into the panels of columns, `at` steps into them: a few steps of all panels at a
  // time, so that each of its lines is fetched once.
  void PackDy(const void* dy, int64_t item, int64_t p, uint8_t* columns, int64_t panel_bytes, int64_t at) const {
    const int64_t size = s_.out_h * s_.out_w * s_.out_channels, width = s_.flat ? WidthOf(item) : s_.out_w;
    for (int64_t step = 0; step < row_steps_; step += kStepsTogether)
      for (std::size_t i = 0; i < panels_.size(); ++i) {
        const Panel& panel = panels_[i];
        const Strips strip{panel.columns, panel.width, 0};
        const int64_t steps = std::min(kStepsTogether, row_steps_ - step), pixel = images_ ? step : step * group_;
        const int64_t from_at = (p * s_.out_w + pixel) * s_.out_channels + panel.first;
        uint8_t* to = columns + panel_at_[i] * panel_bytes + (at + step) * panel.width * 4;
        Typed(dy, dy_type_, [&](const auto* from, auto kind) {
          if (images_) return Images(from, item, size, from_at, s_.out_channels, steps, 0, strip, to, kind);
          InterleaveRun<decltype(kind)>(stores_.interleaves, from, item * size + from_at, 0, width - pixel,
                                        s_.out_channels, steps, 0, strip, to);
        });
      }
  }

  // The products of some items, or some output rows of one: added to `sums`, or, where that is all there is, right into
  // `dw`.
  void Block(const void* x, const void* dy, int64_t first_item, int64_t first_row, const graffiti_parallel* parallel,
             double* sums, float* dw) const {
    const int64_t items = std::min(block_items_, items_ - first_item),
                  out_rows = std::min(block_rows_, s_.out_h - first_row), used = items * out_rows;
    const int64_t rows = static_cast<int64_t>(row_offsets_.size()), runs = static_cast<int64_t>(runs_.size());
    const int64_t panel_bytes = block_items_ * block_rows_ * row_steps_ * 4;  // of a column
    uint8_t* strips = Scratch(kScratchPlanes, StripBytes() + kSlack);
    uint8_t* columns = Scratch(kScratchColumns, packed_width_ * panel_bytes);
    const int64_t grain = std::max<int64_t>(1, 8192 / (row_steps_ * std::max(s_.channels, s_.out_channels)));
    const int64_t x_rows = (out_rows - 1) * row_stride_ + (s_.kernel_h - 1) * s_.dilation_h + 1;
    ParallelFor(parallel, items * (x_rows + out_rows), grain, [&](int64_t lo, int64_t hi) {
      for (int64_t i = lo; i < hi; ++i) {
        const int64_t item = i / (x_rows + out_rows), row = i % (x_rows + out_rows), p = row - x_rows;
        if (row < x_rows) {
          PackX(x, first_item + item, first_row, row, strips + (item * plane_h_ + row) * plane_w_ * strip_ * 4);
          continue;
        }
        PackDy(dy, first_item + item, first_row + p, columns, panel_bytes, (item * out_rows + p) * row_steps_);
      }
    });
    std::vector<int32_t> starts(chunks_.size() * packed_width_);
    if (flip_ != 0)
      for (std::size_t i = 0; i < panels_.size(); ++i)
        for (std::size_t k = 0; k < chunks_.size(); ++k)
          Correct(panels_[i], chunks_[k], used, columns + panel_at_[i] * panel_bytes,
                  &starts[k * packed_width_ + panel_at_[i]]);
    const int64_t units = runs * static_cast<int64_t>(panels_.size());
    ParallelFor(parallel, units, std::max<int64_t>(1, units / 8), [&](int64_t lo, int64_t hi) {
      for (int64_t unit = lo; unit < hi; ++unit) {
        const std::size_t i = static_cast<std::size_t>(unit / runs);
        Tiles(panels_[i], strips, columns + panel_at_[i] * panel_bytes, used, &starts[panel_at_[i]], runs_[unit % runs],
              sums == nullptr ? nullptr : sums + panel_at_[i] * rows, dw);
      }
    });
  }

  // The part of a chunk within a block of `used` rows, for a tile.
  bool Cut(const Panel& panel, const Chunk& chunk, int64_t used, const uint8_t* columns, TileArgs* t) const {
    t->segments = std::min(chunk.rows, used - chunk.row);
    t->steps = chunk.steps;
    t->b = columns + (chunk.row * row_steps_ + chunk.step) * panel.width * 4;
    return t->segments > 0;
  }

  // -128 times the sums of dy over a chunk: they take the +128 of a signed x out again.
  void Correct(const Panel& panel, const Chunk& chunk, int64_t used, const uint8_t* columns, int32_t* starts) const {
    alignas(64) static const int32_t zeros[kMaxTileColumns] = {};
    static const std::vector<uint8_t> ones(4 * kMaxTileRows, 1);
    const std::vector<int32_t> none(chunk.rows, 0);
    TileArgs t{};
    if (!Cut(panel, chunk, used, columns, &t)) return;
    t.base = ones.data();
    t.row_offsets = t.segment_offsets = none.data();
    t.step_stride = 0;
    t.init = zeros;
    t.out = starts;
    t.valid_rows = 1;
    t.valid_columns = panel.width;
    KernelFor(panel, 1)->run32_adjacent(t);
    for (int64_t c = 0; c < panel.width; ++c) starts[c] *= -128;
  }

  // Tiles of adjacent rows of one panel: into `sums`, or, where there is one chunk of one block only, right into `dw`.
  void Tiles(const Panel& panel, const uint8_t* strips, const uint8_t* columns, int64_t used, const int32_t* starts,
             const Adjacent& run, double* sums, float* dw) const {
    alignas(64) int32_t tile[kMaxTileRows * kMaxTileColumns];
    TileArgs t{};
    t.step_stride = (images_ ? column_stride_ : 1) * strip_ * 4;
    t.scale = scale_;
    for (int64_t row = run.first, end = run.first + run.rows; row < end; row += t.valid_rows) {
      const DotKernel* kernel = KernelFor(panel, end - row);
      t.valid_rows = std::min<int64_t>(kernel->rows, end - row);
      t.row_offsets = row_offsets_.data() + row;
      for (std::size_t k = 0; k < chunks_.size() && Cut(panel, chunks_[k], used, columns, &t); ++k) {
        t.base = strips + chunks_[k].step * t.step_stride;
        t.segment_offsets = segment_offsets_.data() + chunks_[k].row;
        t.init = starts + k * packed_width_;
        if (sums == nullptr) {
          t.out = dw + panel.first;
          t.out_offsets = row_outputs_.data() + row;
          t.valid_columns = panel.columns;
          kernel->run_float_adjacent(t);
        } else {
          t.out = tile;
          t.out_stride = 4 * panel.width;
          t.valid_columns = panel.width;
          kernel->run32_adjacent(t);
          stores_.add(tile, t.valid_rows * panel.width, sums + row * panel.width);
        }
      }
    }
  }

  Shape s_;
  int x_type_, dy_type_;
  float scale_;
  DotTypes types_;
  const TrainingStores& stores_;
  int64_t group_ = 4;  // values that a step sums
  uint8_t flip_ = 0;   // a signed x plus 128
  std::vector<Panel> panels_;
  std::vector<int64_t> panel_at_;  // first column of each panel among all
  std::vector<Chunk> chunks_;
  bool images_ = false, apart_ = false;  // a step is several images; threads take whole blocks
  // An item is what has steps of its own: an image, or as many as a step sums. strip_: channels; copy_: bytes of one
  // strip of one residue.
  int64_t row_stride_, column_stride_;  // between what neighbouring outputs see, among what is packed: without the rows
                                        // and columns of x that no window of one sees
  int64_t skip_h_ = 1, skip_w_ = 1;     // rows and columns of x between neighbours that are packed
  int64_t packed_width_ = 0, strip_ = 1, items_ = 1, row_steps_ = 1, plane_h_ = 1, plane_w_ = 1, block_rows_ = 1,
          block_items_ = 1, copy_ = 0;
  int64_t first_step_ = 0;              // where pixels are grouped, the least of all columns'
  std::vector<int64_t> residues_ = {0};
  std::vector<Adjacent> runs_;
  std::vector<int32_t> row_offsets_, row_outputs_, segment_offsets_;  // bytes, floats, bytes
};

}  // namespace

int TrainingWeightGradient(const graffiti_conv_shape& s, int64_t batch, const void* x, int x_type, const void* dy,
                           int dy_type, float scale, float* dw, int tier, const graffiti_parallel* parallel) {
  Shape shape{batch,          s.height,        s.width,        s.channels, s.out_height, s.out_width,
              s.out_channels, s.kernel_height, s.kernel_width, s.stride_h, s.stride_w,   s.dilation_h,
              s.dilation_w,   s.pad_top,       s.pad_left,     IsFlat(s),  s.width};
  if (shape.flat) {  // one row of pixels over all images, cut into equal pieces, the last one a little shorter
    const int64_t pixels = batch * s.height * s.width;
    const int64_t pieces = std::max<int64_t>(1, CeilDiv(pixels, kPiecePixels)),
                  piece = std::max<int64_t>(4, RoundUp(CeilDiv(pixels, pieces), 4));
    shape.batch = CeilDiv(pixels, piece);
    shape.height = shape.out_h = 1;
    shape.width = shape.out_w = piece;
    shape.last_width = pixels - (shape.batch - 1) * piece;
  }
  if (shape.batch == 0 || shape.out_h == 0 || shape.out_w == 0) {
    std::fill(dw, dw + s.kernel_height * s.kernel_width * s.channels * s.out_channels, 0.0f * scale);
    return GRAFFITI_OK;
  }
  WeightProduct product(shape, x_type, dy_type, scale, tier,
                        parallel == nullptr ? 1 : std::max<int64_t>(1, parallel->threads));
  if (product.StripBytes() > INT32_MAX)
    return Fail(GRAFFITI_INVALID_ARGUMENT,
                "training products: the rows that one output row of a weight gradient sees take more than 2 GiB");
  product.Run(x, dy, dw, parallel);
  return GRAFFITI_OK;
}

}  // namespace graffiti
