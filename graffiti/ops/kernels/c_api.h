/* The kernels and the program runner behind a plain C ABI: no TensorFlow, no Python, no C++ types.
 *
 * Arrays are dense, channels last. Codes are power-of-two scaled without zero-points, so every function below is
 * integer arithmetic with one exact answer, the same on every tier. A function returns 0 (GRAFFITI_OK) or an error
 * code; the sentence is in graffiti_last_error() of the calling thread. Nothing is written before all arguments have
 * been checked. Pointers need the alignment of their element type only. `parallel` may be NULL: then the work runs on
 * the calling thread.
 */
#ifndef GRAFFITI_OPS_KERNELS_C_API_H_
#define GRAFFITI_OPS_KERNELS_C_API_H_

#include <stdint.h>

#include "tiers.inc"

#if defined(__GNUC__)
#define GRAFFITI_API __attribute__((visibility("default")))
#else
#define GRAFFITI_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define GRAFFITI_ABI_VERSION 3

enum graffiti_status {
  GRAFFITI_OK = 0,
  GRAFFITI_INVALID_ARGUMENT = 1, /* a shape, type, shift or range that cannot be */
  GRAFFITI_UNSUPPORTED_TIER = 2, /* this CPU (or this build) lacks the instructions */
  GRAFFITI_NOT_A_NUMBER = 3,     /* NaN among the values to quantize */
  GRAFFITI_BAD_PROGRAM = 4,      /* a truncated or foreign program */
  GRAFFITI_OUT_OF_MEMORY = 5
};

/* GRAFFITI_TIER_SCALAR and so on: the instruction sets of tiers.inc, slowest first. */
#define GRAFFITI_TIER_CONSTANT(of, NAME, ...) GRAFFITI_TIER_##NAME,
enum graffiti_tier { GRAFFITI_TIER_AUTO = 0, GRAFFITI_EACH_TIER(GRAFFITI_TIER_CONSTANT, ) GRAFFITI_TIER_COUNT };
#undef GRAFFITI_TIER_CONSTANT
enum graffiti_type {
  GRAFFITI_S8 = 0,
  GRAFFITI_U8 = 1,
  GRAFFITI_S16 = 2,
  GRAFFITI_U16 = 3,
  GRAFFITI_S32 = 4,
  GRAFFITI_F32 = 5
};
enum graffiti_rounding { GRAFFITI_HALF_EVEN = 0, GRAFFITI_HALF_UP = 1, GRAFFITI_HALF_AWAY = 2, GRAFFITI_FLOOR = 3 };

/* How to use somebody's threads: run fn(arg, lo, hi) over a partition of [0, n), return when all of it is done. */
typedef struct graffiti_parallel {
  void (*parallel_for)(void* context, int64_t n, void (*fn)(void* arg, int64_t lo, int64_t hi), void* arg);
  void* context;
  int64_t threads; /* how many the callback has; a hint for the size of the parts */
} graffiti_parallel;

GRAFFITI_API int32_t graffiti_abi_version(void);
GRAFFITI_API const char* graffiti_last_error(void);      /* of this thread; "" where nothing failed */
GRAFFITI_API int32_t graffiti_best_tier(void);           /* the fastest tier this CPU has */
GRAFFITI_API int32_t graffiti_tier_supported(int32_t tier); /* 1 or 0; AUTO is always supported */
GRAFFITI_API const char* graffiti_tier_name(int32_t tier);  /* "scalar", ...; NULL for an unknown one */

/* saturate(round(x / 2**shift), low, high), stored as `type`. A negative shift multiplies; any shift in [-62, 62] is
 * exact. */
typedef struct graffiti_requantization {
  const int32_t* shift; /* shift_count values: 1, or one per channel of the last axis */
  int64_t shift_count;
  int32_t rounding;
  int32_t low, high;
  int32_t type; /* S8, U8, S16, U16 or S32; holds low and high */
} graffiti_requantization;

/* y[b,i,j,o] = bias[o] + sum over u,v,c of X[b, i*stride_h + u*dilation_h - pad_top, j*... , g*in/groups + c] *
 * kernel[u,v,c,o], zeros outside. The kernel is (kernel_height, kernel_width, channels/groups, out_channels), and o
 * belongs to group o / (out_channels/groups). A depthwise convolution is groups == channels: its (h, w, in, multiplier)
 * kernel is this layout. 1-D: height 1. Dense: batch 1, height 1, width = rows. Padding behind follows from the output
 * size. X is x with spread-1 zeros put between neighbours (spread 1: x itself); that gives transposed convolution from
 * the spatially flipped kernel.
 */
typedef struct graffiti_conv_shape {
  int64_t height, width, channels;
  int64_t out_height, out_width, out_channels;
  int64_t kernel_height, kernel_width;
  int64_t stride_h, stride_w;
  int64_t dilation_h, dilation_w;
  int64_t pad_top, pad_left;
  int64_t groups;
  int64_t spread_h, spread_w;
} graffiti_conv_shape;

/* Packed weights for one tier: made once, run often, from any number of threads. x_type: S8, U8, S16, U16, S32.
 * kernel_type: S8, U8 or S16. bias: s32 (out_channels) or NULL. to: NULL gives s32 accumulators. Nothing passed in is
 * kept. Accumulators wrap modulo 2**32; who proves that they do not overflow gets the exact integers. */
typedef struct graffiti_conv graffiti_conv;
GRAFFITI_API int32_t graffiti_pack_conv_weights(const graffiti_conv_shape* shape, int32_t x_type, const void* kernel,
                                                int32_t kernel_type, const int32_t* bias,
                                                const graffiti_requantization* to, int32_t tier, graffiti_conv** conv);
GRAFFITI_API int32_t graffiti_run_conv(const graffiti_conv* conv, const void* x, int64_t batch, void* y,
                                       const graffiti_parallel* parallel);
GRAFFITI_API void graffiti_free_conv(graffiti_conv* conv); /* NULL is fine */

/* pack, run, free */
GRAFFITI_API int32_t graffiti_conv2d(const graffiti_conv_shape* shape, int64_t batch, const void* x, int32_t x_type,
                                     const void* kernel, int32_t kernel_type, const int32_t* bias,
                                     const graffiti_requantization* to, void* y, int32_t tier,
                                     const graffiti_parallel* parallel);
/* y[r, o] = bias[o] + sum x[r, i] * kernel[i, o] */
GRAFFITI_API int32_t graffiti_dense(int64_t rows, int64_t inputs, int64_t outputs, const void* x, int32_t x_type,
                                    const void* kernel, int32_t kernel_type, const int32_t* bias,
                                    const graffiti_requantization* to, void* y, int32_t tier,
                                    const graffiti_parallel* parallel);

/* x (count elements) to another exponent; channels is the length of the last axis (1 where the shift is common). */
GRAFFITI_API int32_t graffiti_requantize(int64_t count, int64_t channels, const void* x, int32_t x_type,
                                         const graffiti_requantization* to, void* y, int32_t tier,
                                         const graffiti_parallel* parallel);

/* The three products of a training step on codes, to float32: scale * (exact integer), see training/training.h. One
 * group or a depthwise convolution (groups == channels), no spread. pass: FORWARD (first: x s8 or u8, second: kernel
 * s8, out: y), INPUT_GRADIENT (first: dy s8 or s16, second: kernel s8, out: dx), WEIGHT_GRADIENT (first: x s8 or u8,
 * second: dy s8 or s16, out: dw). */
enum graffiti_training_pass { GRAFFITI_FORWARD = 0, GRAFFITI_INPUT_GRADIENT = 1, GRAFFITI_WEIGHT_GRADIENT = 2 };
GRAFFITI_API int32_t graffiti_training_conv(int32_t pass, const graffiti_conv_shape* shape, int64_t batch,
                                            const void* first, int32_t first_type, const void* second,
                                            int32_t second_type, float scale, float* out, int32_t tier,
                                            const graffiti_parallel* parallel);

/* Elementwise on two arrays. x and y have `count` elements, or y has `y_count` and is repeated: element i takes y[i %
 * y_count] (a bias over the last axis, a scalar, or y_count == count). The result is s32 (sums and products modulo
 * 2**32), then `to`; with `to` NULL it is stored as s32, and for ops that select, which need x_type == y_type, as that
 * type. */
enum graffiti_binary {
#define GRAFFITI_BINARY_OP(constant, name, number, selects, result) GRAFFITI_##constant = number,
#define GRAFFITI_INNER_BINARY_OP(constant, number, result) GRAFFITI_##constant = number,
#include "binary.inc"
};
GRAFFITI_API int32_t graffiti_elementwise(int32_t operation, int64_t count, int64_t channels, const void* x,
                                          int32_t x_type, const void* y, int32_t y_type, int64_t y_count,
                                          const graffiti_requantization* to, void* out, int32_t tier,
                                          const graffiti_parallel* parallel);
/* min(max(x, 0), high), the type of x */
GRAFFITI_API int32_t graffiti_relu(int64_t count, const void* x, int32_t type, int32_t high, void* y, int32_t tier,
                                   const graffiti_parallel* parallel);
/* y[i] = table[x[i] - low], `entries` of them; a code outside is an error. y and table have table_type. */
GRAFFITI_API int32_t graffiti_lookup(int64_t count, const void* x, int32_t x_type, int32_t low, const void* table,
                                     int32_t table_type, int64_t entries, void* y, int32_t tier,
                                     const graffiti_parallel* parallel);

/* The largest code of each window; padding never wins. Every window must touch the image. */
typedef struct graffiti_pool_shape {
  int64_t height, width, channels, out_height, out_width;
  int64_t pool_height, pool_width, stride_h, stride_w, pad_top, pad_left;
} graffiti_pool_shape;
GRAFFITI_API int32_t graffiti_max_pool(const graffiti_pool_shape* shape, int64_t batch, const void* x, int32_t type,
                                       void* y, int32_t tier, const graffiti_parallel* parallel);

/* The mean of each window's part inside the image, saturate(round(sum / (elements * 2**shift)), low, high) with one
 * shift, exactly: ties of the true quotient follow the rounding mode. `divide` 0: the sum itself. Sums wrap modulo
 * 2**32. Every window must touch the image. */
GRAFFITI_API int32_t graffiti_average_pool(const graffiti_pool_shape* shape, int64_t batch, const void* x,
                                           int32_t x_type, const graffiti_requantization* to, int32_t divide, void* y,
                                           int32_t tier, const graffiti_parallel* parallel);

/* The border: float to codes, saturate(round(x / 2**exponent), low, high) with infinities saturating; and back. */
GRAFFITI_API int32_t graffiti_quantize(int64_t count, const float* x, int32_t exponent, int32_t rounding, int32_t low,
                                       int32_t high, int32_t type, void* y, int32_t tier,
                                       const graffiti_parallel* parallel);
GRAFFITI_API int32_t graffiti_dequantize(int64_t count, int64_t channels, const void* x, int32_t type,
                                         const int32_t* exponent, int64_t exponent_count, float* y, int32_t tier,
                                         const graffiti_parallel* parallel);

/* What low-bit training does with floats (quantize/, multi_level/, batch_norm/). `seed`: two words of stochastic
 * rounding, the generator of graffiti/numerics/noise.py over flat indices; NULL: to nearest, half to even. */

/* codes = clip(r(x * inverse_step), low, high), stored as S8, U8 or S16; extremes[2] = (min(x), max(x)), both NaN where
 * x holds a NaN or Inf (the codes are then unspecified), zeros where x is empty. Product and sum with the noise are
 * each rounded to float32. */
GRAFFITI_API int32_t graffiti_training_quantize(int64_t count, const float* x, float inverse_step, int32_t low,
                                                int32_t high, const uint32_t* seed, int32_t type, void* codes,
                                                float* extremes, int32_t tier, const graffiti_parallel* parallel);
GRAFFITI_API int32_t graffiti_extremes(int64_t count, const float* x, float* extremes, int32_t tier,
                                       const graffiti_parallel* parallel);
/* above[0] = how many |x| > bound */
GRAFFITI_API int32_t graffiti_count_above(int64_t count, const float* x, float bound, int64_t* above, int32_t tier,
                                          const graffiti_parallel* parallel);

/* A tensor as [outer, rows, groups, inner], one group for each (outer, group). */
typedef struct graffiti_group_layout {
  int64_t outer, rows, groups, inner;
} graffiti_group_layout;
/* largest[outer, groups] = max |x| of each group */
GRAFFITI_API int32_t graffiti_group_maximum(const graffiti_group_layout* layout, const float* x, float* largest,
                                            int32_t tier, const graffiti_parallel* parallel);

/* A small float without a sign: 0 to 5 exponent bits (0: fixed point), 1 to 11 mantissa bits; `carry`: rounding may
 * reach the next power of two; top_exponent -1: numbers below 1, 0: below 2. */
typedef struct graffiti_element_format {
  int32_t exponent_bits, mantissa_bits, carry, top_exponent;
} graffiti_element_format;
/* y = sign(x) * element(|x| / divisor) * factor, divisors and factors [outer, groups] */
GRAFFITI_API int32_t graffiti_multi_level(const graffiti_group_layout* layout, const float* x, const float* divisors,
                                          const float* factors, const graffiti_element_format* format,
                                          const uint32_t* seed, float* y, int32_t tier,
                                          const graffiti_parallel* parallel);

/* Batch norm by the batch's own statistics over rows, then perhaps + residual, then perhaps max(y, 0); and its
 * gradients. */
typedef struct graffiti_batch_norm_inputs {
  int64_t rows, channels;
  const float *x, *gamma, *beta;
  const float* residual; /* of the size of x, or NULL */
  float epsilon;
  int32_t relu;
} graffiti_batch_norm_inputs;
typedef struct graffiti_batch_norm_outputs {
  float *y, *mean, *variance, *inverse_deviation; /* biased variance, 1 / sqrt(variance + epsilon) */
} graffiti_batch_norm_outputs;
GRAFFITI_API int32_t graffiti_batch_norm(const graffiti_batch_norm_inputs* inputs,
                                         const graffiti_batch_norm_outputs* outputs, int32_t tier,
                                         const graffiti_parallel* parallel);
/* y: the output, where a residual was added in front of the ReLU (its mask is then y > 0), else NULL, and then there is
 * no dresidual. dx or dresidual may be dy. */
typedef struct graffiti_batch_norm_gradient_inputs {
  int64_t rows, channels;
  const float *dy, *x, *gamma, *beta, *mean, *inverse_deviation, *y;
  int32_t relu;
} graffiti_batch_norm_gradient_inputs;
typedef struct graffiti_batch_norm_gradient_outputs {
  float *dx, *dgamma, *dbeta, *dresidual;
} graffiti_batch_norm_gradient_outputs;
GRAFFITI_API int32_t graffiti_batch_norm_gradient(const graffiti_batch_norm_gradient_inputs* inputs,
                                                  const graffiti_batch_norm_gradient_outputs* outputs, int32_t tier,
                                                  const graffiti_parallel* parallel);

/* The trained log-threshold quantizer (fake_quantize/fake_quantize.h): y = clip(round(x / s), low, high) * s with a
 * step s that is a power of two; and its gradients, where dx may be dy. The gradient of the threshold is one float, a
 * sum in double in one order. */
typedef struct graffiti_fake_quantize_format {
  float log2_threshold; /* a number or an infinity */
  int32_t bits;         /* 2 to 24 */
  int32_t is_signed;    /* 0 or 1 */
  int32_t narrow;       /* 1: without the lowest code of a signed range */
  int32_t rounding;
} graffiti_fake_quantize_format;
GRAFFITI_API int32_t graffiti_fake_quantize(int64_t count, const float* x, const graffiti_fake_quantize_format* format,
                                            float* y, int32_t tier, const graffiti_parallel* parallel);
GRAFFITI_API int32_t graffiti_fake_quantize_gradient(int64_t count, const float* dy, const float* x,
                                                     const graffiti_fake_quantize_format* format, float* dx,
                                                     float* dlog2_threshold, int32_t tier,
                                                     const graffiti_parallel* parallel);

/* A whole integer graph in one call. The blob comes from graffiti/runtime/program.py and holds no pointers and no
 * packing: the same bytes run on every tier. The program copies what it needs. Runs on one program may overlap in time.
 * inputs[i] / outputs[i]: (batch, ...) arrays of the types in the blob, in its order. threads: how many to use (the
 * caller's included); 1 runs inline. graffiti_run_program_debug also copies value i (what a step wrote, listed in the
 * blob) of all images to values[i] where that is not NULL. */
typedef struct graffiti_program graffiti_program;
GRAFFITI_API int32_t graffiti_create_program(const void* blob, int64_t size, int32_t tier, graffiti_program** program);
GRAFFITI_API int32_t graffiti_run_program(graffiti_program* program, const void* const* inputs, void* const* outputs,
                                          int64_t batch, int32_t threads);
GRAFFITI_API int32_t graffiti_run_program_debug(graffiti_program* program, const void* const* inputs,
                                                void* const* outputs, int64_t batch, int32_t threads,
                                                void* const* values);
GRAFFITI_API void graffiti_destroy_program(graffiti_program* program); /* NULL is fine */
/* What a program takes and gives; `elements` counts one image. */
GRAFFITI_API int32_t graffiti_program_counts(const graffiti_program* program, int64_t* inputs, int64_t* outputs,
                                             int64_t* values);
GRAFFITI_API int32_t graffiti_program_input(const graffiti_program* program, int64_t index, int32_t* type,
                                            int64_t* elements);
GRAFFITI_API int32_t graffiti_program_output(const graffiti_program* program, int64_t index, int32_t* type,
                                             int64_t* elements);

/* For tests and benchmarks: every register tile by its number (dot/kernels.inc), called directly on a small product
 * c[m, n] = bias[n] + sum over k of a[m, k] * b[k, n]; a is u8 for a u8s8 kernel (b s8) and s16 for an s16s16 kernel (b
 * s16). */
typedef struct graffiti_dot_kernel_info {
  char name[48];     /* dot_<types>_<rows>x<columns>_<tier> */
  int32_t tier, rows, columns, a_type, b_type;
} graffiti_dot_kernel_info;
GRAFFITI_API int64_t graffiti_dot_kernel_count(void);
GRAFFITI_API int32_t graffiti_get_dot_kernel(int64_t index, graffiti_dot_kernel_info* info);
GRAFFITI_API int32_t graffiti_run_dot_kernel(int64_t index, int64_t m, int64_t n, int64_t k, const void* a,
                                             const void* b, const int32_t* bias, const graffiti_requantization* to,
                                             void* c, int64_t repeat);

#ifdef __cplusplus
}
#endif

#endif /* GRAFFITI_OPS_KERNELS_C_API_H_ */
