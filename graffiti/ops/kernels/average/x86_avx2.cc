#include "average/average.h"

#include <immintrin.h>

#include "c_api.h"

namespace graffiti {
namespace {

#include "average/lanes.inc"

struct Words {
  static constexpr int kBytes = 32;
  using V = Lanes<32>::V;

  template <bool kSigned>
  static inline V Widen(const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return (V)(kSigned ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes));
  }
  static inline void Store(V v, uint8_t* p) {
    const __m256i x = (__m256i)v;
    const __m128i codes = _mm_packus_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes);
  }
  static inline void Store2(V a, V b, uint8_t* p) {
    const __m256i halves = _mm256_packus_epi16((__m256i)a, (__m256i)b);  // each 128 bits by themselves
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(halves, 0xd8));
  }
  static inline Lanes<16>::V UpperHalf(Lanes<16>::V a, Lanes<16>::V b) {
    return (Lanes<16>::V)_mm_mulhi_epu16((__m128i)a, (__m128i)b);
  }
  static inline Lanes<32>::V UpperHalf(Lanes<32>::V a, Lanes<32>::V b) {
    return (Lanes<32>::V)_mm256_mulhi_epu16((__m256i)a, (__m256i)b);
  }
  static inline V Halves(const uint16_t* a, const uint16_t* b) {
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a));
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
    return (V)_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  }
};

#include "average/average.inc"

}  // namespace

const AverageKernels& AverageAvx2() { return kKernels; }

}  // namespace graffiti
