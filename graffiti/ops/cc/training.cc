// GraffitiTrainingQuantize, GraffitiExtremes, GraffitiBatchNorm and its gradient: the float side of low-bit training (training/training.h).
#include "training/training.h"

#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "parallel.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace graffiti {

const TrainingLoops& SelectTraining(const std::string& tier) {
#if defined(__x86_64__) || defined(__i386__)
  const bool avx2 = __builtin_cpu_supports("avx2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && (tier == "auto" || tier == "avx512")) return TrainingAvx512();
  if (avx2 && tier != "scalar") return TrainingAvx2();
#endif
  return TrainingScalar();
}

namespace {

namespace tf = tensorflow;
using tf::shape_inference::InferenceContext;

constexpr char kTier[] = "tier: {'auto', 'scalar', 'avx2', 'avx512'} = 'auto'";

REGISTER_OP("GraffitiTrainingQuantize")
    .Input("x: float")
    .Input("inverse_step: float")
    .Input("seed: uint32")
    .Output("codes: codes_type")
    .Output("extremes: float")
    .Attr("codes_type: {int8, uint8, int16}")
    .Attr("low: int")
    .Attr("high: int")
    .Attr("stochastic: bool = false")
    .Attr(kTier)
    .SetShapeFn([](InferenceContext* c) {
      tf::shape_inference::ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &unused));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &unused));
      c->set_output(0, c->input(0));
      c->set_output(1, c->Vector(2));
      return absl::OkStatus();
    })
    .Doc("clip(r(x * inverse_step), low, high) and (min(x), max(x)), both NaN where x holds a NaN or Inf.");

REGISTER_OP("GraffitiExtremes")
    .Input("x: float")
    .Output("extremes: float")
    .Attr(kTier)
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Vector(2));
      return absl::OkStatus();
    })
    .Doc("(min(x), max(x)), both NaN where x holds a NaN or Inf.");

absl::Status NormShapes(InferenceContext* c, int x, std::initializer_list<int> vectors, std::initializer_list<int> vector_outputs) {
  tf::shape_inference::ShapeHandle shape, unused;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(x), 2, &shape));
  const auto channels = c->Vector(c->Dim(shape, -1));
  for (int input : vectors) TF_RETURN_IF_ERROR(c->Merge(c->input(input), channels, &unused));
  c->set_output(0, shape);
  for (int output : vector_outputs) c->set_output(output, channels);
  return absl::OkStatus();
}

REGISTER_OP("GraffitiBatchNorm")
    .Input("x: float")
    .Input("gamma: float")
    .Input("beta: float")
    .Output("y: float")
    .Output("mean: float")
    .Output("variance: float")
    .Output("inverse_deviation: float")
    .Attr("epsilon: float")
    .Attr("relu: bool = false")
    .Attr(kTier)
    .SetShapeFn([](InferenceContext* c) { return NormShapes(c, 0, {1, 2}, {1, 2, 3}); })
    .Doc("(x - mean) * gamma / sqrt(variance + epsilon) + beta by the batch's statistics over all but the last axis, perhaps max(y, 0).");

REGISTER_OP("GraffitiBatchNormGrad")
    .Input("dy: float")
    .Input("x: float")
    .Input("gamma: float")
    .Input("beta: float")
    .Input("mean: float")
    .Input("inverse_deviation: float")
    .Output("dx: float")
    .Output("dgamma: float")
    .Output("dbeta: float")
    .Attr("relu: bool = false")
    .Attr(kTier)
    .SetShapeFn([](InferenceContext* c) { return NormShapes(c, 1, {2, 3, 4, 5}, {1, 2}); })
    .Doc("The gradients of GraffitiBatchNorm; the ReLU's mask is computed again.");

float FromKey(int32_t key) {
  const int32_t bits = key ^ ((key >> 31) & 0x7fffffff);
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

// Merges the keys of all parts; both NaN where one lies outside the finite numbers.
void WriteExtremes(const std::vector<ExtremeKeys>& parts, float* out) {
  ExtremeKeys all;
  for (const ExtremeKeys& part : parts) {
    all.low = std::min(all.low, part.low);
    all.high = std::max(all.high, part.high);
  }
  constexpr int32_t kInfinity = 0x7f800000;
  if (parts.empty()) {
    out[0] = out[1] = 0.0f;
  } else if (all.high >= kInfinity || all.low <= ~kInfinity) {
    out[0] = out[1] = std::numeric_limits<float>::quiet_NaN();
  } else {
    out[0] = FromKey(all.low);
    out[1] = FromKey(all.high);
  }
}

uint32_t Mix(uint32_t w, uint32_t extra) {
  w = (w ^ (w >> 17)) * 0xED5AD4BBu + extra;
  w = (w ^ (w >> 11)) * 0xAC4C1B51u;
  w = (w ^ (w >> 15)) * 0x31848BABu;
  return w ^ (w >> 14);
}

class WithLoops : public tf::OpKernel {
 public:
  explicit WithLoops(tf::OpKernelConstruction* context) : OpKernel(context) {
    std::string tier;
    OP_REQUIRES_OK(context, context->GetAttr("tier", &tier));
    loops_ = &SelectTraining(tier);
  }

 protected:
  const TrainingLoops* loops_;
};

class QuantizeOp : public WithLoops {
 public:
  explicit QuantizeOp(tf::OpKernelConstruction* context) : WithLoops(context) {
    int low, high;
    OP_REQUIRES_OK(context, context->GetAttr("low", &low));
    OP_REQUIRES_OK(context, context->GetAttr("high", &high));
    OP_REQUIRES_OK(context, context->GetAttr("stochastic", &stochastic_));
    OP_REQUIRES_OK(context, context->GetAttr("codes_type", &type_));
    const int least = type_ == tf::DT_UINT8 ? 0 : type_ == tf::DT_INT8 ? -128 : -32768;
    const int most = type_ == tf::DT_UINT8 ? 255 : type_ == tf::DT_INT8 ? 127 : 32767;
    OP_REQUIRES(context, least <= low && low <= high && high <= most,
                absl::InvalidArgumentError(absl::StrCat("codes of ", tf::DataTypeString(type_), " are in ", least, "...", most, ", got low=", low, ", high=", high)));
    low_ = static_cast<float>(low);
    high_ = static_cast<float>(high);
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    const tf::Tensor& seed = context->input(2);
    OP_REQUIRES(context, context->input(1).NumElements() == 1 && seed.NumElements() == 2,
                absl::InvalidArgumentError("quantize takes one inverse_step and two words of seed"));
    tf::Tensor *codes, *extremes;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &codes));
    OP_REQUIRES_OK(context, context->allocate_output(1, tf::TensorShape({2}), &extremes));
    const auto words = seed.flat<uint32_t>();
    QuantizeParams p{context->input(1).flat<float>()(0), low_, high_, stochastic_, 0, 0};
    p.key0 = Mix(words(0) + 0x9E3779B9u, words(1));
    p.key1 = Mix(p.key0 + 0x9E3779B9u, words(1) ^ 0x5BD1E995u);
    const float* from = x.flat<float>().data();
    const int64_t n = x.NumElements();
    std::vector<ExtremeKeys> keys((n + kQuantizeBlock - 1) / kQuantizeBlock);
    ForEachPart(context, n, kQuantizeBlock, 4, [&](int64_t lo, int64_t hi) {
      ExtremeKeys* own = &keys[lo / kQuantizeBlock];
      const uint32_t first = static_cast<uint32_t>(lo);
      switch (type_) {
        case tf::DT_INT8: return loops_->quantize8(p, from + lo, hi - lo, first, codes->flat<int8_t>().data() + lo, own);
        case tf::DT_UINT8: return loops_->quantize8u(p, from + lo, hi - lo, first, codes->flat<uint8_t>().data() + lo, own);
        default: return loops_->quantize16(p, from + lo, hi - lo, first, codes->flat<int16_t>().data() + lo, own);
      }
    });
    WriteExtremes(keys, extremes->flat<float>().data());
  }

 private:
  float low_, high_;
  bool stochastic_;
  tf::DataType type_;
};

class ExtremesOp : public WithLoops {
 public:
  using WithLoops::WithLoops;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    tf::Tensor* extremes;
    OP_REQUIRES_OK(context, context->allocate_output(0, tf::TensorShape({2}), &extremes));
    const float* from = x.flat<float>().data();
    std::vector<ExtremeKeys> keys((x.NumElements() + kQuantizeBlock - 1) / kQuantizeBlock);
    ForEachPart(context, x.NumElements(), kQuantizeBlock, 4,
                [&](int64_t lo, int64_t hi) { loops_->extremes(from + lo, hi - lo, &keys[lo / kQuantizeBlock]); });
    WriteExtremes(keys, extremes->flat<float>().data());
  }
};

// One float per channel, repeated so that flat loops are long enough to vectorize.
std::vector<float> Repeated(const float* values, int64_t channels, int64_t period) {
  std::vector<float> out(period);
  for (int64_t i = 0; i < period; ++i) out[i] = values[i % channels];
  return out;
}

class NormBase : public WithLoops {
 public:
  explicit NormBase(tf::OpKernelConstruction* context) : WithLoops(context) {
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
  }

 protected:
  static bool Fits(tf::OpKernelContext* context, const tf::Tensor& x, std::initializer_list<int> vectors) {
    const int64_t channels = x.dims() < 1 ? 0 : x.dim_size(x.dims() - 1);
    bool fits = x.dims() >= 2 && x.NumElements() > 0;
    for (int input : vectors) fits = fits && context->input(input).NumElements() == channels;
    if (!fits) context->CtxFailure(absl::InvalidArgumentError(absl::StrCat("batch norm takes at least one row [..., channels] and a value per channel, got x ", x.shape().DebugString())));
    return fits;
  }

  // Double sums over blocks of rows, in the order of the blocks.
  template <typename Block>
  static void SumBlocks(tf::OpKernelContext* context, int64_t rows, int64_t channels, double* sum, double* second, const Block& block) {
    const int64_t blocks = (rows + kNormRows - 1) / kNormRows;
    std::vector<float> partial(2 * blocks * channels);
    const int64_t serial = std::max<int64_t>(1, 32768 / (kNormRows * channels));
    ForEachPart(context, rows, kNormRows, serial, [&](int64_t lo, int64_t hi) {
      float* own = &partial[lo / kNormRows * 2 * channels];
      block(lo, hi - lo, own, own + channels);
    });
    std::fill(sum, sum + channels, 0.0);
    std::fill(second, second + channels, 0.0);
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t c = 0; c < channels; ++c) {
        sum[c] += partial[b * 2 * channels + c];
        second[c] += partial[(b * 2 + 1) * channels + c];
      }
  }

  static int64_t Period(int64_t channels) { return channels * ((kPeriod + channels - 1) / channels); }

  // Flat passes in parts of whole periods.
  template <typename Part>
  static void Flat(tf::OpKernelContext* context, int64_t n, int64_t period, const Part& part) {
    ForEachPart(context, n, period * std::max<int64_t>(1, kQuantizeBlock / period), 4, part);
  }

  bool relu_;
};

class BatchNormOp : public NormBase {
 public:
  explicit BatchNormOp(tf::OpKernelConstruction* context) : NormBase(context) { OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_)); }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    if (!Fits(context, x, {1, 2})) return;
    const int64_t channels = x.dim_size(x.dims() - 1), rows = x.NumElements() / channels;
    tf::Tensor* outputs[4];
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &outputs[0]));
    for (int i = 1; i < 4; ++i) OP_REQUIRES_OK(context, context->allocate_output(i, tf::TensorShape({channels}), &outputs[i]));
    const float* from = x.flat<float>().data();
    std::vector<double> sum(channels), square(channels);
    const float* shift = from;  // the first row: sums of differences do not cancel where the mean is large
    SumBlocks(context, rows, channels, sum.data(), square.data(), [&](int64_t row, int64_t count, float* s, float* q) {
      loops_->moments(from + row * channels, count, channels, shift, s, q);
    });
    float *mean = outputs[1]->flat<float>().data(), *variance = outputs[2]->flat<float>().data(), *inverse = outputs[3]->flat<float>().data();
    const float *gamma = context->input(1).flat<float>().data(), *beta = context->input(2).flat<float>().data();
    std::vector<float> scale(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const double m = sum[c] / rows, v = std::max(0.0, square[c] / rows - m * m);
      const double i = 1.0 / std::sqrt(v + static_cast<double>(epsilon_));
      mean[c] = static_cast<float>(m + shift[c]);
      variance[c] = square[c] != square[c] ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(v);
      inverse[c] = square[c] != square[c] ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(i);
      scale[c] = gamma[c] * inverse[c];
    }
    const int64_t period = Period(channels);
    const auto means = Repeated(mean, channels, period), scales = Repeated(scale.data(), channels, period), betas = Repeated(beta, channels, period);
    const NormParams p{means.data(), scales.data(), betas.data(), nullptr, nullptr, nullptr, period, relu_};
    float* y = outputs[0]->flat<float>().data();
    Flat(context, x.NumElements(), period, [&](int64_t lo, int64_t hi) { loops_->normalize(p, from + lo, hi - lo, y + lo); });
  }

 private:
  float epsilon_;
};

class BatchNormGradOp : public NormBase {
 public:
  using NormBase::NormBase;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& dy = context->input(0);
    const tf::Tensor& x = context->input(1);
    if (!Fits(context, x, {2, 3, 4, 5})) return;
    OP_REQUIRES(context, dy.shape() == x.shape(),
                absl::InvalidArgumentError(absl::StrCat("the gradient has the shape of x, got ", dy.shape().DebugString(), " and ", x.shape().DebugString())));
    const int64_t channels = x.dim_size(x.dims() - 1), rows = x.NumElements() / channels;
    tf::Tensor *dx, *dgamma, *dbeta;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &dx));
    OP_REQUIRES_OK(context, context->allocate_output(1, tf::TensorShape({channels}), &dgamma));
    OP_REQUIRES_OK(context, context->allocate_output(2, tf::TensorShape({channels}), &dbeta));
    const float *g = dy.flat<float>().data(), *from = x.flat<float>().data();
    const float *gamma = context->input(2).flat<float>().data(), *beta = context->input(3).flat<float>().data();
    const float *mean = context->input(4).flat<float>().data(), *inverse = context->input(5).flat<float>().data();
    std::vector<float> scale(channels), mean_dy(channels), mean_dyx(channels);
    for (int64_t c = 0; c < channels; ++c) scale[c] = gamma[c] * inverse[c];
    const NormParams own{mean, scale.data(), beta, nullptr, nullptr, nullptr, channels, relu_};
    std::vector<double> sum(channels), product(channels);
    SumBlocks(context, rows, channels, sum.data(), product.data(), [&](int64_t row, int64_t count, float* s, float* q) {
      loops_->norm_sums(own, g + row * channels, from + row * channels, count, channels, s, q);
    });
    for (int64_t c = 0; c < channels; ++c) {
      const double of_normal = product[c] * inverse[c];
      dbeta->flat<float>()(c) = static_cast<float>(sum[c]);
      dgamma->flat<float>()(c) = static_cast<float>(of_normal);
      mean_dy[c] = static_cast<float>(sum[c] / rows);
      mean_dyx[c] = static_cast<float>(of_normal / rows);
    }
    const int64_t period = Period(channels);
    const auto means = Repeated(mean, channels, period), scales = Repeated(scale.data(), channels, period), betas = Repeated(beta, channels, period);
    const auto inverses = Repeated(inverse, channels, period), dys = Repeated(mean_dy.data(), channels, period), dyxs = Repeated(mean_dyx.data(), channels, period);
    const NormParams p{means.data(), scales.data(), betas.data(), inverses.data(), dys.data(), dyxs.data(), period, relu_};
    float* out = dx->flat<float>().data();
    Flat(context, x.NumElements(), period, [&](int64_t lo, int64_t hi) { loops_->norm_gradient(p, g + lo, from + lo, hi - lo, out + lo); });
  }
};

REGISTER_KERNEL_BUILDER(Name("GraffitiTrainingQuantize").Device(tf::DEVICE_CPU), QuantizeOp);
REGISTER_KERNEL_BUILDER(Name("GraffitiExtremes").Device(tf::DEVICE_CPU), ExtremesOp);
REGISTER_KERNEL_BUILDER(Name("GraffitiBatchNorm").Device(tf::DEVICE_CPU), BatchNormOp);
REGISTER_KERNEL_BUILDER(Name("GraffitiBatchNormGrad").Device(tf::DEVICE_CPU), BatchNormGradOp);

}  // namespace
}  // namespace graffiti
