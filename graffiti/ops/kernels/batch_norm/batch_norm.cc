// What does not depend on the instruction set: the work in blocks, their sums merged in double, numbers per channel.
#include "batch_norm/batch_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common.h"

namespace graffiti {
namespace {

constexpr int64_t kPeriod = 64;    // at least so many floats of per-channel parameters, repeated, for flat loops
constexpr int64_t kFlat = 16384;   // elements of a block of a flat pass, about
constexpr int64_t kWorth = 16384;  // elements of sums that a thread takes at once

int64_t Blocks(int64_t rows) { return CeilDiv(rows, kNormRows); }

// Two float sums per channel of each block of rows: block(first row, rows, sums, second sums) -> [blocks, 2, channels].
template <typename Block>
std::vector<float> PartialSums(int64_t rows, int64_t channels, const graffiti_parallel* parallel, const Block& block) {
  std::vector<float> partial(2 * Blocks(rows) * channels);
  const int64_t grain = std::max<int64_t>(1, kWorth / (kNormRows * channels));
  ForEachBlock(parallel, rows, kNormRows, grain, [&](int64_t lo, int64_t hi) {
    float* own = &partial[lo / kNormRows * 2 * channels];
    block(lo, hi - lo, own, own + channels);
  });
  return partial;
}

// Per-channel floats repeated to whole periods, so that flat loops are long enough to vectorize.
class Repeated {
 public:
  explicit Repeated(int64_t channels) : channels_(channels), period_(channels * CeilDiv(kPeriod, channels)) {}
  int64_t period() const { return period_; }
  const float* operator()(const float* values) {
    arrays_.emplace_back(period_);
    for (int64_t i = 0; i < period_; ++i) arrays_.back()[i] = values[i % channels_];
    return arrays_.back().data();
  }

 private:
  const int64_t channels_, period_;
  std::vector<std::vector<float>> arrays_;
};

// Flat passes in blocks of whole periods.
template <typename Part>
void Flat(int64_t n, int64_t period, const graffiti_parallel* parallel, const Part& part) {
  const int64_t block = period * std::max<int64_t>(1, kFlat / period);
  ForEachBlock(parallel, n, block, std::max<int64_t>(1, 4 * kFlat / block), part);
}

// Mean and biased variance of each channel, in double.
struct Statistics {
  std::vector<double> mean, variance;
};

// Each block's sums are of differences from a row of its own (per channel the median of three rows, so that an outlier
// is not taken), and the blocks are merged in double (Chan, Golub and LeVeque, 1979): the spread of a block never
// drowns in the distance between rows of different blocks.
Statistics StatisticsOf(const float* x, int64_t rows, int64_t channels, const BatchNormLoops& loops,
                        const graffiti_parallel* parallel) {
  std::vector<float> shifts(Blocks(rows) * channels);
  const auto sums = [&](int64_t row, int64_t count, float* s, float* q) {
    const float *first = x + row * channels, *middle = first + count / 2 * channels,
                *last = first + (count - 1) * channels;
    float* shift = &shifts[row / kNormRows * channels];
    for (int64_t c = 0; c < channels; ++c)
      shift[c] = std::max(std::min(first[c], middle[c]), std::min(std::max(first[c], middle[c]), last[c]));
    loops.moments(first, count, channels, shift, s, q);
  };
  const std::vector<float> partial = PartialSums(rows, channels, parallel, sums);
  const auto rows_of = [&](int64_t b) { return static_cast<double>(std::min(kNormRows, rows - b * kNormRows)); };
  Statistics all{std::vector<double>(channels), std::vector<double>(channels)};
  for (int64_t b = 0; b < Blocks(rows); ++b)
    for (int64_t c = 0; c < channels; ++c)
      all.mean[c] += partial[b * 2 * channels + c] + rows_of(b) * shifts[b * channels + c];
  for (int64_t c = 0; c < channels; ++c) all.mean[c] /= rows;
  for (int64_t b = 0; b < Blocks(rows); ++b)
    for (int64_t c = 0; c < channels; ++c) {
      const double own = partial[b * 2 * channels + c] / rows_of(b),
                   away = shifts[b * channels + c] + own - all.mean[c];
      all.variance[c] += partial[(b * 2 + 1) * channels + c] + rows_of(b) * (away * away - own * own);
    }
  for (double& v : all.variance) v = v != v ? v : std::max(0.0, v / rows);  // a NaN stays
  return all;
}

}  // namespace

void BatchNorm(const graffiti_batch_norm_inputs& in, const graffiti_batch_norm_outputs& out, int tier,
               const graffiti_parallel* parallel) {
  const BatchNormLoops& loops = LoopsOf<BatchNormLoops>(tier);
  const int64_t channels = in.channels;
  const Statistics statistics = StatisticsOf(in.x, in.rows, channels, loops, parallel);
  std::vector<float> scale(channels);
  for (int64_t c = 0; c < channels; ++c) {
    const double variance = statistics.variance[c];
    out.mean[c] = static_cast<float>(statistics.mean[c]);
    out.variance[c] = static_cast<float>(variance);
    out.inverse_deviation[c] = static_cast<float>(1.0 / std::sqrt(variance + static_cast<double>(in.epsilon)));
    scale[c] = in.gamma[c] * out.inverse_deviation[c];
  }
  Repeated repeated(channels);
  const NormParams p{
      repeated(out.mean), repeated(scale.data()), repeated(in.beta), nullptr, nullptr, nullptr, repeated.period(),
      in.relu != 0};
  Flat(in.rows * channels, p.period, parallel, [&](int64_t lo, int64_t hi) {
    loops.normalize(p, in.x + lo, in.residual == nullptr ? nullptr : in.residual + lo, hi - lo, out.y + lo);
  });
}

void BatchNormGradient(const graffiti_batch_norm_gradient_inputs& in, const graffiti_batch_norm_gradient_outputs& out,
                       int tier, const graffiti_parallel* parallel) {
  const BatchNormLoops& loops = LoopsOf<BatchNormLoops>(tier);
  const int64_t channels = in.channels;
  const bool own_mask = in.relu != 0 && in.y == nullptr;
  std::vector<float> scale(channels), mean_dy(channels), mean_dyx(channels);
  for (int64_t c = 0; c < channels; ++c) scale[c] = in.gamma[c] * in.inverse_deviation[c];
  const NormParams own{in.mean, scale.data(), in.beta, nullptr, nullptr, nullptr, channels, own_mask};
  const std::vector<float> partial =
      PartialSums(in.rows, channels, parallel, [&](int64_t row, int64_t count, float* s, float* q) {
        const int64_t i = row * channels;
        if (in.y != nullptr)
          loops.residual_sums(own, in.dy + i, in.y + i, in.x + i, count, channels, out.dresidual + i, s, q);
        else
          loops.norm_sums(own, in.dy + i, in.x + i, count, channels, s, q);
      });
  std::vector<double> sum(channels), product(channels);
  for (int64_t b = 0; b < Blocks(in.rows); ++b)
    for (int64_t c = 0; c < channels; ++c) {
      sum[c] += partial[b * 2 * channels + c];
      product[c] += partial[(b * 2 + 1) * channels + c];
    }
  for (int64_t c = 0; c < channels; ++c) {
    const double of_normal = product[c] * in.inverse_deviation[c];
    out.dbeta[c] = static_cast<float>(sum[c]);
    out.dgamma[c] = static_cast<float>(of_normal);
    mean_dy[c] = static_cast<float>(sum[c] / in.rows);
    mean_dyx[c] = static_cast<float>(of_normal / in.rows);
  }
  Repeated repeated(channels);
  const NormParams p{
      repeated(in.mean),        repeated(scale.data()),    repeated(in.beta), repeated(in.inverse_deviation),
      repeated(mean_dy.data()), repeated(mean_dyx.data()), repeated.period(), own_mask};
  const float* dy = in.y != nullptr ? out.dresidual : in.dy;
  Flat(in.rows * channels, p.period, parallel,
       [&](int64_t lo, int64_t hi) { loops.norm_gradient(p, dy + lo, in.x + lo, hi - lo, out.dx + lo); });
}

}  // namespace graffiti
