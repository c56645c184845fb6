#include "average/average.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "c_api.h"

namespace graffiti {
namespace {

#include "average/lanes.inc"

#if defined(__SSE2__)  // what every x86-64 has

struct Words {
  static constexpr int kBytes = 16;
  using V = Lanes<16>::V;

  template <bool kSigned>
  static inline V Widen(const uint8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), none = _mm_setzero_si128();
    return (V)(kSigned ? _mm_srai_epi16(_mm_unpacklo_epi8(none, bytes), 8) : _mm_unpacklo_epi8(bytes, none));
  }
  static inline void Store(V v, uint8_t* p) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16((__m128i)v, (__m128i)v));
  }
  static inline void Store2(V a, V b, uint8_t* p) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi16((__m128i)a, (__m128i)b));
  }
  static inline V UpperHalf(V a, V b) { return (V)_mm_mulhi_epu16((__m128i)a, (__m128i)b); }
  static inline V Halves(const uint16_t* a, const uint16_t* b) {
    return (V)_mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a)),
                                 _mm_loadl_epi64(reinterpret_cast<const __m128i*>(b)));
  }
};

#else

struct Words {
  static constexpr int kBytes = 16;
  using V = Lanes<16>::V;
  typedef int8_t S8 __attribute__((vector_size(8)));
  typedef uint8_t U8 __attribute__((vector_size(8)));
  typedef uint32_t Wide __attribute__((vector_size(32)));

  template <bool kSigned>
  static inline V Widen(const uint8_t* p) {
    U8 v;
    __builtin_memcpy(&v, p, sizeof v);
    return kSigned ? (V)__builtin_convertvector((S8)v, Lanes<16>::S) : __builtin_convertvector(v, V);
  }
  static inline void Store(V v, uint8_t* p) {
    const U8 bytes = __builtin_convertvector(v, U8);
    __builtin_memcpy(p, &bytes, sizeof bytes);
  }
  static inline void Store2(V a, V b, uint8_t* p) {
    Store(a, p);
    Store(b, p + 8);
  }
  static inline V UpperHalf(V a, V b) {
    return __builtin_convertvector((__builtin_convertvector(a, Wide) * __builtin_convertvector(b, Wide)) >> 16, V);
  }
  static inline V Halves(const uint16_t* a, const uint16_t* b) {
    uint64_t halves[2];
    __builtin_memcpy(&halves[0], a, 8);
    __builtin_memcpy(&halves[1], b, 8);
    V v;
    __builtin_memcpy(&v, halves, sizeof v);
    return v;
  }
};

#endif

#include "average/average.inc"

}  // namespace

const AverageKernels& AverageScalar() { return kKernels; }

}  // namespace graffiti
