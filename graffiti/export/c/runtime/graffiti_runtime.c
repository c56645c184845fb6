/* See graffiti_runtime.h. Loops are written so that compilers vectorise them; the arithmetic is the same everywhere. */
#include "graffiti_runtime.h"

#include <string.h>

/* Loops for the SIMD of Cortex-M where the compiler says that it is there; -DGRAFFITI_PORTABLE keeps to the plain ones.
 */
#if !defined(GRAFFITI_PORTABLE) && defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1) && !defined(__ARM_BIG_ENDIAN)
#define GRAFFITI_USE_MVE
#include <arm_mve.h>
#elif !defined(GRAFFITI_PORTABLE) && defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32) && \
    !defined(__ARM_BIG_ENDIAN)
#define GRAFFITI_USE_DSP
#include <arm_acle.h>
#endif

/* Rounding shifts rely on an arithmetic right shift of negative integers, which C99 leaves to the compiler. */
typedef char graffiti_needs_arithmetic_right_shift[(((int32_t)-3) >> 1) == -2 ? 1 : -1];

static int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

/* ---- loading and storing: every storage type to and from int32 ---- */

#define WIDEN(type)                                                                                   \
    do {                                                                                              \
        const type *from = (const type *)x + start;                                                   \
        if (step == 1) for (int32_t i = 0; i < count; i++) out[i] = from[i];                          \
        else for (int32_t i = 0; i < count; i++) out[i] = from[(size_t)i * (size_t)step];             \
    } while (0)

static void load(const void *x, graffiti_type type, size_t start, int32_t step, int32_t count, int32_t *restrict out) {
    switch (type) {
        case GRAFFITI_S8: WIDEN(int8_t); break;
        case GRAFFITI_U8: WIDEN(uint8_t); break;
        case GRAFFITI_S16: WIDEN(int16_t); break;
        case GRAFFITI_U16: WIDEN(uint16_t); break;
        case GRAFFITI_S32: WIDEN(int32_t); break;
        case GRAFFITI_S4: break; /* kernels only */
    }
}

/* S8, U8 and S16 only: what fits in 16 bits. */
static void load_16(const void *x, graffiti_type type, size_t start, int32_t count, int16_t *restrict out) {
    const int32_t step = 1;
    if (type == GRAFFITI_S8) WIDEN(int8_t);
    else if (type == GRAFFITI_U8) WIDEN(uint8_t);
    else memcpy(out, (const int16_t *)x + start, (size_t)count * sizeof(int16_t));
}

#define NARROW(type)                                                             \
    do {                                                                         \
        type *to = (type *)out + start;                                          \
        for (int32_t i = 0; i < count; i++) to[i] = (type)values[i];             \
    } while (0)

/* The values lie in the type's range: the last stage of an epilogue clamps. */
static void store(void *out, graffiti_type type, size_t start, int32_t count, const int32_t *restrict values) {
    switch (type) {
        case GRAFFITI_S8: NARROW(int8_t); break;
        case GRAFFITI_U8: NARROW(uint8_t); break;
        case GRAFFITI_S16: NARROW(int16_t); break;
        case GRAFFITI_U16: NARROW(uint16_t); break;
        case GRAFFITI_S32: NARROW(int32_t); break;
        case GRAFFITI_S4: break; /* kernels only */
    }
}

/* ---- rounding shifts ---- */

/* floor(value / 2^shift), plus one where the bits that fall off and the tie rule together exceed one half. */
#define ROUND_SHIFT(integer, natural, value, shift, half, tie) \
    (((value) >> (shift)) + (integer)((((natural)(value) & (((natural)1 << (shift)) - 1)) + (natural)(tie)) > (half)))

int32_t graffiti_requantize_one(int32_t value, int32_t shift, graffiti_rounding rounding, int32_t low, int32_t high) {
    int64_t wide = value;
    if (shift < 0) {
        wide *= (int64_t)1 << -shift;
    } else if (shift > 0) {
        const uint64_t half = rounding == GRAFFITI_FLOOR ? UINT64_MAX : (uint64_t)1 << (shift - 1);
        const int64_t tie = rounding == GRAFFITI_HALF_EVEN ? (wide >> shift) & 1
                            : rounding == GRAFFITI_HALF_UP ? 1
                                                           : wide >= 0;
        wide = ROUND_SHIFT(int64_t, uint64_t, wide, shift, half, tie);
    }
    return wide < low ? low : wide > high ? high : (int32_t)wide;
}

static int32_t clamp(int32_t value, int32_t low, int32_t high) {
    value = value < low ? low : value;
    return value > high ? high : value;
}

/* 32-bit shifts of 1...31 for all rounding modes; `s`, `tie` see the loop variable. */
#define SHIFT_LOOP(s, tie)                                                                                   \
    for (int32_t i = 0; i < count; i++) {                                                                    \
        const uint32_t half = (uint32_t)1 << ((s) - 1);                                                      \
        values[i] = clamp(ROUND_SHIFT(int32_t, uint32_t, values[i], s, half, tie), stage->low, stage->high); \
    }
#define SHIFT_MODES(s)                                                                                        \
    switch (stage->rounding) {                                                                                \
        case GRAFFITI_HALF_EVEN: SHIFT_LOOP(s, (values[i] >> (s)) & 1); break;                                \
        case GRAFFITI_HALF_UP: SHIFT_LOOP(s, 1); break;                                                       \
        case GRAFFITI_HALF_AWAY: SHIFT_LOOP(s, values[i] >= 0); break;                                        \
        case GRAFFITI_FLOOR:                                                                                  \
            for (int32_t i = 0; i < count; i++) values[i] = clamp(values[i] >> (s), stage->low, stage->high); \
            break;                                                                                            \
    }

static void run_stage(const graffiti_stage *stage, int32_t channel, int32_t count, int32_t *restrict values) {
    if (stage->bias != NULL) {
        const int32_t *bias = stage->bias + channel;
        for (int32_t i = 0; i < count; i++) values[i] += bias[i];
    }
    if (stage->shifts != NULL) {
        const int8_t *shifts = stage->shifts + channel;
        int32_t plain = 1;
        for (int32_t i = 0; i < count; i++) plain &= shifts[i] >= 1 && shifts[i] <= 31;
        if (plain) {
            SHIFT_MODES((int32_t)shifts[i])
        } else {
            for (int32_t i = 0; i < count; i++)
                values[i] = graffiti_requantize_one(values[i], shifts[i], stage->rounding, stage->low, stage->high);
        }
    } else if (stage->shift >= 1 && stage->shift <= 31) {
        const int32_t shift = stage->shift;
        SHIFT_MODES(shift)
    } else if (stage->shift == 0) {
        for (int32_t i = 0; i < count; i++) values[i] = clamp(values[i], stage->low, stage->high);
    } else {
        for (int32_t i = 0; i < count; i++)
            values[i] = graffiti_requantize_one(values[i], stage->shift, stage->rounding, stage->low, stage->high);
    }
}

/* A row of accumulators of consecutive channels becomes codes at out[start...]. */
static void finish(const graffiti_epilogue *epilogue, int32_t channel, int32_t count, int32_t *values, void *out,
                   size_t start) {
    for (int32_t i = 0; i < epilogue->count; i++) run_stage(epilogue->stages + i, channel, count, values);
    store(out, epilogue->type, start, count, values);
}

/* ---- products ---- */

/* A 4-bit weight: element i of a row that was packed two to a byte, the even one in the low half. */
static int32_t nibble(const uint8_t *row, int32_t i) {
    return (int32_t)(((uint32_t)row[i >> 1] >> ((i & 1) * 4) & 15u) ^ 8u) - 8;
}

/* sums[r] += x . w[r] for rows of w; four rows at a time share the loads of x. DOT(x, w, sum, more) adds up the
 * products of one row, DOT4 those of four; a row takes `width` elements of w. */
#define DEFINE_ROWS(name, x_type, w_type, width, DOT4, DOT)                                             \
    static void name(const x_type *restrict x, const w_type *restrict w, int32_t count, int32_t rows,   \
                     int32_t *restrict sums) {                                                          \
        int32_t r = 0;                                                                                  \
        for (; r + 4 <= rows; r += 4) {                                                                 \
            const w_type *w0 = w + (size_t)r * (size_t)(width), *w1 = w0 + (width), *w2 = w1 + (width), \
                         *w3 = w2 + (width);                                                            \
            int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;                                                     \
            DOT4;                                                                                       \
            sums[r] += s0;                                                                              \
            sums[r + 1] += s1;                                                                          \
            sums[r + 2] += s2;                                                                          \
            sums[r + 3] += s3;                                                                          \
        }                                                                                               \
        for (; r < rows; r++) {                                                                         \
            const w_type *w0 = w + (size_t)r * (size_t)(width);                                         \
            int32_t s0 = 0;                                                                             \
            DOT;                                                                                        \
            sums[r] += s0;                                                                              \
        }                                                                                               \
    }

/* sums[c] += x[x_start + c] * w[w_start + c]: one tap of a depthwise kernel; `multiplier` outputs for each channel. */
typedef void tap_loop(const void *x_at, size_t x_start, const void *w_at, size_t w_start, int32_t channels,
                      int32_t multiplier, int32_t *restrict sums);

#define DEFINE_TAP(name, x_type, w_type)                                                                               \
    static void name(const void *x_at, size_t x_start, const void *w_at, size_t w_start, int32_t channels,             \
                     int32_t multiplier, int32_t *restrict sums) {                                                     \
        const x_type *restrict x = (const x_type *)x_at + x_start;                                                     \
        const w_type *restrict w = (const w_type *)w_at + w_start;                                                     \
        if (multiplier == 1) {                                                                                         \
            for (int32_t c = 0; c < channels; c++) sums[c] += (int32_t)x[c] * w[c];                                    \
        } else {                                                                                                       \
            for (int32_t c = 0; c < channels; c++, w += multiplier, sums += multiplier)                                \
                for (int32_t m = 0; m < multiplier; m++) sums[m] += (int32_t)x[c] * w[m];                              \
        }                                                                                                              \
    }

#if defined(GRAFFITI_USE_MVE)
#include "graffiti_rows_mve.h"
#elif defined(GRAFFITI_USE_DSP)
#include "graffiti_rows_dsp.h"
#else
#include "graffiti_rows_plain.h"
#endif

#define WIDE_ONE(row, sum) sum += x[i] * row[i];
#define WIDE_LOOP(BODY) for (int32_t i = 0; i < count; i++) { BODY }
DEFINE_ROWS(rows_s32, int32_t, int32_t, count,
            WIDE_LOOP(WIDE_ONE(w0, s0) WIDE_ONE(w1, s1) WIDE_ONE(w2, s2) WIDE_ONE(w3, s3)), WIDE_LOOP(WIDE_ONE(w0, s0)))

/* Rows of a kernel from the row `first` on. */
static void rows(const void *patch, const void *kernel, graffiti_type kernel_type, size_t first, int32_t count,
                 int32_t row_count, int32_t *sums) {
    const size_t start = first * (size_t)count;
    if (kernel_type == GRAFFITI_S8)
        rows_s8((const int16_t *)patch, (const int8_t *)kernel + start, count, row_count, sums);
    else if (kernel_type == GRAFFITI_S4)
        rows_s4((const int16_t *)patch, (const uint8_t *)kernel + first * (size_t)((count + 1) / 2), count, row_count,
                sums);
    else if (kernel_type == GRAFFITI_S16)
        rows_s16((const int16_t *)patch, (const int16_t *)kernel + start, count, row_count, sums);
    else rows_s32((const int32_t *)patch, (const int32_t *)kernel + start, count, row_count, sums);
}

/* Append `count` elements of x (zeros where it is NULL) to a patch of int16, or of int32 where `wide`. */
static void append(void *patch, int32_t at, int wide, const void *x, graffiti_type x_type, size_t start,
                   int32_t count) {
    if (wide) {
        int32_t *to = (int32_t *)patch + at;
        if (x == NULL) memset(to, 0, (size_t)count * sizeof(int32_t));
        else load(x, x_type, start, 1, count, to);
    } else {
        int16_t *to = (int16_t *)patch + at;
        if (x == NULL) memset(to, 0, (size_t)count * sizeof(int16_t));
        else load_16(x, x_type, start, count, to);
    }
}

/* The input elements under the window at (row, column), one group of channels, in the order of the kernel. */
static void gather(const graffiti_window *v, const void *x, graffiti_type x_type, int32_t row, int32_t column,
                   int32_t group, int wide, void *patch) {
    const int32_t channels = v->in_channels / v->groups, top = row * v->stride_y - v->pad_top,
                  left = column * v->stride_x - v->pad_left;
    int32_t at = 0;
    for (int32_t ky = 0; ky < v->kernel_height; ky++) {
        const int32_t y = top + ky * v->dilation_y;
        const size_t line = (size_t)(y < 0 ? 0 : y) * (size_t)v->in_width;
        if (y < 0 || y >= v->in_height) {
            append(patch, at, wide, NULL, x_type, 0, v->kernel_width * channels);
            at += v->kernel_width * channels;
        } else if (v->groups == 1 && v->dilation_x == 1 && left >= 0 &&
                   left + v->kernel_width <= v->in_width) { /* contiguous */
            append(patch, at, wide, x, x_type, (line + (size_t)left) * (size_t)channels, v->kernel_width * channels);
            at += v->kernel_width * channels;
        } else {
            for (int32_t kx = 0; kx < v->kernel_width; kx++, at += channels) {
                const int32_t c = left + kx * v->dilation_x;
                if (c < 0 || c >= v->in_width) append(patch, at, wide, NULL, x_type, 0, channels);
                else
                    append(patch, at, wide, x, x_type,
                           (line + (size_t)c) * (size_t)v->in_channels + (size_t)(group * channels), channels);
            }
        }
    }
}

void graffiti_conv(const graffiti_window *window, const void *x, graffiti_type x_type, const void *kernel,
                   graffiti_type kernel_type, const graffiti_epilogue *epilogue, void *out, void *scratch) {
    const graffiti_window *v = window;
    const int32_t outputs = v->out_channels / v->groups,
                  taps = v->kernel_height * v->kernel_width * (v->in_channels / v->groups);
    const int wide = kernel_type == GRAFFITI_S32;
    int32_t sums[GRAFFITI_BLOCK];
    size_t at = 0;
    for (int32_t row = 0; row < v->out_height; row++) {
        for (int32_t column = 0; column < v->out_width; column++) {
            for (int32_t group = 0; group < v->groups; group++, at += (size_t)outputs) {
                gather(v, x, x_type, row, column, group, wide, scratch);
                for (int32_t c = 0; c < outputs; c += GRAFFITI_BLOCK) {
                    const int32_t count = smaller(GRAFFITI_BLOCK, outputs - c), channel = group * outputs + c;
                    memset(sums, 0, (size_t)count * sizeof(int32_t));
                    rows(scratch, kernel, kernel_type, (size_t)channel, taps, count, sums);
                    finish(epilogue, channel, count, sums, out, at + (size_t)c);
                }
            }
        }
    }
}

void graffiti_conv_transpose(const graffiti_window *window, const void *x, graffiti_type x_type, const void *kernel,
                             graffiti_type kernel_type, const graffiti_epilogue *epilogue, void *out,
                             int32_t *scratch) {
    const graffiti_window *v = window;
    const int wide = kernel_type == GRAFFITI_S32;
    int32_t *sums = scratch;
    void *patch = scratch + v->out_channels;
    size_t at = 0;
    for (int32_t row = 0; row < v->out_height; row++) {
        for (int32_t column = 0; column < v->out_width; column++, at += (size_t)v->out_channels) {
            memset(sums, 0, (size_t)v->out_channels * sizeof(int32_t));
            for (int32_t ky = 0; ky < v->kernel_height;
                 ky++) { /* input row y reaches output row y * stride + ky - pad */
                const int32_t y = row + v->pad_top - ky;
                if (y < 0 || y % v->stride_y != 0 || y / v->stride_y >= v->in_height) continue;
                for (int32_t kx = 0; kx < v->kernel_width; kx++) {
                    const int32_t c = column + v->pad_left - kx;
                    if (c < 0 || c % v->stride_x != 0 || c / v->stride_x >= v->in_width) continue;
                    const size_t pixel = (size_t)(y / v->stride_y) * (size_t)v->in_width + (size_t)(c / v->stride_x);
                    const size_t tap = (size_t)(ky * v->kernel_width + kx) * (size_t)v->out_channels;
                    append(patch, 0, wide, x, x_type, pixel * (size_t)v->in_channels, v->in_channels);
                    rows(patch, kernel, kernel_type, tap, v->in_channels, v->out_channels, sums);
                }
            }
            finish(epilogue, 0, v->out_channels, sums, out, at);
        }
    }
}

/* ---- depthwise ---- */

DEFINE_TAP(tap_s8_s16, int8_t, int16_t)
DEFINE_TAP(tap_u8_s16, uint8_t, int16_t)
DEFINE_TAP(tap_s16_s16, int16_t, int16_t)
DEFINE_TAP(tap_s32_s32, int32_t, int32_t)

/* The loop for an input and a kernel of up to 16 bits; NULL for the types that go through int32. */
static tap_loop *tap_loop_of(graffiti_type x_type, graffiti_type kernel_type) {
    static tap_loop *const loops[2][3] = {
        {tap_s8_s8, tap_u8_s8, tap_s16_s8},
        {tap_s8_s16, tap_u8_s16, tap_s16_s16},
    };
    const int x_row = x_type == GRAFFITI_S8 ? 0 : x_type == GRAFFITI_U8 ? 1 : x_type == GRAFFITI_S16 ? 2 : -1;
    if (x_row < 0 || (kernel_type != GRAFFITI_S8 && kernel_type != GRAFFITI_S16)) return NULL;
    return loops[kernel_type == GRAFFITI_S16][x_row];
}

/* A tap of 4-bit weights: where an output channel has one input channel, a block of weights at a time becomes bytes. */
static void tap_s4(const graffiti_window *v, const void *x, graffiti_type x_type, size_t x_start, const uint8_t *row,
                   int32_t *sums) {
    const int32_t channels = v->in_channels, multiplier = v->out_channels / v->in_channels;
    if (multiplier == 1) {
        int8_t weights[GRAFFITI_BLOCK];
        for (int32_t c = 0; c < channels; c += GRAFFITI_BLOCK) {
            const int32_t count = smaller(GRAFFITI_BLOCK, channels - c);
            for (int32_t i = 0; i < count; i++) weights[i] = (int8_t)nibble(row, c + i);
            tap_loop_of(x_type, GRAFFITI_S8)(x, x_start + (size_t)c, weights, 0, count, 1, sums + c);
        }
        return;
    }
    for (int32_t c = 0; c < channels; c++) {
        int32_t value = 0;
        load(x, x_type, x_start + (size_t)c, 1, 1, &value);
        for (int32_t m = 0; m < multiplier; m++) sums[c * multiplier + m] += value * nibble(row, c * multiplier + m);
    }
}

/* sums += x[pixel] * kernel[tap], channel by channel; what has no loop of its own goes through int32 in blocks. */
static void tap(const graffiti_window *v, const void *x, graffiti_type x_type, size_t x_start, const void *kernel,
                graffiti_type kernel_type, size_t tap_index, int32_t *sums) {
    const int32_t channels = v->in_channels, multiplier = v->out_channels / v->in_channels;
    const size_t k_start = tap_index * (size_t)v->out_channels;
    if (kernel_type == GRAFFITI_S4) { /* inputs of S8, U8 and S16 only */
        tap_s4(v, x, x_type, x_start, (const uint8_t *)kernel + tap_index * (size_t)((v->out_channels + 1) / 2), sums);
        return;
    }
    tap_loop *const loop = tap_loop_of(x_type, kernel_type);
    if (loop != NULL) {
        loop(x, x_start, kernel, k_start, channels, multiplier, sums);
        return;
    }
    int32_t block[GRAFFITI_BLOCK], weights[GRAFFITI_BLOCK];
    for (int32_t c = 0; c < channels; c += GRAFFITI_BLOCK) {
        const int32_t count = smaller(GRAFFITI_BLOCK, channels - c);
        load(x, x_type, x_start + (size_t)c, 1, count, block);
        for (int32_t m = 0; m < multiplier; m++) {
            load(kernel, kernel_type, k_start + (size_t)(c * multiplier + m), multiplier, count, weights);
            if (multiplier == 1) tap_s32_s32(block, 0, weights, 0, count, 1, sums + c);
            else for (int32_t i = 0; i < count; i++) sums[(c + i) * multiplier + m] += block[i] * weights[i];
        }
    }
}

void graffiti_depthwise_conv(const graffiti_window *window, const void *x, graffiti_type x_type, const void *kernel,
                             graffiti_type kernel_type, const graffiti_epilogue *epilogue, void *out,
                             int32_t *scratch) {
    const graffiti_window *v = window;
    size_t at = 0;
    for (int32_t row = 0; row < v->out_height; row++) {
        for (int32_t column = 0; column < v->out_width; column++, at += (size_t)v->out_channels) {
            memset(scratch, 0, (size_t)v->out_channels * sizeof(int32_t));
            for (int32_t ky = 0; ky < v->kernel_height; ky++) {
                const int32_t y = row * v->stride_y - v->pad_top + ky * v->dilation_y;
                if (y < 0 || y >= v->in_height) continue;
                for (int32_t kx = 0; kx < v->kernel_width; kx++) {
                    const int32_t c = column * v->stride_x - v->pad_left + kx * v->dilation_x;
                    if (c < 0 || c >= v->in_width) continue;
                    tap(v, x, x_type, ((size_t)y * (size_t)v->in_width + (size_t)c) * (size_t)v->in_channels,
                        kernel, kernel_type, (size_t)(ky * v->kernel_width + kx), scratch);
                }
            }
            finish(epilogue, 0, v->out_channels, scratch, out, at);
        }
    }
}

/* ---- pools ---- */

/* values[...] = the sum, or the maximum, over the window at (row, column) of `count` channels from `channel` on. */
static void reduce(const graffiti_window *v, const void *x, graffiti_type type, int32_t row, int32_t column,
                   int32_t channel, int32_t count, int maximum, int32_t *restrict values) {
    int32_t block[GRAFFITI_BLOCK];
    for (int32_t i = 0; i < count; i++) values[i] = maximum ? INT32_MIN : 0;
    for (int32_t ky = 0; ky < v->kernel_height; ky++) {
        const int32_t y = row * v->stride_y - v->pad_top + ky * v->dilation_y;
        if (y < 0 || y >= v->in_height) continue;
        for (int32_t kx = 0; kx < v->kernel_width; kx++) {
            const int32_t c = column * v->stride_x - v->pad_left + kx * v->dilation_x;
            if (c < 0 || c >= v->in_width) continue;
            load(x, type, ((size_t)y * (size_t)v->in_width + (size_t)c) * (size_t)v->in_channels + (size_t)channel, 1,
                 count, block);
            if (maximum) for (int32_t i = 0; i < count; i++) values[i] = block[i] > values[i] ? block[i] : values[i];
            else for (int32_t i = 0; i < count; i++) values[i] += block[i];
        }
    }
}

void graffiti_sum_pool(const graffiti_window *window, const void *x, graffiti_type x_type, int32_t value,
                       const graffiti_epilogue *epilogue, void *out, int32_t *scratch) {
    const graffiti_window *v = window;
    size_t at = 0;
    for (int32_t row = 0; row < v->out_height; row++) {
        for (int32_t column = 0; column < v->out_width; column++, at += (size_t)v->out_channels) {
            for (int32_t c = 0; c < v->out_channels; c += GRAFFITI_BLOCK)
                reduce(v, x, x_type, row, column, c, smaller(GRAFFITI_BLOCK, v->out_channels - c), 0, scratch + c);
            for (int32_t c = 0; c < v->out_channels; c++) scratch[c] *= value;
            finish(epilogue, 0, v->out_channels, scratch, out, at);
        }
    }
}

/* round(n / d) where the quotient was cut to its floor q with the rest r: nothing here needs more bits than d. */
#define ROUND_QUOTIENT(q, r, d, negative)                                                             \
    ((r) > (d) - (r)                                       ? (q) + (mean->rounding != GRAFFITI_FLOOR) \
     : (r) < (d) - (r) || mean->rounding == GRAFFITI_FLOOR ? (q)                                      \
     : mean->rounding == GRAFFITI_HALF_EVEN                ? (q) + ((q) & 1)                          \
                                                           : (q) + (mean->rounding == GRAFFITI_HALF_UP || !(negative)))

int32_t graffiti_mean_one(int32_t sum, int32_t elements, const graffiti_mean *mean) {
    int64_t n = sum, d = elements, q, r;
    if (mean->shift < 0) { /* a sum beyond the bound stays out of the range of every code behind the division */
        const int64_t bound = (int64_t)1 << (62 + mean->shift);
        n = (n < -bound ? -bound : n > bound ? bound : n) * ((int64_t)1 << -mean->shift);
    } else {
        d *= (int64_t)1 << smaller(mean->shift, 33); /* beyond, every quotient is less than one half */
    }
    q = n / d;
    r = n - q * d;
    if (r < 0) { /* C cuts towards zero */
        q--;
        r += d;
    }
    q = ROUND_QUOTIENT(q, r, d, n < 0);
    return q < mean->low ? mean->low : q > mean->high ? mean->high : (int32_t)q;
}

/* The sums of one pixel become codes: in 32 bits, which processors divide fast, where nothing leaves them. */
static void divide(const graffiti_mean *mean, int32_t elements, int32_t count, int32_t *restrict values) {
    const int32_t left = mean->shift < 0 ? -mean->shift : 0, right = mean->shift > 0 ? mean->shift : 0;
    int32_t largest = 0;
    for (int32_t i = 0; i < count; i++) largest |= values[i] < 0 ? ~values[i] : values[i];
    if (left >= 30 || right >= 30 || largest >= (int32_t)1 << (30 - left) || elements > (int32_t)1 << (29 - right)) {
        for (int32_t i = 0; i < count; i++) values[i] = graffiti_mean_one(values[i], elements, mean);
        return;
    }
    const int32_t d = elements * ((int32_t)1 << right);
    for (int32_t i = 0; i < count; i++) {
        const int32_t n = values[i] * ((int32_t)1 << left);
        int32_t q = n / d, r = n - q * d;
        if (r < 0) {
            q--;
            r += d;
        }
        q = ROUND_QUOTIENT(q, r, d, n < 0);
        values[i] = q < mean->low ? mean->low : q > mean->high ? mean->high : q;
    }
}

/* How many of `count` taps from `start` on lie within `size`. */
static int32_t inside(int32_t start, int32_t count, int32_t size) {
    const int32_t end = smaller(start + count, size);
    return end - (start > 0 ? start : 0);
}

void graffiti_average_pool(const graffiti_window *window, const void *x, graffiti_type x_type,
                           const graffiti_mean *mean, void *out, int32_t *scratch) {
    const graffiti_window *v = window;
    size_t at = 0;
    for (int32_t row = 0; row < v->out_height; row++) {
        const int32_t rows = inside(row * v->stride_y - v->pad_top, v->kernel_height, v->in_height);
        for (int32_t column = 0; column < v->out_width; column++, at += (size_t)v->out_channels) {
            const int32_t elements = rows * inside(column * v->stride_x - v->pad_left, v->kernel_width, v->in_width);
            for (int32_t c = 0; c < v->out_channels; c += GRAFFITI_BLOCK)
                reduce(v, x, x_type, row, column, c, smaller(GRAFFITI_BLOCK, v->out_channels - c), 0, scratch + c);
            divide(mean, mean->divide ? elements : 1, v->out_channels, scratch);
            store(out, mean->type, at, v->out_channels, scratch);
        }
    }
}

void graffiti_max_pool(const graffiti_window *window, const void *x, graffiti_type type, void *out) {
    const graffiti_window *v = window;
    int32_t values[GRAFFITI_BLOCK];
    size_t at = 0;
    for (int32_t row = 0; row < v->out_height; row++) {
        for (int32_t column = 0; column < v->out_width; column++, at += (size_t)v->out_channels) {
            for (int32_t c = 0; c < v->out_channels; c += GRAFFITI_BLOCK) {
                const int32_t count = smaller(GRAFFITI_BLOCK, v->out_channels - c);
                reduce(v, x, type, row, column, c, count, 1, values);
                store(out, type, at + (size_t)c, count, values);
            }
        }
    }
}

/* ---- elementwise ---- */

static void combine(graffiti_operator operation, int32_t count, int32_t *restrict a, const int32_t *restrict b) {
    switch (operation) {
        case GRAFFITI_ADD: for (int32_t i = 0; i < count; i++) a[i] += b[i]; break;
        case GRAFFITI_SUBTRACT: for (int32_t i = 0; i < count; i++) a[i] -= b[i]; break;
        case GRAFFITI_MULTIPLY: for (int32_t i = 0; i < count; i++) a[i] *= b[i]; break;
        case GRAFFITI_MAXIMUM: for (int32_t i = 0; i < count; i++) a[i] = a[i] > b[i] ? a[i] : b[i]; break;
        case GRAFFITI_MINIMUM: for (int32_t i = 0; i < count; i++) a[i] = a[i] < b[i] ? a[i] : b[i]; break;
    }
}

/* Step the outer axes of the loops; false after the last position. The offsets follow. */
static int advance(const graffiti_loops *loops, int32_t *index, size_t *a, size_t *b) {
    for (int32_t axis = loops->rank - 2; axis >= 0; axis--) {
        *a += (size_t)loops->a_step[axis];
        *b += (size_t)loops->b_step[axis];
        if (++index[axis] < loops->size[axis]) return 1;
        *a -= (size_t)loops->a_step[axis] * (size_t)loops->size[axis];
        *b -= (size_t)loops->b_step[axis] * (size_t)loops->size[axis];
        index[axis] = 0;
    }
    return 0;
}

void graffiti_binary(graffiti_operator operation, const graffiti_loops *loops, const void *a, graffiti_type a_type,
                     const void *b, graffiti_type b_type, const graffiti_epilogue *epilogue, void *out) {
    const int32_t inner = loops->size[loops->rank - 1], a_step = loops->a_step[loops->rank - 1],
                  b_step = loops->b_step[loops->rank - 1];
    int32_t index[GRAFFITI_MAX_RANK] = {0}, left[GRAFFITI_BLOCK], right[GRAFFITI_BLOCK];
    size_t a_start = 0, b_start = 0, at = 0;
    do {
        for (int32_t i = 0; i < inner; i += GRAFFITI_BLOCK) {
            const int32_t count = smaller(GRAFFITI_BLOCK, inner - i);
            load(a, a_type, a_start + (size_t)i * (size_t)a_step, a_step, count, left);
            load(b, b_type, b_start + (size_t)i * (size_t)b_step, b_step, count, right);
            combine(operation, count, left, right);
            finish(epilogue, i, count, left, out, at + (size_t)i);
        }
        at += (size_t)inner;
    } while (advance(loops, index, &a_start, &b_start));
}

void graffiti_requantize(const void *x, graffiti_type x_type, int32_t row_count, int32_t channels,
                         const graffiti_epilogue *epilogue, void *out) {
    int32_t values[GRAFFITI_BLOCK];
    for (int32_t row = 0; row < row_count; row++) {
        for (int32_t c = 0; c < channels; c += GRAFFITI_BLOCK) {
            const int32_t count = smaller(GRAFFITI_BLOCK, channels - c);
            const size_t at = (size_t)row * (size_t)channels + (size_t)c;
            load(x, x_type, at, 1, count, values);
            finish(epilogue, c, count, values, out, at);
        }
    }
}

void graffiti_lookup(const void *x, graffiti_type x_type, int32_t lowest, const void *table, graffiti_type type,
                     int32_t count, void *out) {
    int32_t codes[GRAFFITI_BLOCK];
    for (int32_t start = 0; start < count; start += GRAFFITI_BLOCK) {
        const int32_t block = smaller(GRAFFITI_BLOCK, count - start);
        load(x, x_type, (size_t)start, 1, block, codes);
        for (int32_t i = 0; i < block; i++) load(table, type, (size_t)(codes[i] - lowest), 1, 1, codes + i);
        store(out, type, (size_t)start, block, codes);
    }
}

/* ---- moves ---- */

#define MOVE_LOOP(type)                                                                                              \
    do {                                                                                                             \
        const type *s = (const type *)source + (ptrdiff_t)from;                                                      \
        type *d = (type *)destination + to;                                                                          \
        for (int32_t i = 0; i < inner; i++) d[(size_t)i * (size_t)to_step] = s[(ptrdiff_t)i * (ptrdiff_t)from_step]; \
    } while (0)

void graffiti_move(const graffiti_loops *loops, const void *source, void *destination, int32_t bytes) {
    const int32_t inner = loops->size[loops->rank - 1], from_step = loops->a_step[loops->rank - 1],
                  to_step = loops->b_step[loops->rank - 1];
    int32_t index[GRAFFITI_MAX_RANK] = {0};
    size_t from = 0, to = 0;
    do {
        if (from_step == 1 && to_step == 1)
            memcpy((unsigned char *)destination + to * (size_t)bytes,
                   (const unsigned char *)source + (ptrdiff_t)(from * (size_t)bytes), (size_t)inner * (size_t)bytes);
        else if (bytes == 1) MOVE_LOOP(uint8_t);
        else if (bytes == 2) MOVE_LOOP(uint16_t);
        else MOVE_LOOP(uint32_t);
    } while (advance(loops, index, &from, &to));
}
