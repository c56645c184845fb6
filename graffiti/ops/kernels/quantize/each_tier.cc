// The loops, compiled once for each tier and written so that GCC vectorizes them for its flags. Everything is in an
// unnamed namespace and nothing of the standard library is called, so that no tier's instructions leak into another.
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

#include "floats.h"
#include "quantize/quantize.h"

namespace graffiti {
namespace {

inline int32_t Key(float x) { return KeyOfBits(Bits(x)); }

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

template <bool kStochastic>
inline int32_t Round(float v, uint32_t half, float low, float high) {
  if (kStochastic) return Floor(v + static_cast<float>(static_cast<int32_t>(half)) * kTwoToMinus16, low, high);
  return HalfEven(v, low, high);
}

#ifdef __AVX512BW__
// Sixteen elements to whole numbers in [low, high].
template <bool kStochastic>
inline __m512i RoundVector(__m512 v, __m512i half, __m512 low, __m512 high) {
  // the product of the fused multiply-add is exact
  if (kStochastic) v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(half), _mm512_set1_ps(kTwoToMinus16), v);
  v = _mm512_min_ps(_mm512_max_ps(v, low), high);  // a NaN becomes low
  return kStochastic ? _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC) : _mm512_cvtps_epi32(v);
}

inline __m512i MixVector(__m512i w, __m512i extra) {
  typedef uint32_t Words __attribute__((vector_size(64)));
  return reinterpret_cast<__m512i>(MixNoise(reinterpret_cast<Words>(w), reinterpret_cast<Words>(extra)));
}

// Least and most of floats by their bits: as unsigned numbers the negative ones lie above all others, the largest
// magnitude on top.
struct ExtremeVectors {
  __m512i most = _mm512_set1_epi32(INT32_MIN);
  __m512i unsigned_most = _mm512_setzero_si512(), unsigned_least = _mm512_set1_epi32(-1);

  void Add(__m512i bits) {
    most = _mm512_max_epi32(most, bits);
    unsigned_most = _mm512_max_epu32(unsigned_most, bits);
    unsigned_least = _mm512_min_epu32(unsigned_least, bits);
  }
  void Merge(int32_t* low, int32_t* high) const {  // as keys
    const int32_t up = _mm512_reduce_max_epi32(most);
    const int32_t down = static_cast<int32_t>(_mm512_reduce_max_epu32(unsigned_most));
    // the least magnitude of the only sign, where there is one sign
    const int32_t near = static_cast<int32_t>(_mm512_reduce_min_epu32(unsigned_least));
    const int32_t least_key = KeyOfBits(down < 0 ? down : near), most_key = KeyOfBits(up >= 0 ? up : near);
    *low = least_key < *low ? least_key : *low;
    *high = most_key > *high ? most_key : *high;
  }
};

inline void StoreCodes(int8_t* out, __m512i x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(x));
}
inline void StoreCodes(uint8_t* out, __m512i x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(x));
}
inline void StoreCodes(int16_t* out, __m512i x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi32_epi16(x));
}
#endif

// Elements in groups of 32: element k of a group has the low half of word k (k < 16) or the high half of word k - 16.
// `half_first` is half the first index, a multiple of 16.
template <typename Code, bool kStochastic>
void QuantizeRun(const QuantizeParams& p, const float* __restrict x, int64_t n, uint32_t half_first,
                 Code* __restrict codes, ExtremeKeys* keys) {
  const float inverse = p.inverse_step, low = p.low, high = p.high;
  const uint32_t key0 = p.key.first + half_first, key1 = p.key.second;
  int32_t least = keys->low, most = keys->high;
  int64_t i = 0;
#ifdef __AVX512BW__
  const __m512 scale = _mm512_set1_ps(inverse), lows = _mm512_set1_ps(low), highs = _mm512_set1_ps(high);
  const __m512i extra = _mm512_set1_epi32(static_cast<int>(key1));
  const __m512i ascending = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512i counter = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(key0)), ascending);
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
      for (int k = 0; k < 16; ++k) words[k] = MixNoise(static_cast<uint32_t>(i / 2 + k) + key0, key1);
    for (int part = 0; part < 2; ++part) {
      const float* from = x + i + 16 * part;
      Code* to = codes + i + 16 * part;
      const int64_t left = n - i - 16 * part, count = left < 16 ? left : 16;
      for (int64_t k = 0; k < count; ++k) {
        const int32_t key = Key(from[k]);
        least = key < least ? key : least;
        most = key > most ? key : most;
        const uint32_t half = part ? words[k] >> 16 : words[k] & 0xffff;
        to[k] = static_cast<Code>(Round<kStochastic>(from[k] * inverse, half, low, high));
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

const QuantizeLoops kLoops = {Quantize<int8_t>, Quantize<uint8_t>, Quantize<int16_t>, Extremes, CountAbove};

}  // namespace

template <>
const QuantizeLoops& TierLoops<QuantizeLoops, GRAFFITI_TIER>() {
  return kLoops;
}

}  // namespace graffiti
