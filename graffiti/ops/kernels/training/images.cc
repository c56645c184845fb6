// Forward product and input gradient: taps over a padded strip of an image.
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "loops/loops.h"
#include "training/interleave.h"
#include "training/panels.h"
#include "training/streams.h"

namespace graffiti {
namespace {

constexpr int64_t kStripBytes = 192 * 1024;  // gathered source that stays in the second-level cache
constexpr int64_t kBlockRows = 24;           // a multiple of every tile's rows
constexpr int64_t kCachedWeights = 512 * 1024;
constexpr int64_t kSlack = 64;               // bytes a tile may read past the end

struct Tap {
  int64_t h, w;                 // source position relative to the row's own
  int64_t kernel_h, kernel_w;   // which weights
};

// Segments [first, end): those of an output row that do not lie above or below the image.
struct Inside {
  std::size_t first, end;
  bool operator!=(const Inside& other) const { return first != other.first || end != other.end; }
};

// One phase of the output: rows (u, v) → output position (u * out_step_h + first_h, v * out_step_w + first_w).
struct Phase {
  int64_t first_h, first_w, count_h, count_w;
  std::vector<Tap> taps;
  std::vector<int32_t> row_in, row_out, segment_offsets;  // bytes, floats, bytes
  int64_t run = 0, steps = 0;                             // values and 4-byte steps of a segment
  std::vector<int64_t> chunks;  // first segments of the parts that fit 32-bit sums, and the end
  std::vector<int64_t> panel_weights;                     // where each panel's packed weights begin
  AlignedArray<uint8_t> weights;
  std::vector<int64_t> row_h;                             // output row of each row, from the strip's first on
  std::vector<Inside> inside;                             // of each output row; both ends fall from row to row
  bool cached = false;                                    // whether the weights stay in the cache
  AlignedArray<int32_t>
      inits;  // per panel, before each segment and behind the last: what the segments up to there begin with
  int32_t* init(std::size_t panel, std::size_t segments) const {
    return inits.get() + (panel * (segment_offsets.size() + 1) + segments) * kMaxTileColumns;
  }
};

class ImageProduct {
 public:
  // The source is [height][width][depth] of source_type; the output [out_h][out_w][columns].
  ImageProduct(int tier, int source_type, int64_t height, int64_t width, int64_t depth, int64_t out_h, int64_t out_w,
               int64_t columns, float scale)
      : tier_(tier),
        type_(source_type),
        height_(height),
        width_(width),
        depth_(depth),
        out_h_(out_h),
        out_w_(out_w),
        columns_(columns),
        scale_(scale),
        types_(OperandTypes(tier, source_type, GRAFFITI_S8)),
        stores_(LoopsOf<TrainingStores>(tier)),
        loops_(LoopsOf<Loops>(tier)) {
    element_ = types_ == DotTypes::kU8S8 ? 1 : 2;
    group_ = DotGroup(types_);
    offset_ = types_ == DotTypes::kU8S8 && source_type == GRAFFITI_S8;
    panels_ = Panels(tier, types_, columns);
  }

  int64_t row_step_h = 1, row_step_w = 1, out_step_h = 1, out_step_w = 1;
  bool flat = false;  // one tap without a stride: the source is what Gather() would make of it
  std::vector<Phase> phases;

  // weight(tap) gives the s8 weights of a tap: rows of the source's depth, `columns` contiguous values each.
  template <typename Weight>
  void Plan(int64_t batch, const float* out, const graffiti_parallel* parallel, const Weight& weight) {
    stream_ = Streams(out, batch * out_h_ * out_w_, columns_);
    low_h_ = low_w_ = high_h_ = high_w_ = 0;
    bool any = false;
    int64_t most_h = 0, most_w = 0;
    for (const Phase& phase : phases) {
      most_h = std::max(most_h, phase.count_h);
      most_w = std::max(most_w, phase.count_w);
      for (const Tap& tap : phase.taps) {
        low_h_ = any ? std::min(low_h_, tap.h) : tap.h;
        high_h_ = any ? std::max(high_h_, tap.h) : tap.h;
        low_w_ = any ? std::min(low_w_, tap.w) : tap.w;
        high_w_ = any ? std::max(high_w_, tap.w) : tap.w;
        any = true;
      }
    }
    strip_width_ = (std::max<int64_t>(most_w, 1) - 1) * row_step_w + high_w_ - low_w_ + 1;
    const int64_t row_bytes = strip_width_ * depth_ * element_;
    rows_ = std::max<int64_t>(1, most_h);
    while (rows_ > 1 && StripRows(rows_) * row_bytes > kStripBytes) rows_ = (rows_ + 1) / 2;
    most_h_ = most_h;
    for (Phase& phase : phases) Pack(phase, parallel, weight);
    in_place_ = flat && element_ == 1 && depth_ % group_ == 0 && phases[0].chunks.size() <= 2;
    for (const Panel& panel : panels_) in_place_ = in_place_ && panel.width >= kFlipVectors * DotLanes(tier_, types_);
  }

  int64_t Units(int64_t batch) const { return batch * StripsOfImage(); }

  void Run(const void* source, float* out, int64_t lo, int64_t hi) const {
    const int64_t strips = StripsOfImage();
    uint8_t* strip = Scratch(kScratchInput, StripRows(rows_) * strip_width_ * depth_ * element_ + kSlack);
    for (int64_t unit = lo; unit < hi; ++unit) {
      const int64_t image = unit / strips, first = unit % strips * rows_;
      const uint8_t* from = static_cast<const uint8_t*>(source) + image * height_ * width_ * depth_ * TypeSize(type_);
      float* to = out + image * out_h_ * out_w_ * columns_;
      const uint8_t* base = in_place_ ? from : strip;
      if (!in_place_) Gather(from, first, std::min(rows_, most_h_ - first), strip);
      Ahead ahead = unit + 1 < hi ? Source(source, unit + 1) : Ahead{};
      for (const Phase& phase : phases) {
        const int64_t rows = std::min(rows_, phase.count_h - first) * phase.count_w;
        if (rows <= 0) continue;
        ahead.row = CeilDiv(ahead.bytes, rows);
        RunPhase(phase, base, first, rows, ahead, to + first * out_step_h * out_w_ * columns_);
        ahead = {};
      }
    }
    if (stream_) FinishStreams();
  }

 private:
  // What the next unit reads: it is fetched while this one is multiplied, `row` bytes with each row of its first phase.
  struct Ahead {
    const uint8_t* from;
    int64_t bytes, row;
  };

  Ahead Source(const void* source, int64_t unit) const {
    const int64_t strips = StripsOfImage(), row = width_ * depth_ * TypeSize(type_),
                  first = unit % strips * rows_ * row_step_h + low_h_;
    const int64_t low = std::max<int64_t>(0, first), high = std::min(height_, first + StripRows(rows_));
    return {static_cast<const uint8_t*>(source) + (unit / strips * height_ + low) * row,
            std::max<int64_t>(0, high - low) * row, 0};
  }

  int64_t StripsOfImage() const { return CeilDiv(std::max<int64_t>(most_h_, 1), rows_); }
  int64_t StripRows(int64_t rows) const { return (rows - 1) * row_step_h + high_h_ - low_h_ + 1; }

  template <typename Weight>
  void Pack(Phase& phase, const graffiti_parallel* parallel, const Weight& weight) {
    std::sort(phase.taps.begin(), phase.taps.end(),
              [](const Tap& a, const Tap& b) { return a.h != b.h ? a.h < b.h : a.w < b.w; });
    // Taps that lie side by side in one source row make one run, where all rows of the window have the same.
    const int64_t taps = static_cast<int64_t>(phase.taps.size()), limit = SafeTerms(types_, type_, GRAFFITI_S8);
    int64_t merge = 1;
    for (int64_t m = 2; m <= taps; ++m) {
      bool all = taps % m == 0 && m * depth_ <= limit;
      for (int64_t t = 0; all && t < taps; ++t)
        all = t % m == 0 || (phase.taps[t].h == phase.taps[t - 1].h && phase.taps[t].w == phase.taps[t - 1].w + 1);
      if (all) merge = m;
    }
    // A run longer than one sum holds is cut into equal pieces of whole steps.
    const int64_t whole = merge * depth_, pieces = CeilDiv(whole, std::max<int64_t>(group_, limit / group_ * group_));
    phase.run = pieces == 1 ? whole : RoundUp(CeilDiv(whole, pieces), group_);
    phase.steps = CeilDiv(phase.run, group_);
    const int64_t runs = taps / merge, segments = runs * pieces;
    phase.segment_offsets.resize(segments);
    std::vector<int64_t> segment_h(segments);
    for (int64_t r = 0; r < runs; ++r)
      for (int64_t p = 0; p < pieces; ++p) {
        const Tap& tap = phase.taps[r * merge];
        phase.segment_offsets[r * pieces + p] = static_cast<int32_t>(
            (((tap.h - low_h_) * strip_width_ + tap.w - low_w_) * depth_ + p * phase.run) * element_);
        segment_h[r * pieces + p] = tap.h;
      }
    const int64_t per_chunk = std::max<int64_t>(1, limit / std::max<int64_t>(1, phase.steps * group_));
    for (int64_t s = 0; s < segments; s += per_chunk) phase.chunks.push_back(s);
    phase.chunks.push_back(segments);
    int64_t bytes = 0;
    for (const Panel& panel : panels_) {
      phase.panel_weights.push_back(bytes);
      bytes += segments * phase.steps * panel.width * 4;
    }
    phase.cached = segments * phase.steps * 4 * columns_ <= kCachedWeights;
    phase.weights = AllocateAligned<uint8_t>(bytes);
    phase.inits = AllocateAligned<int32_t>(static_cast<int64_t>(panels_.size()) * (segments + 1) * kMaxTileColumns);
    ParallelFor(parallel, static_cast<int64_t>(panels_.size()), 1, [&](int64_t lo, int64_t hi) {
      for (int64_t index = lo; index < hi; ++index) {
        const Panel& panel = panels_[index];
        uint8_t* out = phase.weights.get() + phase.panel_weights[index];
        for (int64_t segment = 0; segment < segments; ++segment) {
          const int64_t begin = segment % pieces * phase.run, end = std::min(begin + phase.run, whole);
          uint8_t* block = out + segment * phase.steps * panel.width * 4;
          for (int64_t i = begin; i < end;) {  // the part of the run that is one tap's
            const int8_t* rows = weight(phase.taps[segment / pieces * merge + i / depth_]) + i % depth_ * columns_;
            const int64_t count = std::min(end - i, depth_ - i % depth_), at = i - begin;
            if (at % group_ == 0 && (count % group_ == 0 || i + count == end)) {
              uint8_t* to = block + at / group_ * panel.width * 4;
              const Strips strip{panel.columns, panel.width, 0};
              if (element_ == 1)
                InterleaveRun<uint8_t>(stores_.interleaves, reinterpret_cast<const uint8_t*>(rows), panel.first, 0,
                                       count, columns_, CeilDiv(count, group_), 0, strip, to);
              else
                InterleaveRun<int16_t>(stores_.interleaves, rows, panel.first, 0, count, columns_,
                                       CeilDiv(count, group_), 0, strip, to);
            } else {  // groups that reach over two taps
              for (int64_t k = 0; k < count; ++k) {
                uint8_t* to = block + (at + k) / group_ * panel.width * 4 + (at + k) % group_ * element_;
                const int8_t* row = rows + k * columns_ + panel.first;
                for (int64_t c = 0; c < panel.columns; ++c) {
                  if (element_ == 1)
                    reinterpret_cast<int8_t*>(to)[c * 4] = row[c];
                  else
                    reinterpret_cast<int16_t*>(to)[c * 2] = row[c];
                }
              }
            }
            i += count;
          }
        }
        if (offset_) Correct(phase, panel, out, segments, phase.init(index, 0));
      }
    });
    for (int64_t u = 0; u < phase.count_h; ++u) {
      const auto source = [&](std::size_t segment) { return u * row_step_h + segment_h[segment]; };
      Inside inside{0, static_cast<std::size_t>(segments)};
      while (inside.first < inside.end && source(inside.first) < 0) ++inside.first;
      while (inside.first < inside.end && source(inside.end - 1) >= height_) --inside.end;
      phase.inside.push_back(inside);
    }
    for (int64_t u = 0; u < rows_; ++u)
      for (int64_t v = 0; v < phase.count_w; ++v) {
        phase.row_in.push_back(
            static_cast<int32_t>((u * row_step_h * strip_width_ + v * row_step_w) * depth_ * element_));
        phase.row_h.push_back(u);
        phase.row_out.push_back(static_cast<int32_t>(
            ((u * out_step_h + phase.first_h) * out_w_ + v * out_step_w + phase.first_w) * columns_));
      }
  }

  // -128 times the columns' sums up to each segment, by a row of ones.
  void Correct(const Phase& phase, const Panel& panel, const uint8_t* packed, int64_t segments, int32_t* inits) const {
    const DotKernel* kernel = KernelFor(panel, 1);
    const std::vector<int32_t> rows(kernel->rows, 0);
    const int32_t offset = 0;
    const std::vector<uint8_t> ones(phase.steps * 4 + kSlack, 1);
    alignas(64) int32_t sums[kMaxTileColumns];
    alignas(64) static const int32_t zeros[kMaxTileColumns] = {};
    TileArgs t{};
    t.base = ones.data();
    t.row_offsets = rows.data();
    t.segment_offsets = &offset;
    t.segments = 1;
    t.steps = phase.steps;
    t.init = zeros;
    t.out = sums;
    t.valid_rows = 1;
    t.valid_columns = panel.width;
    for (int64_t segment = 0; segment < segments; ++segment, inits += kMaxTileColumns) {
      t.b = packed + segment * phase.steps * panel.width * 4;
      kernel->run32(t);
      for (int64_t c = 0; c < panel.width; ++c) inits[kMaxTileColumns + c] = inits[c] - 128 * sums[c];
    }
  }

  void Convert(const uint8_t* from, int64_t n, uint8_t* to) const {
    if (element_ == 2)
      loops_.widen16(type_, from, n, reinterpret_cast<int16_t*>(to));
    else if (offset_)
      loops_.offset8(from, n, to);
    else
      std::memcpy(to, from, n);
  }

  void Gather(const uint8_t* image, int64_t first, int64_t rows, uint8_t* strip) const {
    const int64_t pixel = depth_ * element_, row_bytes = strip_width_ * pixel, zero = offset_ ? 0x80 : 0;
    const int64_t left = std::min(strip_width_, std::max<int64_t>(0, -low_w_));
    const int64_t begin = std::max<int64_t>(0, low_w_),
                  count = std::max<int64_t>(0, std::min(width_ - begin, strip_width_ - left));
    for (int64_t r = 0; r < StripRows(rows); ++r, strip += row_bytes) {
      const int64_t h = first * row_step_h + low_h_ + r;
      if (h < 0 || h >= height_) {
        std::memset(strip, static_cast<int>(zero), row_bytes);
        continue;
      }
      std::memset(strip, static_cast<int>(zero), left * pixel);
      Convert(image + (h * width_ + begin) * depth_ * TypeSize(type_), count * depth_, strip + left * pixel);
      std::memset(strip + (left + count) * pixel, static_cast<int>(zero), (strip_width_ - left - count) * pixel);
    }
  }

  // Rows in blocks that write whole output rows where the weights stay in the cache; else one panel after the other, so
  // that weights are read once.
  void RunPhase(const Phase& phase, const uint8_t* strip, int64_t strip_first, int64_t rows, const Ahead& ahead,
                float* out) const {
    const int64_t block = panels_.size() > 1 && phase.cached ? kBlockRows : rows;
    for (int64_t first = 0; first < rows; first += block)
      RunRows(phase, strip, strip_first, first, std::min(rows, first + block), ahead, out);
  }

  void RunRows(const Phase& phase, const uint8_t* strip, int64_t strip_first, int64_t first, int64_t end,
               const Ahead& ahead, float* out) const {
    alignas(64) int32_t sums[kMaxTileRows * kMaxTileColumns], init[kMaxTileColumns];
    const std::size_t segments = phase.segment_offsets.size();
    double wide[kMaxTileRows * kMaxTileColumns];
    const bool one = phase.chunks.size() <= 2;
    for (std::size_t index = 0; index < panels_.size(); ++index) {
      const Panel& panel = panels_[index];
      TileArgs t{};
      t.base = strip;
      t.steps = phase.steps;
      t.out = sums;
      t.out_stride = 4 * panel.width;
      t.valid_columns = panel.width;
      t.scale = scale_;
      t.flip = in_place_ && offset_ ? static_cast<int32_t>(0x80808080) : 0;
      for (int64_t row = first; row < end;) {
        const DotKernel* kernel = panel.kernels.back();
        int32_t last[kMaxTileRows];
        const auto inside = [&](int64_t r) { return phase.inside[strip_first + phase.row_h[r]]; };
        int64_t valid = std::min<int64_t>(kernel->rows, end - row);
        if (one && phase.cached)  // a tile ends where the segments outside the image change, if one more tile does not
                                  // fetch all weights once more
          while (inside(row + valid - 1) != inside(row)) --valid;
        t.row_offsets = phase.row_in.data() + row;
        if (valid <
            kernel->rows) {  // fewer rows: the smallest tile that has them; rows past the end repeat the last one
          kernel = KernelFor(panel, valid);
          for (int64_t r = 0; r < kernel->rows; ++r) last[r] = t.row_offsets[std::min(r, valid - 1)];
          t.row_offsets = last;
        }
        t.valid_rows = valid;
        if (index == 0)
          for (int64_t at = row * ahead.row, stop = at + valid * ahead.row; at < stop; at += 64)
            __builtin_prefetch(ahead.from + at, 0, 2);
        if (one) {  // all in registers; a phase without taps writes its zeros the same way
          const std::size_t low = inside(row + valid - 1).first, high = inside(row).end;
          t.segments = static_cast<int64_t>(high - low);
          t.segment_offsets = phase.segment_offsets.data() + low;
          t.b = phase.weights.get() + phase.panel_weights[index] + low * phase.steps * panel.width * 4;
          t.init = phase.init(index, high);
          if (low > 0) {
            const int32_t *all = t.init, *skipped = phase.init(index, low);
            for (int64_t c = 0; c < panel.width; ++c) init[c] = all[c] - skipped[c];
            t.init = init;
          }
          t.out = out + panel.first;
          t.out_offsets = phase.row_out.data() + row;
          t.valid_columns = panel.columns;
          (stream_ ? kernel->run_stream : kernel->run_float)(t);
          row += valid;
          continue;
        }
        std::memset(wide, 0, sizeof(double) * valid * panel.width);
        alignas(64) static const int32_t zeros[kMaxTileColumns] = {};
        for (std::size_t chunk = 0; chunk + 1 < phase.chunks.size(); ++chunk) {
          t.segments = phase.chunks[chunk + 1] - phase.chunks[chunk];
          t.segment_offsets = phase.segment_offsets.data() + phase.chunks[chunk];
          t.b = phase.weights.get() + phase.panel_weights[index] + phase.chunks[chunk] * phase.steps * panel.width * 4;
          t.init = chunk == 0 ? phase.init(index, segments) : zeros;
          kernel->run32(t);
          stores_.add(sums, valid * panel.width, wide);
        }
        for (int64_t r = 0; r < valid; ++r)
          stores_.scale64(wide + r * panel.width, panel.columns, scale_, out + phase.row_out[row + r] + panel.first);
        row += valid;
      }
    }
  }

  int tier_, type_;
  int64_t height_, width_, depth_, out_h_, out_w_, columns_;
  float scale_;
  DotTypes types_;
  const TrainingStores& stores_;
  const Loops& loops_;
  int64_t element_ = 1, group_ = 4;
  bool offset_ = false;
  bool stream_ = false;    // results go past the caches
  bool in_place_ = false;  // rows of the source are multiplied where they lie
  std::vector<Panel> panels_;
  int64_t low_h_ = 0, low_w_ = 0, high_h_ = 0, high_w_ = 0, strip_width_ = 1, rows_ = 1, most_h_ = 0;
};

// Bytes [rows][columns] to [columns][rows].
void Transpose(const uint8_t* from, int64_t rows, int64_t columns, uint8_t* to) {
  int64_t c = 0;
#if defined(__SSE2__)
  for (; c + 16 <= columns; c += 16) {
    int64_t r = 0;
    for (; r + 16 <= rows; r += 16) {
      __m128i a[16], b[16];
      for (int i = 0; i < 16; ++i)
        a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + (r + i) * columns + c));
      for (int i = 0; i < 8; ++i) {
        b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
        b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
      }
      for (int i = 0; i < 8; ++i) {
        a[2 * i] = _mm_unpacklo_epi8(b[i], b[i + 8]);
        a[2 * i + 1] = _mm_unpackhi_epi8(b[i], b[i + 8]);
      }
      for (int i = 0; i < 8; ++i) {
        b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
        b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
      }
      for (int i = 0; i < 8; ++i) {
        a[2 * i] = _mm_unpacklo_epi8(b[i], b[i + 8]);
        a[2 * i + 1] = _mm_unpackhi_epi8(b[i], b[i + 8]);
      }
      for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (c + i) * rows + r), a[i]);
    }
    for (; r < rows; ++r)
      for (int i = 0; i < 16; ++i) to[(c + i) * rows + r] = from[r * columns + c + i];
  }
#endif
  for (; c < columns; ++c)
    for (int64_t r = 0; r < rows; ++r) to[c * rows + r] = from[r * columns + c];
}

// A flat product: all pixels of all images in one row of pixels, cut into "images" of this many.
constexpr int64_t kFlatPixels = 192;

template <typename Weight>
void RunAll(ImageProduct& product, int64_t batch, const void* source, float* out, const graffiti_parallel* parallel,
            const Weight& weight) {
  product.Plan(batch, out, parallel, weight);
  ParallelFor(parallel, product.Units(batch), 1, [&](int64_t lo, int64_t hi) { product.Run(source, out, lo, hi); });
}

// A flat product: rows of `depth` values to rows of `columns`.
template <typename Weight>
void RunFlat(int tier, int type, int64_t rows, int64_t depth, int64_t columns, float scale, const void* source,
             float* out, const graffiti_parallel* parallel, const Weight& weight) {
  const int64_t whole = rows / kFlatPixels;
  for (int part = 0; part < 2; ++part) {  // whole groups, then the rest
    const int64_t pixels = part == 0 ? kFlatPixels : rows % kFlatPixels, batch = part == 0 ? whole : 1,
                  done = part == 0 ? 0 : whole * kFlatPixels;
    if (pixels == 0 || batch == 0) continue;
    ImageProduct product(tier, type, 1, pixels, depth, 1, pixels, columns, scale);
    product.flat = true;
    product.phases.push_back(Phase{});
    product.phases[0].count_h = 1;
    product.phases[0].count_w = pixels;
    product.phases[0].taps.push_back({0, 0, 0, 0});
    RunAll(product, batch, static_cast<const uint8_t*>(source) + done * depth * TypeSize(type), out + done * columns,
           parallel, weight);
  }
}

}  // namespace

int TrainingForward(const graffiti_conv_shape& s, int64_t batch, const void* x, int x_type, const int8_t* w,
                    float scale, float* y, int tier, const graffiti_parallel* parallel) {
  const auto weight = [&](const Tap& tap) {
    return w + (tap.kernel_h * s.kernel_width + tap.kernel_w) * s.channels * s.out_channels;
  };
  if (IsFlat(s)) {
    RunFlat(tier, x_type, batch * s.height * s.width, s.channels, s.out_channels, scale, x, y, parallel, weight);
    return GRAFFITI_OK;
  }
  ImageProduct product(tier, x_type, s.height, s.width, s.channels, s.out_height, s.out_width, s.out_channels, scale);
  product.row_step_h = s.stride_h;
  product.row_step_w = s.stride_w;
  Phase phase{};
  phase.count_h = s.out_height;
  phase.count_w = s.out_width;
  for (int64_t u = 0; u < s.kernel_height; ++u)
    for (int64_t v = 0; v < s.kernel_width; ++v)
      phase.taps.push_back({u * s.dilation_h - s.pad_top, v * s.dilation_w - s.pad_left, u, v});
  product.phases.push_back(std::move(phase));
  RunAll(product, batch, x, y, parallel, weight);
  return GRAFFITI_OK;
}

int TrainingInputGradient(const graffiti_conv_shape& s, int64_t batch, const void* dy, int dy_type, const int8_t* w,
                          float scale, float* dx, int tier, const graffiti_parallel* parallel) {
  const int64_t taps = s.kernel_height * s.kernel_width, size = s.channels * s.out_channels;
  uint8_t* transposed = Scratch(kScratchColumns, taps * size + kSlack);  // [tap][out_channels][channels]
  ParallelFor(parallel, taps, std::max<int64_t>(1, 16384 / size), [&](int64_t lo, int64_t hi) {
    for (int64_t t = lo; t < hi; ++t)
      Transpose(reinterpret_cast<const uint8_t*>(w) + t * size, s.channels, s.out_channels, transposed + t * size);
  });
  const auto weight = [&](const Tap& tap) {
    return reinterpret_cast<const int8_t*>(transposed) + (tap.kernel_h * s.kernel_width + tap.kernel_w) * size;
  };
  if (IsFlat(s)) {
    RunFlat(tier, dy_type, batch * s.height * s.width, s.out_channels, s.channels, scale, dy, dx, parallel, weight);
    return GRAFFITI_OK;
  }
  ImageProduct product(tier, dy_type, s.out_height, s.out_width, s.out_channels, s.height, s.width, s.channels, scale);
  product.out_step_h = s.stride_h;
  product.out_step_w = s.stride_w;
  for (int64_t a = 0; a < s.stride_h; ++a)
    for (int64_t b = 0; b < s.stride_w; ++b) {
      Phase phase{};
      phase.first_h = a;
      phase.first_w = b;
      phase.count_h = s.height > a ? CeilDiv(s.height - a, s.stride_h) : 0;
      phase.count_w = s.width > b ? CeilDiv(s.width - b, s.stride_w) : 0;
      if (phase.count_h == 0 || phase.count_w == 0) continue;
      for (int64_t u = 0; u < s.kernel_height; ++u)
        for (int64_t v = 0; v < s.kernel_width; ++v) {
          const int64_t h = a + s.pad_top - u * s.dilation_h, q = b + s.pad_left - v * s.dilation_w;
          if (FloorDiv(h, s.stride_h) * s.stride_h == h && FloorDiv(q, s.stride_w) * s.stride_w == q)
            phase.taps.push_back({FloorDiv(h, s.stride_h), FloorDiv(q, s.stride_w), u, v});
        }
      product.phases.push_back(std::move(phase));
    }
  RunAll(product, batch, dy, dx, parallel, weight);
  return GRAFFITI_OK;
}

}  // namespace graffiti
