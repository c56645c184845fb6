// The loops, compiled once for each tier and written so that GCC vectorizes them for its flags. Everything is in an
// unnamed namespace and nothing of the standard library is called, so that no tier's instructions leak into another.
#include <type_traits>

#include "batch_norm/batch_norm.h"

namespace graffiti {
namespace {

constexpr int64_t kLanes = 16;  // channels summed side by side

// Sums over rows in groups of four: ((a + b) + (c + d)), so that the additions do not wait for each other.
template <int64_t N, typename Term>
inline void SumRows(int64_t rows, float* __restrict sum, float* __restrict second, const Term& term) {
  float s[N] = {}, q[N] = {};
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    for (int64_t c = 0; c < N; ++c) {
      float a[4], b[4];
      for (int k = 0; k < 4; ++k) term(r + k, c, &a[k], &b[k]);
      s[c] += (a[0] + a[1]) + (a[2] + a[3]);
      q[c] += (b[0] + b[1]) + (b[2] + b[3]);
    }
  }
  for (; r < rows; ++r)
    for (int64_t c = 0; c < N; ++c) {
      float a, b;
      term(r, c, &a, &b);
      s[c] += a;
      q[c] += b;
    }
  for (int64_t c = 0; c < N; ++c) {
    sum[c] = s[c];
    second[c] = q[c];
  }
}

template <typename Make>
inline void ByLanes(int64_t channels, const Make& make) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) make(std::integral_constant<int64_t, 4 * kLanes>(), c);
  for (; c + kLanes <= channels; c += kLanes) make(std::integral_constant<int64_t, kLanes>(), c);
  for (; c + 4 <= channels; c += 4) make(std::integral_constant<int64_t, 4>(), c);
  for (; c < channels; ++c) make(std::integral_constant<int64_t, 1>(), c);
}

void Moments(const float* __restrict x, int64_t rows, int64_t channels, const float* __restrict shift,
             float* __restrict sum, float* __restrict square) {
  ByLanes(channels, [&](auto lanes, int64_t first) {
    constexpr int64_t N = decltype(lanes)::value;
    const float* base = x + first;
    float offset[N];
    for (int64_t c = 0; c < N; ++c) offset[c] = shift[first + c];
    SumRows<N>(rows, sum + first, square + first, [&](int64_t r, int64_t c, float* a, float* b) {
      const float d = base[r * channels + c] - offset[c];
      *a = d;
      *b = d * d;
    });
  });
}

template <bool kRelu, bool kResidual>
void NormalizeRun(const NormParams& p, const float* __restrict x, const float* __restrict residual, int64_t n,
                  float* __restrict y) {
  const float* __restrict mean = p.mean, * __restrict scale = p.scale, * __restrict beta = p.beta;
  for (int64_t i = 0; i < n; i += p.period) {
    const int64_t count = n - i < p.period ? n - i : p.period;
    for (int64_t j = 0; j < count; ++j) {
      float v = (x[i + j] - mean[j]) * scale[j] + beta[j];
      if (kResidual) v += residual[i + j];
      y[i + j] = kRelu ? (v > 0.0f || v != v ? v : 0.0f) : v;
    }
  }
}

void Normalize(const NormParams& p, const float* x, const float* residual, int64_t n, float* y) {
  if (residual != nullptr)
    p.relu ? NormalizeRun<true, true>(p, x, residual, n, y) : NormalizeRun<false, true>(p, x, residual, n, y);
  else
    p.relu ? NormalizeRun<true, false>(p, x, nullptr, n, y) : NormalizeRun<false, false>(p, x, nullptr, n, y);
}

// The gradient behind the ReLU: dy where (x - mean) * scale + beta > 0.
template <bool kRelu>
inline float Masked(float dy, float centered, float scale, float beta) {
  return kRelu ? (centered * scale + beta > 0.0f ? dy : 0.0f) : dy;
}

template <bool kRelu>
void NormSumsRun(const NormParams& p, const float* __restrict dy, const float* __restrict x, int64_t rows,
                 int64_t channels, float* sum, float* product) {
  ByLanes(channels, [&](auto lanes, int64_t first) {
    constexpr int64_t N = decltype(lanes)::value;
    float mean[N], scale[N], beta[N];
    for (int64_t c = 0; c < N; ++c) {
      mean[c] = p.mean[first + c];
      scale[c] = p.scale[first + c];
      beta[c] = p.beta[first + c];
    }
    const float *g = dy + first, *base = x + first;
    SumRows<N>(rows, sum + first, product + first, [&](int64_t r, int64_t c, float* a, float* b) {
      const float centered = base[r * channels + c] - mean[c];
      const float masked = Masked<kRelu>(g[r * channels + c], centered, scale[c], beta[c]);
      *a = masked;
      *b = masked * centered;
    });
  });
}

void NormSums(const NormParams& p, const float* dy, const float* x, int64_t rows, int64_t channels, float* sum,
              float* product) {
  if (p.relu)
    NormSumsRun<true>(p, dy, x, rows, channels, sum, product);
  else
    NormSumsRun<false>(p, dy, x, rows, channels, sum, product);
}

void ResidualSums(const NormParams& p, const float* dy, const float* y, const float* x, int64_t rows, int64_t channels,
                  float* masked, float* sum, float* product) {
#pragma GCC ivdep  // masked may be dy itself
  for (int64_t i = 0; i < rows * channels; ++i) masked[i] = y[i] > 0.0f ? dy[i] : 0.0f;
  NormSumsRun<false>(p, masked, x, rows, channels, sum, product);  // from the nearest cache
}

template <bool kRelu>
void NormGradientRun(const NormParams& p, const float* dy, const float* __restrict x, int64_t n, float* dx) {
  const float* __restrict mean = p.mean, * __restrict scale = p.scale, * __restrict beta = p.beta;
  const float* __restrict inverse = p.inverse, * __restrict mean_dy = p.mean_dy, * __restrict mean_dyx = p.mean_dyx;
  for (int64_t i = 0; i < n; i += p.period) {
    const int64_t count = n - i < p.period ? n - i : p.period;
#pragma GCC ivdep  // dx may be dy itself
    for (int64_t j = 0; j < count; ++j) {
      const float centered = x[i + j] - mean[j];
      const float masked = Masked<kRelu>(dy[i + j], centered, scale[j], beta[j]);
      dx[i + j] = scale[j] * (masked - mean_dy[j] - centered * inverse[j] * mean_dyx[j]);
    }
  }
}

void NormGradient(const NormParams& p, const float* dy, const float* x, int64_t n, float* dx) {
  if (p.relu)
    NormGradientRun<true>(p, dy, x, n, dx);
  else
    NormGradientRun<false>(p, dy, x, n, dx);
}

const BatchNormLoops kLoops = {Moments, Normalize, NormSums, ResidualSums, NormGradient};

}  // namespace

template <>
const BatchNormLoops& TierLoops<BatchNormLoops, GRAFFITI_TIER>() {
  return kLoops;
}

}  // namespace graffiti
