/* The runtime of graffiti's exported networks: integer kernels in plain C99, without heap, floats or dependencies.
 *
 * A code is an integer; its real value is code * 2^exponent, there are no zero-points. Tensors are dense, channels
 * last, one example at a time. One copy of this file serves any number of exported networks.
 *
 * Every kernel computes rows of int32 accumulators, sends them through the stages of an epilogue (bias, rounding shift,
 * clamp) and stores them in the type of its output, so that accumulators never stand in memory as a tensor.
 * The exporter proves that no accumulator leaves int32.
 *
 * Where the compiler defines __ARM_FEATURE_MVE or __ARM_FEATURE_DSP the inner loops of products use those instructions
 * (-DGRAFFITI_PORTABLE keeps to plain C); integers do not depend on it.
 */
#ifndef GRAFFITI_RUNTIME_H
#define GRAFFITI_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GRAFFITI_MAX_RANK 8
#define GRAFFITI_BLOCK 64 /* elements that elementwise kernels hold on the stack as int32 */

/* How codes are stored. S4 is for kernels only: two weights to a byte, the first in the low half, every row of them
 * (the last axis of a kernel) from a fresh byte on. */
typedef enum { GRAFFITI_S8, GRAFFITI_U8, GRAFFITI_S16, GRAFFITI_U16, GRAFFITI_S32, GRAFFITI_S4 } graffiti_type;

/* What a right shift does with the bits that fall off. */
typedef enum { GRAFFITI_HALF_EVEN, GRAFFITI_HALF_UP, GRAFFITI_HALF_AWAY, GRAFFITI_FLOOR } graffiti_rounding;

/* value = clamp(round((value + bias) / 2^shift), low, high) */
typedef struct {
    const int32_t *bias;   /* one per channel, or NULL */
    const int8_t *shifts;  /* one per channel, or NULL: `shift` for all. -32...62, a negative shift multiplies */
    int32_t shift;
    graffiti_rounding rounding;
    int32_t low, high;
} graffiti_stage;

/* The stages in order, then the type that is stored. */
typedef struct {
    const graffiti_stage *stages;
    int32_t count;
    graffiti_type type;
} graffiti_epilogue;

/* A window that slides over (height, width, channels); 1-D has height 1. Padding is zeros (nothing, for a maximum). */
typedef struct {
    int32_t in_height, in_width, in_channels;
    int32_t out_height, out_width, out_channels;
    int32_t kernel_height, kernel_width;
    int32_t stride_y, stride_x;
    int32_t dilation_y, dilation_x;
    int32_t pad_top, pad_left;
    int32_t groups;
} graffiti_window;

/* A nest of loops over `rank` axes, the last one innermost; steps in elements, 0 repeats. */
typedef struct {
    int32_t rank;
    int32_t size[GRAFFITI_MAX_RANK];
    int32_t a_step[GRAFFITI_MAX_RANK]; /* of the first operand (of the source, for a move) */
    int32_t b_step[GRAFFITI_MAX_RANK]; /* of the second operand (of the destination, for a move) */
} graffiti_loops;

typedef enum {
    GRAFFITI_ADD,
    GRAFFITI_SUBTRACT,
    GRAFFITI_MULTIPLY,
    GRAFFITI_MAXIMUM,
    GRAFFITI_MINIMUM
} graffiti_operator;

/* How the sum of a window becomes a code: clamp(round(sum / (elements * 2^shift)), low, high); elements is 1 where it
 * does not divide. */
typedef struct {
    int32_t divide;
    int32_t shift; /* -61...62 */
    graffiti_rounding rounding;
    int32_t low, high;
    graffiti_type type; /* of the output */
} graffiti_mean;

/* round(value / 2^shift) with int64 inside, clamped to [low, high]; shift in -32...62. */
int32_t graffiti_requantize_one(int32_t value, int32_t shift, graffiti_rounding rounding, int32_t low, int32_t high);

/* Convolution. kernel: [out_channels][kernel_height * kernel_width * in_channels / groups]. A dense layer is a 1x1
 * window. kernel_type S4, S8 and S16 take S8, U8 and S16 inputs; kernel_type S32 takes every input. scratch: int16[taps
 * * in_channels / groups] (int32 where kernel_type is S32), aligned to 4 bytes. With one group, no padding and pixels
 * that do not grow `out` may be the memory of x: an output is written after everything that it and those before it
 * read. */
void graffiti_conv(const graffiti_window *window, const void *x, graffiti_type x_type, const void *kernel,
                   graffiti_type kernel_type, const graffiti_epilogue *epilogue, void *out, void *scratch);

/* Depthwise convolution; out_channels = in_channels * multiplier. kernel: [kernel_height][kernel_width][out_channels],
 * S8, S16 or S32, or S4 with S8, U8 and S16 inputs. scratch: int32[out_channels]. */
void graffiti_depthwise_conv(const graffiti_window *window, const void *x, graffiti_type x_type, const void *kernel,
                             graffiti_type kernel_type, const graffiti_epilogue *epilogue, void *out, int32_t *scratch);

/* Depthwise convolution whose kernel holds one value everywhere (a published average pool): value * sum over the
 * window. scratch: int32[out_channels]. */
void graffiti_sum_pool(const graffiti_window *window, const void *x, graffiti_type x_type, int32_t value,
                       const graffiti_epilogue *epilogue, void *out, int32_t *scratch);

/* Transposed convolution; pad_top, pad_left are rows and columns cut from the front of the full result.
 * kernel: [kernel_height][kernel_width][out_channels][in_channels]; types as graffiti_conv. scratch:
 * int32[out_channels], then int16[in_channels] (int32 where kernel_type is S32). */
void graffiti_conv_transpose(const graffiti_window *window, const void *x, graffiti_type x_type, const void *kernel,
                             graffiti_type kernel_type, const graffiti_epilogue *epilogue, void *out, int32_t *scratch);

/* out = epilogue(a op b), the operands broadcast by the steps of the loops. `out` may be the memory of an operand that
 * is not broadcast and whose elements are at least as wide. Per-channel stages need the last axis to be the channels.
 */
void graffiti_binary(graffiti_operator operation, const graffiti_loops *loops, const void *a, graffiti_type a_type,
                     const void *b, graffiti_type b_type, const graffiti_epilogue *epilogue, void *out);

/* out = epilogue(x), rows times channels; in place where the output is not wider. */
void graffiti_requantize(const void *x, graffiti_type x_type, int32_t rows, int32_t channels,
                         const graffiti_epilogue *epilogue, void *out);

/* out[i] = table[x[i] - lowest]; in place where the output is not wider. table and out are of one type. */
void graffiti_lookup(const void *x, graffiti_type x_type, int32_t lowest, const void *table, graffiti_type type,
                     int32_t count, void *out);

/* Maximum over a window; padding never wins. */
void graffiti_max_pool(const graffiti_window *window, const void *x, graffiti_type type, void *out);

/* The mean of the part of each window that lies in the image, exactly: ties of the true quotient follow the rounding
 * mode. Plain integer division, one for each output. scratch: int32[out_channels]. */
void graffiti_average_pool(const graffiti_window *window, const void *x, graffiti_type x_type,
                           const graffiti_mean *mean, void *out, int32_t *scratch);

/* clamp(round(sum / (elements * 2^shift)), low, high) for one sum. */
int32_t graffiti_mean_one(int32_t sum, int32_t elements, const graffiti_mean *mean);

/* Copy elements of `bytes` (1, 2 or 4) from the source's steps to the destination's steps. A step of the source may be
 * negative: `source` is then the element that the first one written comes from. */
void graffiti_move(const graffiti_loops *loops, const void *source, void *destination, int32_t bytes);

#ifdef __cplusplus
}
#endif
#endif /* GRAFFITI_RUNTIME_H */
