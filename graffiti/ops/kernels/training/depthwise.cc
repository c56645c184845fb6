#include "training/depthwise.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "arch.h"
#include "common.h"
#include "training/streams.h"

namespace graffiti {
namespace {

// The loops of a tier, or of one with narrower vectors that this many channels fill.
const DepthwiseLoops& LoopsFor(int tier, int64_t channels) {
  for (; tier > GRAFFITI_TIER_SCALAR; --tier) {
    const DepthwiseLoops& loops = LoopsOf<DepthwiseLoops>(tier);
    if (TierSupported(tier) && loops.lanes <= channels) return loops;
  }
  return LoopsOf<DepthwiseLoops>(GRAFFITI_TIER_SCALAR);
}

int64_t Magnitude(int type) { return std::max(-TypeLow(type), TypeHigh(type)); }

// The kernel as [tap][multiplier][channel], each in the low half of 32 bits.
std::vector<int32_t> Planes(const int8_t* kernel, int64_t taps, int64_t channels, int64_t multiplier) {
  std::vector<int32_t> planes(taps * channels * multiplier);
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t m = 0; m < multiplier; ++m)
      for (int64_t c = 0; c < channels; ++c)
        planes[(t * multiplier + m) * channels + c] = kernel[(t * channels + c) * multiplier + m] & 0xffff;
  return planes;
}

// `pixels` of an image [pixel][channel][multiplier] as [pixel][multiplier][channel].
template <typename T>
void Unmix(const T* dy, int64_t pixels, int64_t channels, int64_t multiplier, T* out) {
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t m = 0; m < multiplier; ++m)
      for (int64_t c = 0; c < channels; ++c)
        out[(p * multiplier + m) * channels + c] = dy[(p * channels + c) * multiplier + m];
}

// dy of the images [lo, hi) with its channels innermost: the tensor itself, or a copy in `room`.
const char* UnmixedImages(const void* dy, int type, const graffiti_conv_shape& s, int64_t lo, int64_t hi,
                          std::vector<char>* room) {
  const int64_t size = TypeSize(type), image = s.out_height * s.out_width * s.out_channels,
                multiplier = s.out_channels / s.channels;
  const char* first = static_cast<const char*>(dy) + lo * image * size;
  if (multiplier == 1) return first;
  room->resize((hi - lo) * image * size);
  const int64_t pixels = (hi - lo) * s.out_height * s.out_width;
  if (size == 1)
    Unmix(reinterpret_cast<const int8_t*>(first), pixels, s.channels, multiplier,
          reinterpret_cast<int8_t*>(room->data()));
  else
    Unmix(reinterpret_cast<const int16_t*>(first), pixels, s.channels, multiplier,
          reinterpret_cast<int16_t*>(room->data()));
  return room->data();
}

// The taps of one axis for every output of a pass, those inside the image only. Forward: output p reads input p*stride
// + k*dilation - pad. Input gradient: input i is reached by output p where that is i.
struct Axis {
  std::vector<Tap> taps;  // a: the place that is read; w: which tap of the window
  std::vector<int64_t> first{0};

  Axis(bool forward, int64_t inputs, int64_t outputs, int64_t window, int64_t stride, int64_t dilation, int64_t pad) {
    for (int64_t at = 0; at < (forward ? outputs : inputs); ++at) {
      for (int64_t k = 0; k < window; ++k) {
        const int64_t place = forward ? at * stride + k * dilation - pad : at + pad - k * dilation;
        if (forward ? place >= 0 && place < inputs : place >= 0 && place % stride == 0 && place / stride < outputs)
          taps.push_back({forward ? place : place / stride, k});
      }
      first.push_back(static_cast<int64_t>(taps.size()));
    }
  }
};

// The columns of an axis in steps of `step`, in runs that read the same taps, each `a_step` further.
std::vector<Run> Runs(const Axis& columns, int64_t step, int64_t a_step) {
  std::vector<Run> runs;
  const int64_t count = static_cast<int64_t>(columns.first.size()) - 1;
  const auto continues = [&](int64_t before, int64_t at) {
    const int64_t taps = columns.first[at + 1] - columns.first[at];
    bool same = taps == columns.first[before + 1] - columns.first[before];
    for (int64_t t = 0; same && t < taps; ++t) {
      const Tap &a = columns.taps[columns.first[before] + t], &b = columns.taps[columns.first[at] + t];
      same = b.w == a.w && b.a == a.a + a_step;
    }
    return same;
  };
  for (int64_t phase = 0; phase < step; ++phase)
    for (int64_t at = phase; at < count; at += step) {
      if (at == phase || !continues(at - step, at)) runs.push_back({at, 0, columns.first[at], columns.first[at + 1]});
      ++runs.back().count;
    }
  return runs;
}

int GatherPass(bool forward, const graffiti_conv_shape& s, int64_t batch, const void* a, int type, const int8_t* kernel,
               float scale, float* out, const DepthwiseLoops& loops, const graffiti_parallel* parallel) {
  const int64_t channels = s.channels, multiplier = s.out_channels / channels, size = TypeSize(type);
  const std::vector<int32_t> w = Planes(kernel, s.kernel_height * s.kernel_width, channels, multiplier);
  const Axis rows(forward, s.height, s.out_height, s.kernel_height, s.stride_h, s.dilation_h, s.pad_top);
  Axis columns(forward, s.width, s.out_width, s.kernel_width, s.stride_w, s.dilation_w, s.pad_left);
  const int64_t planes = forward ? 1 : multiplier,
                out_planes = forward ? multiplier : 1;  // of what is read and of what is written at a pixel
  for (Tap& tap : columns.taps) tap = {tap.a * planes * channels, tap.w * multiplier * channels};
  const int64_t column_step = forward ? 1 : s.stride_w, a_step = (forward ? s.stride_w : 1) * planes * channels;
  const std::vector<Run> runs = Runs(columns, column_step, a_step);
  const int64_t read_width = forward ? s.width : s.out_width, read_height = forward ? s.height : s.out_height;
  const int64_t height = forward ? s.out_height : s.height, width = forward ? s.out_width : s.width;
  const int64_t terms = s.kernel_height * s.kernel_width * planes;
  const bool wide = terms > INT32_MAX / (Magnitude(type) * 128),
             stream = !wide && out_planes == 1 && Streams(out, batch * height * width, channels);
  ParallelFor(parallel, batch * height, std::max<int64_t>(1, 4096 / std::max<int64_t>(1, width * channels)),
              [&](int64_t lo, int64_t hi) {
                std::vector<char> room;
                std::vector<Tap> taps;
                int64_t held = -1;
                const char* image = nullptr;
                for (int64_t row = lo; row < hi; ++row) {
                  const int64_t n = row / height, at = row % height;
                  if (n != held) {
                    image = forward ? static_cast<const char*>(a) + n * read_height * read_width * channels * size
                                    : UnmixedImages(a, type, s, n, n + 1, &room);
                    held = n;
                  }
                  GatherArgs g{};
                  g.a = image;
                  g.w = w.data();
                  g.taps = columns.taps.data();
                  g.runs = runs.data();
                  g.run_count = static_cast<int64_t>(runs.size());
                  g.column_step = column_step;
                  g.a_step = a_step;
                  g.stream = stream;
                  g.channels = channels;
                  g.scale = scale;
                  g.out_step = out_planes;
                  g.out_stride = g.out_step * channels;
                  for (int64_t m = 0; m < out_planes; ++m) {
                    taps.clear();
                    for (int64_t t = rows.first[at]; t < rows.first[at + 1]; ++t)
                      for (int64_t plane = 0; plane < planes; ++plane)
                        taps.push_back({(rows.taps[t].a * read_width * planes + plane) * channels,
                                        (rows.taps[t].w * s.kernel_width * multiplier + plane + m) * channels});
                    g.rows = taps.data();
                    g.row_count = static_cast<int64_t>(taps.size());
                    g.out = out + row * width * g.out_stride + m;
                    loops.gather[type][wide](g);
                  }
                }
                if (stream) FinishStreams();
              });
  return GRAFFITI_OK;
}

// sums[tap][multiplier][channel] += x * dy over the outputs [first, end) of row p of one image; dy with its channels
// innermost.
void AddTaps(const graffiti_conv_shape& s, const char* x, int x_type, const char* dy, int dy_type, int64_t p,
             int64_t first, int64_t end, const DepthwiseLoops& loops, int32_t* sums) {
  const int64_t channels = s.channels, multiplier = s.out_channels / channels;
  CorrelateArgs g{};
  g.tap_x = s.dilation_w * channels;
  g.tap_sums = s.out_channels;
  g.x_stride = s.stride_w * channels;
  g.dy_stride = s.out_channels;
  g.channels = channels;
  for (int64_t u = 0; u < s.kernel_height; ++u) {
    const int64_t h = p * s.stride_h + u * s.dilation_h - s.pad_top;
    if (h < 0 || h >= s.height) continue;
    const auto add = [&](int64_t v, int64_t count, int64_t q,
                         int64_t stop) {  // `count` taps from v on over the outputs [q, stop)
      if (q >= stop) return;
      g.taps = count;
      g.pixels = stop - q;
      g.x = x + (h * s.width + q * s.stride_w + v * s.dilation_w - s.pad_left) * channels * TypeSize(x_type);
      for (int64_t m = 0; m < multiplier; ++m) {
        g.dy = dy + ((p * s.out_width + q) * multiplier + m) * channels * TypeSize(dy_type);
        g.sums = sums + ((u * s.kernel_width + v) * multiplier + m) * channels;
        loops.correlate[x_type][dy_type](g);
      }
    };
    for (int64_t v = 0; v < s.kernel_width; v += kTapsAtOnce) {
      const int64_t taps = std::min(kTapsAtOnce, s.kernel_width - v);
      int64_t begin[kTapsAtOnce], stop[kTapsAtOnce], inner = first, inner_end = end;
      for (int64_t k = 0; k < taps; ++k) {
        const int64_t shift =
            (v + k) * s.dilation_w - s.pad_left;  // the outputs q with 0 <= q * stride + shift < width
        begin[k] = std::max(first, shift >= 0 ? 0 : CeilDiv(-shift, s.stride_w));
        stop[k] = s.width <= shift ? 0 : std::min(end, CeilDiv(s.width - shift, s.stride_w));
        inner = std::max(inner, begin[k]);
        inner_end = std::min(inner_end, stop[k]);
      }
      if (inner >= inner_end) inner = inner_end = end;  // nowhere all of them: each on its own
      add(v, taps, inner, inner_end);
      for (int64_t k = 0; k < taps; ++k) {
        add(v + k, 1, begin[k], std::min(inner, stop[k]));
        add(v + k, 1, std::max(inner_end, begin[k]), stop[k]);
      }
    }
  }
}

int WeightPass(const graffiti_conv_shape& s, int64_t batch, const void* x, int x_type, const void* dy, int dy_type,
               float scale, float* dw, const DepthwiseLoops& loops, const graffiti_parallel* parallel) {
  const int64_t channels = s.channels, multiplier = s.out_channels / channels, taps = s.kernel_height * s.kernel_width,
                count = taps * s.out_channels;
  const int64_t x_size = TypeSize(x_type), grain = std::max<int64_t>(1, CeilDiv(batch, 8)),
                chunks = batch == 0 ? 0 : CeilDiv(batch, grain);
  std::vector<int64_t> sums(count * std::max<int64_t>(1, chunks));
  const int64_t safe = INT32_MAX / (Magnitude(x_type) * Magnitude(dy_type)),
                piece = std::max<int64_t>(1, std::min(safe, s.out_width));
  ParallelFor(parallel, chunks, 1, [&](int64_t lo, int64_t hi) {
    std::vector<char> room;
    std::vector<int32_t> narrow(count);
    for (int64_t chunk = lo; chunk < hi; ++chunk) {
      int64_t held = 0;  // summands in each number of `narrow`, at most
      int64_t* wide = sums.data() + chunk * count;
      const auto flush = [&] {
        for (int64_t i = 0; i < count; ++i) wide[i] += narrow[i];
        std::fill(narrow.begin(), narrow.end(), 0);
        held = 0;
      };
      for (int64_t n = chunk * grain; n < std::min(batch, (chunk + 1) * grain); ++n) {
        const char* image = static_cast<const char*>(x) + n * s.height * s.width * channels * x_size;
        const char* gradient = UnmixedImages(dy, dy_type, s, n, n + 1, &room);
        for (int64_t p = 0; p < s.out_height; ++p) {
          for (int64_t q = 0; q < s.out_width; q += piece) {
            if (held + piece > safe) flush();
            held += piece;
            AddTaps(s, image, x_type, gradient, dy_type, p, q, std::min(s.out_width, q + piece), loops, narrow.data());
          }
        }
      }
      flush();
    }
  });
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t m = 0; m < multiplier; ++m)
      for (int64_t c = 0; c < channels; ++c) {
        int64_t sum = 0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
          sum += sums[chunk * count + (t * multiplier + m) * channels + c];
        dw[(t * channels + c) * multiplier + m] = static_cast<float>(sum) * scale;
      }
  return GRAFFITI_OK;
}

}  // namespace

int TrainingDepthwise(int pass, const graffiti_conv_shape& s, int64_t batch, const void* first, int first_type,
                      const void* second, int second_type, float scale, float* out, int tier,
                      const graffiti_parallel* parallel) {
  const DepthwiseLoops& loops = LoopsFor(tier, s.channels);
  if (pass == GRAFFITI_WEIGHT_GRADIENT)
    return WeightPass(s, batch, first, first_type, second, second_type, scale, out, loops, parallel);
  return GatherPass(pass == GRAFFITI_FORWARD, s, batch, first, first_type, static_cast<const int8_t*>(second), scale,
                    out, loops, parallel);
}

}  // namespace graffiti
