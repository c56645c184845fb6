// Byte transposes: channels to planes of pixels, and pixels to the packed columns of the tile primitive.
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

template <typename From>
inline void ToPlanes16(const From* from, int64_t pixels, int64_t pixel_stride, int64_t channels, int16_t* to, int64_t plane) {
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t p = 0; p < pixels; ++p) to[c * plane + p] = from[p * pixel_stride + c];
}

// Pixels (`pixel_stride` apart) to [pixels / 4][width][4] bytes, zeros behind the last pixel and column.
inline void ToColumns8(const int8_t* from, int64_t pixels, int64_t pixel_stride, int64_t first, int64_t columns, int64_t width, int8_t* to) {
  for (int64_t p = 0; p < pixels; p += 4, to += 4 * width) {
    const int64_t valid = std::min<int64_t>(4, pixels - p);
    int64_t c = 0;
#if defined(__SSE2__)
    if (valid == 4) {
      const int8_t* base = from + p * pixel_stride + first;
      for (; c + 16 <= columns; c += 16) {
        const auto load = [&](int64_t i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(base + i * pixel_stride + c)); };
        const __m128i a = load(0), b = load(1), d = load(2), e = load(3);
        const __m128i ab0 = _mm_unpacklo_epi8(a, b), ab1 = _mm_unpackhi_epi8(a, b), de0 = _mm_unpacklo_epi8(d, e), de1 = _mm_unpackhi_epi8(d, e);
        __m128i* out = reinterpret_cast<__m128i*>(to + 4 * c);
        _mm_storeu_si128(out, _mm_unpacklo_epi16(ab0, de0));
        _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(ab0, de0));
        _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(ab1, de1));
        _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(ab1, de1));
      }
    }
#endif
    for (int64_t k = c; k < columns; ++k)
      for (int64_t i = 0; i < 4; ++i) to[4 * k + i] = i < valid ? from[(p + i) * pixel_stride + first + k] : 0;
    for (int64_t k = columns; k < width; ++k) std::memset(to + 4 * k, 0, 4);
  }
}

template <typename From>
inline void ToColumns16(const From* from, int64_t pixels, int64_t pixel_stride, int64_t first, int64_t columns, int64_t width, int16_t* to) {
  for (int64_t p = 0; p < pixels; p += 2, to += 2 * width) {
    for (int64_t k = 0; k < width; ++k)
      for (int64_t i = 0; i < 2; ++i) to[2 * k + i] = p + i < pixels && k < columns ? from[(p + i) * pixel_stride + first + k] : 0;
  }
}

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_TRAINING_TRANSPOSES_H_
