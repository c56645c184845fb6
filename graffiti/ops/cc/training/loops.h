// The loops of training.h, written so that GCC vectorizes them for the including file's flags. No include guard: each tier has its own copy
// in an unnamed namespace, so that no tier's instructions leak into another.
#include <algorithm>
#include <cstring>
#include <type_traits>

#ifdef __AVX512BW__
#include <immintrin.h>
#endif

#include "training/training.h"

namespace graffiti {
namespace {

constexpr int64_t kLanes = 16;  // channels summed side by side

inline uint32_t Mix(uint32_t w, uint32_t extra) {  // numerics/noise.py
  w = (w ^ (w >> 17)) * 0xED5AD4BBu + extra;
  w = (w ^ (w >> 11)) * 0xAC4C1B51u;
  w = (w ^ (w >> 15)) * 0x31848BABu;
  return w ^ (w >> 14);
}

inline int32_t Bits(float x) {
  int32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

inline int32_t KeyOfBits(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }
inline int32_t Key(float x) { return KeyOfBits(Bits(x)); }  // ordered like the floats

// A whole number in [low, high]; adding 1.5 * 2**23 rounds half to even.
inline int32_t HalfEven(float v, float low, float high) {
  v = v > low ? v : low;
  v = v < high ? v : high;
  const float magic = 12582912.0f;
  return Bits(v + magic) - 0x4B400000;
}

inline int32_t Floor(float v, float low, float high) {
  v = v > low ? v : low;
  v = v < high ? v : high;
  const int32_t t = static_cast<int32_t>(v);
  return t - (static_cast<float>(t) > v);
}

constexpr float kTwoToMinus16 = 1.52587890625e-5f;

template <bool kStochastic>
inline int32_t Round(float v, uint32_t half, float low, float high) {
  if (kStochastic) return Floor(v + static_cast<float>(static_cast<int32_t>(half)) * kTwoToMinus16, low, high);
  return HalfEven(v, low, high);
}

#ifdef __AVX512BW__
// Sixteen elements to whole numbers in [low, high].
template <bool kStochastic>
inline __m512i RoundVector(__m512 v, __m512i half, __m512 low, __m512 high) {
  if (kStochastic) v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(half), _mm512_set1_ps(kTwoToMinus16), v);  // the product is exact
  v = _mm512_min_ps(_mm512_max_ps(v, low), high);  // a NaN becomes low
  return kStochastic ? _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC) : _mm512_cvtps_epi32(v);
}

inline __m512i MixVector(__m512i w, __m512i extra) {
  const auto times = [](__m512i x, uint32_t factor) { return _mm512_mullo_epi32(x, _mm512_set1_epi32(static_cast<int>(factor))); };
  w = _mm512_add_epi32(times(_mm512_xor_si512(w, _mm512_srli_epi32(w, 17)), 0xED5AD4BBu), extra);
  w = times(_mm512_xor_si512(w, _mm512_srli_epi32(w, 11)), 0xAC4C1B51u);
  w = times(_mm512_xor_si512(w, _mm512_srli_epi32(w, 15)), 0x31848BABu);
  return _mm512_xor_si512(w, _mm512_srli_epi32(w, 14));
}

// Least and most of floats by their bits: as unsigned numbers the negative ones lie above all others, the largest magnitude on top.
struct ExtremeVectors {
  __m512i most = _mm512_set1_epi32(INT32_MIN), unsigned_most = _mm512_setzero_si512(), unsigned_least = _mm512_set1_epi32(-1);

  void Add(__m512i bits) {
    most = _mm512_max_epi32(most, bits);
    unsigned_most = _mm512_max_epu32(unsigned_most, bits);
    unsigned_least = _mm512_min_epu32(unsigned_least, bits);
  }
  void Merge(int32_t* low, int32_t* high) const {  // as keys
    const int32_t up = _mm512_reduce_max_epi32(most), down = static_cast<int32_t>(_mm512_reduce_max_epu32(unsigned_most));
    const int32_t near = static_cast<int32_t>(_mm512_reduce_min_epu32(unsigned_least));  // the only sign's least magnitude, where there is one sign
    *low = std::min(*low, KeyOfBits(down < 0 ? down : near));
    *high = std::max(*high, KeyOfBits(up >= 0 ? up : near));
  }
};

inline void StoreCodes(int8_t* out, __m512i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(x)); }
inline void StoreCodes(uint8_t* out, __m512i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(x)); }
inline void StoreCodes(int16_t* out, __m512i x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi32_epi16(x)); }
#endif

// Elements in groups of 32: element k of a group has the low half of word k (k < 16) or the high half of word k - 16. `half_first` is half the first index, a multiple of 16.
template <typename Code, bool kStochastic>
void QuantizeRun(const QuantizeParams& p, const float* __restrict x, int64_t n, uint32_t half_first, Code* __restrict codes, ExtremeKeys* keys) {
  const float inverse = p.inverse_step, low = p.low, high = p.high;
  const uint32_t key0 = p.key0 + half_first, key1 = p.key1;
  int32_t least = keys->low, most = keys->high;
  int64_t i = 0;
#ifdef __AVX512BW__
  const __m512 scale = _mm512_set1_ps(inverse), lows = _mm512_set1_ps(low), highs = _mm512_set1_ps(high);
  const __m512i extra = _mm512_set1_epi32(static_cast<int>(key1));
  __m512i counter = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(key0)), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  ExtremeVectors extremes;
  for (; i + 32 <= n; i += 32) {
    __m512i words = _mm512_setzero_si512();
    if (kStochastic) words = MixVector(counter, extra);
    counter = _mm512_add_epi32(counter, _mm512_set1_epi32(16));
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {
      const __m512 value = _mm512_loadu_ps(x + i + 16 * part);
      extremes.Add(_mm512_castps_si512(value));
      const __m512i half = part ? _mm512_srli_epi32(words, 16) : _mm512_and_si512(words, _mm512_set1_epi32(0xffff));
      StoreCodes(codes + i + 16 * part, RoundVector<kStochastic>(_mm512_mul_ps(value, scale), half, lows, highs));
    }
  }
  if (i > 0) extremes.Merge(&least, &most);
#endif
  for (; i < n; i += 32) {
    uint32_t words[16] = {};
    if (kStochastic)
      for (int k = 0; k < 16; ++k) words[k] = Mix(static_cast<uint32_t>(i / 2 + k) + key0, key1);
    for (int part = 0; part < 2; ++part) {
      const float* from = x + i + 16 * part;
      Code* to = codes + i + 16 * part;
      const int64_t left = n - i - 16 * part, count = left < 16 ? left : 16;
      for (int64_t k = 0; k < count; ++k) {
        const int32_t key = Key(from[k]);
        least = key < least ? key : least;
        most = key > most ? key : most;
        to[k] = static_cast<Code>(Round<kStochastic>(from[k] * inverse, part ? words[k] >> 16 : words[k] & 0xffff, low, high));
      }
    }
  }
  keys->low = least;
  keys->high = most;
}

template <typename Code>
void Quantize(const QuantizeParams& p, const float* x, int64_t n, uint32_t half_first, Code* codes, ExtremeKeys* keys) {
  if (p.stochastic)
    QuantizeRun<Code, true>(p, x, n, half_first, codes, keys);
  else
    QuantizeRun<Code, false>(p, x, n, half_first, codes, keys);
}

void Extremes(const float* __restrict x, int64_t n, ExtremeKeys* keys) {
  int32_t least = keys->low, most = keys->high;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t key = Key(x[i]);
    least = key < least ? key : least;
    most = key > most ? key : most;
  }
  keys->low = least;
  keys->high = most;
}

int64_t CountAbove(const float* __restrict x, int64_t n, float bound) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += 4096) {
    const int64_t end = n < i + 4096 ? n : i + 4096;
    int32_t own = 0;
    for (int64_t k = i; k < end; ++k) own += __builtin_fabsf(x[k]) > bound;
    count += own;
  }
  return count;
}

void GroupMaximum(const float* __restrict x, int64_t rows, int64_t width, int64_t inner, int32_t* __restrict most) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x + r * width;
    if (inner == 1) {
      for (int64_t c = 0; c < width; ++c) {
        const int32_t bits = Bits(row[c]) & 0x7fffffff;
        most[c] = bits > most[c] ? bits : most[c];
      }
      continue;
    }
    for (int64_t g = 0; g < width / inner; ++g) {
      int32_t own = most[g];
      for (int64_t s = 0; s < inner; ++s) {
        const int32_t bits = Bits(row[g * inner + s]) & 0x7fffffff;
        own = bits > own ? bits : own;
      }
      most[g] = own;
    }
  }
}

inline float FromBits(int32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

constexpr int64_t kNoiseRun = 512;

// The generator's numbers of kNoiseRun + 32 elements from `first`, a multiple of 32, less one half.
inline void CenteredNoise(uint32_t key0, uint32_t key1, int64_t first, float* __restrict out) {
  for (int64_t g = 0; g < kNoiseRun + 32; g += 32) {
    const uint32_t counter = static_cast<uint32_t>((first + g) / 2) + key0;
    for (int k = 0; k < 16; ++k) {
      const uint32_t word = Mix(counter + k, key1);
      out[g + k] = static_cast<float>(static_cast<int32_t>(word & 0xffff)) * kTwoToMinus16 - 0.5f;
      out[g + 16 + k] = static_cast<float>(static_cast<int32_t>(word >> 16)) * kTwoToMinus16 - 0.5f;
    }
  }
}

void MultiLevel(const ElementFormat& f, const float* __restrict x, int64_t n, int64_t first, const float* __restrict divisor,
                const float* __restrict factor, int64_t period, float* __restrict y) {
  const int shift = f.top_exponent + 1, mantissa = f.mantissa_bits;
  const bool fixed = f.exponent_bits == 0;
  const int32_t highest = fixed ? shift : shift - 1, lowest = fixed ? shift : 1 - (1 << f.exponent_bits) + shift;
  const float unit = shift ? 2.0f : 1.0f;
  const float largest = (1.0f - FromBits((127 - mantissa - !fixed) << 23)) * unit;
  const float top_code = fixed || f.carry ? 1e9f : FromBits((128 + mantissa) << 23) - 1.0f;
  const float magic = 12582912.0f;
  float noise[kNoiseRun + 32] = {};
  for (int64_t i = 0, j = 0; i < n;) {
    int64_t count = n - i < period - j ? n - i : period - j;
    if (count > kNoiseRun) count = kNoiseRun;
    const int64_t aligned = (first + i) & ~int64_t{31};
    const float* own = noise;
    if (f.stochastic) {
      CenteredNoise(f.key0, f.key1, aligned, noise);
      own = noise + (first + i - aligned);
    }
    const float *from = x + i, *by = divisor + j, *times = factor + j;
    float* to = y + i;
    for (int64_t k = 0; k < count; ++k) {
      const float m = __builtin_fabsf(from[k]) / by[k];
      int32_t e = (Bits(m) >> 23) - 127;
      e = e < lowest ? lowest : e;
      e = e > highest ? highest : e;
      float code = (m * FromBits((mantissa - e + 127) << 23) + own[k] + magic) - magic;
      code = code > 0.0f ? code : 0.0f;
      code = code < top_code ? code : top_code;
      float element = code * FromBits((e - mantissa + 127) << 23);
      element = element < largest ? element : largest;
      to[k] = FromBits(Bits(element * times[k]) ^ (Bits(from[k]) & static_cast<int32_t>(0x80000000)));
    }
    i += count;
    j = j + count == period ? 0 : j + count;
  }
}

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

void Moments(const float* __restrict x, int64_t rows, int64_t channels, const float* __restrict shift, float* __restrict sum, float* __restrict square) {
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
void NormalizeRun(const NormParams& p, const float* __restrict x, const float* __restrict residual, int64_t n, float* __restrict y) {
  const float *__restrict mean = p.mean, *__restrict scale = p.scale, *__restrict beta = p.beta;
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
void NormSumsRun(const NormParams& p, const float* __restrict dy, const float* __restrict x, int64_t rows, int64_t channels, float* sum, float* product) {
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

void NormSums(const NormParams& p, const float* dy, const float* x, int64_t rows, int64_t channels, float* sum, float* product) {
  if (p.relu)
    NormSumsRun<true>(p, dy, x, rows, channels, sum, product);
  else
    NormSumsRun<false>(p, dy, x, rows, channels, sum, product);
}

void ResidualSums(const NormParams& p, const float* dy, const float* y, const float* x, int64_t rows, int64_t channels, float* masked, float* sum, float* product) {
#pragma GCC ivdep  // masked may be dy itself
  for (int64_t i = 0; i < rows * channels; ++i) masked[i] = y[i] > 0.0f ? dy[i] : 0.0f;
  NormSumsRun<false>(p, masked, x, rows, channels, sum, product);  // from the nearest cache
}

template <bool kRelu>
void NormGradientRun(const NormParams& p, const float* dy, const float* __restrict x, int64_t n, float* dx) {
  const float *__restrict mean = p.mean, *__restrict scale = p.scale, *__restrict beta = p.beta;
  const float *__restrict inverse = p.inverse, *__restrict mean_dy = p.mean_dy, *__restrict mean_dyx = p.mean_dyx;
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

const TrainingLoops kLoops = {
    Quantize<int8_t>, Quantize<uint8_t>, Quantize<int16_t>, Extremes, CountAbove, GroupMaximum, MultiLevel, Moments, Normalize, NormSums, ResidualSums, NormGradient,
};

}  // namespace
}  // namespace graffiti
