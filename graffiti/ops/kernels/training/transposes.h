// Byte transposes: channels to planes, and rows of values to the four bytes that one step of the tile primitive sums.
#ifndef GRAFFITI_OPS_KERNELS_TRAINING_TRANSPOSES_H_
#define GRAFFITI_OPS_KERNELS_TRAINING_TRANSPOSES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace graffiti {

// Pixels [pixels][channels] to [channels][pixels], destinations `plane` elements apart; `flip` is xored into bytes.
inline void ToPlanes8(const uint8_t* from, int64_t pixels, int64_t pixel_stride, int64_t channels, uint8_t flip, uint8_t* to, int64_t plane) {
  int64_t c = 0;
#if defined(__SSE2__)
  const __m128i mask = _mm_set1_epi8(static_cast<char>(flip));
  for (; c + 16 <= channels; c += 16) {
    int64_t p = 0;
    for (; p + 16 <= pixels; p += 16) {
      __m128i a[16], b[16];
      for (int i = 0; i < 16; ++i) a[i] = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + (p + i) * pixel_stride + c)), mask);
      for (int i = 0; i < 8; ++i) { b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]); b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]); }
      for (int i = 0; i < 8; ++i) { a[2 * i] = _mm_unpacklo_epi8(b[i], b[i + 8]); a[2 * i + 1] = _mm_unpackhi_epi8(b[i], b[i + 8]); }
      for (int i = 0; i < 8; ++i) { b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]); b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]); }
      for (int i = 0; i < 8; ++i) { a[2 * i] = _mm_unpacklo_epi8(b[i], b[i + 8]); a[2 * i + 1] = _mm_unpackhi_epi8(b[i], b[i + 8]); }
      for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (c + i) * plane + p), a[i]);
    }
    for (; p < pixels; ++p)
      for (int i = 0; i < 16; ++i) to[(c + i) * plane + p] = from[p * pixel_stride + c + i] ^ flip;
  }
#endif
  for (; c < channels; ++c)
    for (int64_t p = 0; p < pixels; ++p) to[c * plane + p] = from[p * pixel_stride + c] ^ flip;
}

// Which of the four bytes of a column and step count, and what is xored into each of them.
struct Masks {
  uint8_t keep[4];
  uint8_t flip;
};

#if defined(__SSE2__)
// Sixteen columns of four rows of bytes.
inline void InterleaveUnit(const uint8_t* const* rows, int64_t at, __m128i* out) {
  const auto load = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + at)); };
  const __m128i a = load(0), b = load(1), c = load(2), d = load(3);
  const __m128i ab0 = _mm_unpacklo_epi8(a, b), ab1 = _mm_unpackhi_epi8(a, b), cd0 = _mm_unpacklo_epi8(c, d), cd1 = _mm_unpackhi_epi8(c, d);
  out[0] = _mm_unpacklo_epi16(ab0, cd0);
  out[1] = _mm_unpackhi_epi16(ab0, cd0);
  out[2] = _mm_unpacklo_epi16(ab1, cd1);
  out[3] = _mm_unpackhi_epi16(ab1, cd1);
}

inline __m128i Widened(const uint8_t* p) { return _mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), _mm_setzero_si128()); }
inline __m128i Widened(const int8_t* p) { return _mm_srai_epi16(_mm_unpacklo_epi8(_mm_setzero_si128(), _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))), 8); }
inline __m128i Widened(const int16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

// Sixteen columns of two rows, as 16 bits each.
template <typename From>
inline void InterleavePairs(const From* const* rows, int64_t at, __m128i* out) {
  for (int half = 0; half < 2; ++half) {
    const __m128i a = Widened(rows[0] + at + 8 * half), b = Widened(rows[1] + at + 8 * half);
    out[2 * half] = _mm_unpacklo_epi16(a, b);
    out[2 * half + 1] = _mm_unpackhi_epi16(a, b);
  }
}
#endif

// Columns in strips of `width`, which lie `bytes` apart; the last one is filled up with zeros.
struct Strips {
  int64_t columns, width, bytes;
};

constexpr int64_t kStepsAhead = 16;  // are fetched while one is interleaved

template <typename From, typename To, bool kMasked>
void InterleaveSteps(const From* const* from, int64_t stride, int64_t steps, const Masks& masks, const Strips& strips, uint8_t* to) {
  constexpr int kRows = 4 / sizeof(To);
  const From* rows[kRows];  // of this function alone, and the loops over them unrolled: the bytes that are stored might be pointers elsewhere
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) rows[i] = from[i];
#if defined(__SSE2__)
  int32_t word;
  std::memcpy(&word, masks.keep, 4);
  const __m128i keep = _mm_set1_epi32(word), flip = _mm_set1_epi8(static_cast<char>(masks.flip));
#endif
  for (int64_t step = 0; step < steps; ++step) {
    if (strips.columns >= 64)
      for (int64_t c = 0; c < strips.columns; c += 64 / sizeof(From))
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) __builtin_prefetch(rows[i] + (step + kStepsAhead) * stride + c);
    uint8_t* strip = to + step * strips.width * 4;
    for (int64_t first = 0; first < strips.columns; first += strips.width, strip += strips.bytes) {
      const int64_t columns = std::min(strips.width, strips.columns - first), at = step * stride + first;
      int64_t c = 0;
#if defined(__SSE2__)
      for (; c + 16 <= columns; c += 16) {
        __m128i out[4];
        if constexpr (sizeof(To) == 1)
          InterleaveUnit(rows, at + c, out);
        else
          InterleavePairs(rows, at + c, out);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
          _mm_storeu_si128(reinterpret_cast<__m128i*>(strip + 4 * c) + i, kMasked ? _mm_xor_si128(_mm_and_si128(out[i], keep), flip) : out[i]);
      }
#endif
      for (; c < columns; ++c) {
        To values[kRows];
        uint8_t bytes[4];
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) values[i] = static_cast<To>(rows[i][at + c]);
        std::memcpy(bytes, values, 4);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) strip[4 * c + i] = kMasked ? static_cast<uint8_t>((bytes[i] & masks.keep[i]) ^ masks.flip) : bytes[i];
      }
      if (c < strips.width) std::memset(strip + 4 * c, 0, (strips.width - c) * 4);
    }
  }
}

// Rows of values side by side, [strip][step][width][rows]: the four bytes of a column and step hold one value of each of the 4 / sizeof(To) rows. At step s the rows
// begin s * stride values further on. Rows without their bit in `present` count as zeros; `flip` is xored into every byte.
template <typename From, typename To>
void Interleave(const From* const* rows, int64_t stride, int64_t steps, unsigned present, uint8_t flip, Strips strips, uint8_t* to) {
  constexpr int kRows = 4 / sizeof(To);
  if (strips.columns == strips.width && stride == strips.width) {  // the steps, too, are side by side: they are as good as columns
    strips.columns = strips.width = stride * steps;
    steps = steps > 0 ? 1 : 0;
  }
  Masks masks{{}, flip};
  for (int i = 0; i < 4; ++i) masks.keep[i] = present >> (i * kRows / 4) & 1 ? 0xff : 0;
  if (present == (1u << kRows) - 1 && flip == 0)
    InterleaveSteps<From, To, false>(rows, stride, steps, masks, strips, to);
  else
    InterleaveSteps<From, To, true>(rows, stride, steps, masks, strips, to);
}

// The same where the rows of all steps lie `stride` values apart in one array, from value `at` on, and only rows [low, high) of them are there.
template <typename From, typename To>
void InterleaveRun(const From* from, int64_t at, int64_t low, int64_t high, int64_t stride, int64_t steps, uint8_t flip, const Strips& strips, uint8_t* to) {
  constexpr int kRows = 4 / sizeof(To);
  if (low >= high) {
    for (int64_t first = 0; first < strips.columns; first += strips.width, to += strips.bytes) std::memset(to, flip, steps * strips.width * 4);
    return;
  }
  for (int64_t step = 0; step < steps;) {
    const int64_t row = step * kRows;
    const int64_t whole = row >= low ? std::max<int64_t>(0, (high - row) / kRows) : 0;  // steps from here on with all rows
    const From* rows[kRows];
    unsigned present = 0;
    for (int i = 0; i < kRows; ++i) {
      rows[i] = from + at + std::min(std::max(row + i, low), high - 1) * stride;
      if (row + i >= low && row + i < high) present |= 1u << i;
    }
    const int64_t count = std::min(std::max<int64_t>(1, whole), steps - step);
    Interleave<From, To>(rows, kRows * stride, count, present, flip, strips, to + step * strips.width * 4);
    step += count;
  }
}

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_TRAINING_TRANSPOSES_H_
