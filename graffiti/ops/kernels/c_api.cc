// The C ABI over the C++ classes: argument checks, tiers, threads.
#include "c_api.h"

#include <atomic>
#include <memory>

#include "arch.h"
#include "checks.h"
#include "common.h"
#include "conv.h"
#include "dot/run_one.h"
#include "elementwise.h"
#include "program.h"
#include "training/training.h"

struct graffiti_conv {
  std::unique_ptr<graffiti::Conv> conv;
};
struct graffiti_program {
  std::unique_ptr<graffiti::Program> program;
};

namespace graffiti {
namespace {

constexpr int64_t kGrain = 16384;  // elements that are worth a thread

int RunConv(const Conv& conv, const void* x, int64_t batch, void* y, const graffiti_parallel* parallel) {
  if (int code = CheckCount(batch, {y})) return code;
  if (x == nullptr && batch * conv.shape().height * conv.shape().width > 0)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "an array is missing");
  ParallelFor(parallel, conv.Units(batch), 1,
              [&](int64_t lo, int64_t hi) { conv.Run(x, batch, y, conv.shape().out_channels, lo, hi); });
  return GRAFFITI_OK;
}

}  // namespace
}  // namespace graffiti

using namespace graffiti;  // NOLINT: this file is the border

extern "C" {

int32_t graffiti_abi_version(void) { return GRAFFITI_ABI_VERSION; }
const char* graffiti_last_error(void) { return LastError(); }
int32_t graffiti_best_tier(void) { return BestTier(); }
int32_t graffiti_tier_supported(int32_t tier) { return TierSupported(tier); }
const char* graffiti_tier_name(int32_t tier) { return TierName(tier); }

int32_t graffiti_pack_conv_weights(const graffiti_conv_shape* shape, int32_t x_type, const void* kernel,
                                   int32_t kernel_type, const int32_t* bias, const graffiti_requantization* to,
                                   int32_t tier, graffiti_conv** conv) {
  return Guarded([&]() -> int {
    if (shape == nullptr || kernel == nullptr || conv == nullptr)
      return Fail(GRAFFITI_INVALID_ARGUMENT, "shape, kernel and conv must not be NULL");
    int resolved;
    if (int code = Tier(tier, &resolved)) return code;
    std::unique_ptr<Conv> made;
    if (int code = Conv::Create(*shape, x_type, kernel, kernel_type, bias, to, resolved, &made)) return code;
    *conv = new graffiti_conv{std::move(made)};
    return GRAFFITI_OK;
  });
}

int32_t graffiti_run_conv(const graffiti_conv* conv, const void* x, int64_t batch, void* y,
                          const graffiti_parallel* parallel) {
  return Guarded([&] {
    return conv == nullptr ? Fail(GRAFFITI_INVALID_ARGUMENT, "conv must not be NULL")
                           : RunConv(*conv->conv, x, batch, y, parallel);
  });
}

void graffiti_free_conv(graffiti_conv* conv) { delete conv; }

int32_t graffiti_conv2d(const graffiti_conv_shape* shape, int64_t batch, const void* x, int32_t x_type,
                        const void* kernel, int32_t kernel_type, const int32_t* bias, const graffiti_requantization* to,
                        void* y, int32_t tier, const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    if (shape == nullptr || kernel == nullptr)
      return Fail(GRAFFITI_INVALID_ARGUMENT, "shape and kernel must not be NULL");
    int resolved;
    if (int code = Tier(tier, &resolved)) return code;
    std::unique_ptr<Conv> conv;
    if (int code = Conv::Create(*shape, x_type, kernel, kernel_type, bias, to, resolved, &conv)) return code;
    return RunConv(*conv, x, batch, y, parallel);
  });
}

int32_t graffiti_training_conv(int32_t pass, const graffiti_conv_shape* shape, int64_t batch, const void* first,
                               int32_t first_type, const void* second, int32_t second_type, float scale, float* out,
                               int32_t tier, const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    if (shape == nullptr) return Fail(GRAFFITI_INVALID_ARGUMENT, "shape must not be NULL");
    int resolved;
    if (int code = Tier(tier, &resolved)) return code;
    return TrainingProduct(pass, *shape, batch, first, first_type, second, second_type, scale, out, resolved, parallel);
  });
}

int32_t graffiti_dense(int64_t rows, int64_t inputs, int64_t outputs, const void* x, int32_t x_type, const void* kernel,
                       int32_t kernel_type, const int32_t* bias, const graffiti_requantization* to, void* y,
                       int32_t tier, const graffiti_parallel* parallel) {
  const graffiti_conv_shape shape{1, 1, inputs, 1, 1, outputs, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1};
  return graffiti_conv2d(&shape, rows, x, x_type, kernel, kernel_type, bias, to, y, tier, parallel);
}

int32_t graffiti_requantize(int64_t count, int64_t channels, const void* x, int32_t x_type,
                            const graffiti_requantization* to, void* y, int32_t tier,
                            const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    RequantizeOp op;
    if (int code = CheckCount(count, {x, y})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    if (int code = CheckWhole(count, channels)) return code;
    if (int code = op.Init(x_type, channels, to, resolved)) return code;
    ParallelFor(parallel, count, kGrain, [&](int64_t lo, int64_t hi) { op.Run(x, y, lo, hi); });
    return GRAFFITI_OK;
  });
}

int32_t graffiti_elementwise(int32_t operation, int64_t count, int64_t channels, const void* x, int32_t x_type,
                             const void* y, int32_t y_type, int64_t y_count, const graffiti_requantization* to,
                             void* out, int32_t tier, const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    BinaryOp op;
    if (int code = CheckCount(count, {x, y, out})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    if (int code = CheckWhole(count, channels)) return code;
    if (count > 0 && (y_count < 1 || count % y_count != 0))
      return Fail(GRAFFITI_INVALID_ARGUMENT, "y has %lld elements, which do not repeat evenly over the %lld of x",
                  static_cast<long long>(y_count), static_cast<long long>(count));
    if (int code = op.Init(operation, channels, x_type, y_type, to, resolved)) return code;
    ParallelFor(parallel, count, kGrain, [&](int64_t lo, int64_t hi) { op.Run(x, y, y_count, out, lo, hi); });
    return GRAFFITI_OK;
  });
}

int32_t graffiti_relu(int64_t count, const void* x, int32_t type, int32_t high, void* y, int32_t tier,
                      const graffiti_parallel* parallel) {
  const int32_t no_shift = 0;
  const graffiti_requantization to{&no_shift, 1, GRAFFITI_FLOOR, 0, high, type};
  return graffiti_requantize(count, 1, x, type, &to, y, tier, parallel);
}

int32_t graffiti_lookup(int64_t count, const void* x, int32_t x_type, int32_t low, const void* table,
                        int32_t table_type, int64_t entries, void* y, int32_t tier, const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    LookupOp op;
    if (int code = CheckCount(count, {x, y})) return code;
    if (int code = CheckCount(1, {table})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    if (int code = op.Init(x_type, low, table, table_type, entries)) return code;
    std::atomic<bool> inside{true};
    ParallelFor(parallel, count, kGrain, [&](int64_t lo, int64_t hi) {
      if (!op.Run(x, y, lo, hi)) inside = false;
    });
    return inside ? GRAFFITI_OK
                  : Fail(GRAFFITI_INVALID_ARGUMENT,
                         "a table for the codes %d to %lld was asked for another; requantize to the table's input "
                         "format first",
                         low, static_cast<long long>(low + entries - 1));
  });
}

int32_t graffiti_max_pool(const graffiti_pool_shape* shape, int64_t batch, const void* x, int32_t type, void* y,
                          int32_t tier, const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    MaxPoolOp op;
    if (shape == nullptr) return Fail(GRAFFITI_INVALID_ARGUMENT, "shape must not be NULL");
    if (int code = CheckCount(batch, {x, y})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    if (int code = op.Init(*shape, type, resolved)) return code;
    ParallelFor(parallel, op.Units(batch), 4, [&](int64_t lo, int64_t hi) { op.Run(x, y, lo, hi); });
    return GRAFFITI_OK;
  });
}

int32_t graffiti_average_pool(const graffiti_pool_shape* shape, int64_t batch, const void* x, int32_t x_type,
                              const graffiti_requantization* to, int32_t divide, void* y, int32_t tier,
                              const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    AveragePoolOp op;
    if (shape == nullptr) return Fail(GRAFFITI_INVALID_ARGUMENT, "shape must not be NULL");
    if (int code = CheckCount(batch, {x, y})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    if (int code = op.Init(*shape, x_type, to, divide != 0, resolved)) return code;
    ParallelFor(parallel, op.Units(batch), 4, [&](int64_t lo, int64_t hi) { op.Run(x, y, lo, hi); });
    return GRAFFITI_OK;
  });
}

int32_t graffiti_quantize(int64_t count, const float* x, int32_t exponent, int32_t rounding, int32_t low, int32_t high,
                          int32_t type, void* y, int32_t tier, const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    QuantizeOp op;
    if (int code = CheckCount(count, {x, y})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    if (int code = op.Init(exponent, rounding, low, high, type, resolved)) return code;
    std::atomic<bool> numbers{true};
    ParallelFor(parallel, count, kGrain, [&](int64_t lo, int64_t hi) {
      if (!op.Run(x, y, lo, hi)) numbers = false;
    });
    return numbers ? GRAFFITI_OK
                   : Fail(GRAFFITI_NOT_A_NUMBER,
                          "the values to quantize hold NaN, which has no code; clean the data first");
  });
}

int32_t graffiti_dequantize(int64_t count, int64_t channels, const void* x, int32_t type, const int32_t* exponent,
                            int64_t exponent_count, float* y, int32_t tier, const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    DequantizeOp op;
    if (int code = CheckCount(count, {x, y})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    if (int code = CheckWhole(count, channels)) return code;
    if (int code = op.Init(channels, type, exponent, exponent_count, resolved)) return code;
    ParallelFor(parallel, count, kGrain, [&](int64_t lo, int64_t hi) { op.Run(x, y, lo, hi); });
    return GRAFFITI_OK;
  });
}

int32_t graffiti_create_program(const void* blob, int64_t size, int32_t tier, graffiti_program** program) {
  return Guarded([&]() -> int {
    if (program == nullptr) return Fail(GRAFFITI_INVALID_ARGUMENT, "program must not be NULL");
    int resolved;
    if (int code = Tier(tier, &resolved)) return code;
    std::unique_ptr<Program> made;
    if (int code = Program::Create(blob, size, resolved, &made)) return code;
    *program = new graffiti_program{std::move(made)};
    return GRAFFITI_OK;
  });
}

int32_t graffiti_run_program(graffiti_program* program, const void* const* inputs, void* const* outputs, int64_t batch,
                             int32_t threads) {
  return graffiti_run_program_debug(program, inputs, outputs, batch, threads, nullptr);
}

int32_t graffiti_run_program_debug(graffiti_program* program, const void* const* inputs, void* const* outputs,
                                   int64_t batch, int32_t threads, void* const* values) {
  return Guarded([&] {
    return program == nullptr ? Fail(GRAFFITI_INVALID_ARGUMENT, "program must not be NULL")
                              : program->program->Run(inputs, outputs, batch, threads, values);
  });
}

void graffiti_destroy_program(graffiti_program* program) { delete program; }

int32_t graffiti_program_counts(const graffiti_program* program, int64_t* inputs, int64_t* outputs, int64_t* values) {
  if (program == nullptr) return Fail(GRAFFITI_INVALID_ARGUMENT, "program must not be NULL");
  if (inputs != nullptr) *inputs = static_cast<int64_t>(program->program->inputs().size());
  if (outputs != nullptr) *outputs = static_cast<int64_t>(program->program->outputs().size());
  if (values != nullptr) *values = static_cast<int64_t>(program->program->values().size());
  return GRAFFITI_OK;
}

static int32_t Border(const graffiti_program* program, bool input, int64_t index, int32_t* type, int64_t* elements) {
  if (program == nullptr) return Fail(GRAFFITI_INVALID_ARGUMENT, "program must not be NULL");
  const std::vector<int64_t>& ids = input ? program->program->inputs() : program->program->outputs();
  if (index < 0 || index >= static_cast<int64_t>(ids.size()))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "the program has %zu %s, asked for number %lld", ids.size(),
                input ? "inputs" : "outputs", static_cast<long long>(index));
  const ProgramTensor& t = program->program->tensor(ids[index]);
  if (type != nullptr) *type = t.type;
  if (elements != nullptr) *elements = t.elements;
  return GRAFFITI_OK;
}

int32_t graffiti_program_input(const graffiti_program* program, int64_t index, int32_t* type, int64_t* elements) {
  return Border(program, true, index, type, elements);
}

int32_t graffiti_program_output(const graffiti_program* program, int64_t index, int32_t* type, int64_t* elements) {
  return Border(program, false, index, type, elements);
}

int64_t graffiti_dot_kernel_count(void) { return CountDotKernels(); }

int32_t graffiti_get_dot_kernel(int64_t index, graffiti_dot_kernel_info* info) {
  return Guarded([&] { return DescribeDotKernel(index, info); });
}

int32_t graffiti_run_dot_kernel(int64_t index, int64_t m, int64_t n, int64_t k, const void* a, const void* b,
                                const int32_t* bias, const graffiti_requantization* to, void* c, int64_t repeat) {
  return Guarded([&] { return RunDotKernel(index, m, n, k, a, b, bias, to, c, repeat); });
}

}  // extern "C"
