#include "average/average.h"

#include <immintrin.h>

#include "c_api.h"

namespace graffiti {
namespace {

#include "average/lanes.inc"

struct Words {
  static constexpr int kBytes = 64;
  using V = Lanes<64>::V;

  template <bool kSigned>
  static inline V Widen(const uint8_t* p) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return (V)(kSigned ? _mm512_cvtepi8_epi16(bytes) : _mm512_cvtepu8_epi16(bytes));
  }
  static inline void Store(V v, uint8_t* p) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi16_epi8((__m512i)v));
  }
  static inline void Store2(V a, V b, uint8_t* p) {
    Store(a, p);
    Store(b, p + 32);
  }
  static inline Lanes<16>::V UpperHalf(Lanes<16>::V a, Lanes<16>::V b) {
    return (Lanes<16>::V)_mm_mulhi_epu16((__m128i)a, (__m128i)b);
  }
  static inline Lanes<32>::V UpperHalf(Lanes<32>::V a, Lanes<32>::V b) {
    return (Lanes<32>::V)_mm256_mulhi_epu16((__m256i)a, (__m256i)b);
  }
  static inline V UpperHalf(V a, V b) { return (V)_mm512_mulhi_epu16((__m512i)a, (__m512i)b); }
  static inline V Halves(const uint16_t* a, const uint16_t* b) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
    return (V)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
};

#include "average/average.inc"

}  // namespace

const AverageKernels& AverageAvx512Vnni() { return kKernels; }

}  // namespace graffiti
