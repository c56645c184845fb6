// GraffitiBatchNorm and its gradient: the float side of low-bit training (training/training.h).
#include "training/training.h"

#include <cmath>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge.h"
#include "parallel.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace graffiti {

namespace {

namespace tf = tensorflow;
using tf::shape_inference::InferenceContext;

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
    .Input("residual: residuals * float")
    .Output("y: float")
    .Output("mean: float")
    .Output("variance: float")
    .Output("inverse_deviation: float")
    .Attr("epsilon: float")
    .Attr("relu: bool = false")
    .Attr("residuals: int >= 0 = 0")
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn([](InferenceContext* c) { return NormShapes(c, 0, {1, 2}, {1, 2, 3}); })
    .Doc("(x - mean) * gamma / sqrt(variance + epsilon) + beta by the batch's statistics over all but the last axis, perhaps + residual and max(y, 0).");

REGISTER_OP("GraffitiBatchNormGrad")
    .Input("dy: float")
    .Input("x: float")
    .Input("gamma: float")
    .Input("beta: float")
    .Input("mean: float")
    .Input("inverse_deviation: float")
    .Input("y: residuals * float")
    .Output("dx: float")
    .Output("dgamma: float")
    .Output("dbeta: float")
    .Output("dresidual: residuals * float")
    .Attr("relu: bool = false")
    .Attr("residuals: int >= 0 = 0")
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn([](InferenceContext* c) {
      if (c->num_outputs() > 3) c->set_output(3, c->input(1));
      return NormShapes(c, 1, {2, 3, 4, 5}, {1, 2});
    })
    .Doc("The gradients of GraffitiBatchNorm. The ReLU's mask is computed again; behind a residual sum it is y > 0, and dresidual is dy there.");

class WithLoops : public tf::OpKernel {
 public:
  explicit WithLoops(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, GetLoops(context, TrainingScalar, TrainingAvx2, TrainingAvx512, &loops_));
  }

 protected:
  const TrainingLoops* loops_;
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
    OP_REQUIRES_OK(context, context->GetAttr("residuals", &residuals_));
    OP_REQUIRES(context, residuals_ <= 1, absl::InvalidArgumentError(absl::StrCat("batch norm takes at most one residual, got ", residuals_)));
  }

 protected:
  static bool Fits(tf::OpKernelContext* context, const tf::Tensor& x, std::initializer_list<int> vectors) {
    const int64_t channels = x.dims() < 1 ? 0 : x.dim_size(x.dims() - 1);
    bool fits = x.dims() >= 2 && x.NumElements() > 0;
    for (int input : vectors) fits = fits && context->input(input).NumElements() == channels;
    if (!fits) context->CtxFailure(absl::InvalidArgumentError(absl::StrCat("batch norm takes at least one row [..., channels] and a value per channel, got x ", x.shape().DebugString())));
    return fits;
  }

  static int64_t Blocks(int64_t rows) { return (rows + kNormRows - 1) / kNormRows; }

  // Two float sums per channel of each block of rows: block(first row, rows, sums, second sums) -> [blocks, 2, channels].
  template <typename Block>
  static std::vector<float> PartialSums(tf::OpKernelContext* context, int64_t rows, int64_t channels, const Block& block) {
    std::vector<float> partial(2 * Blocks(rows) * channels);
    const int64_t serial = std::max<int64_t>(1, 32768 / (kNormRows * channels));
    ForEachPart(context, rows, kNormRows, serial, [&](int64_t lo, int64_t hi) {
      float* own = &partial[lo / kNormRows * 2 * channels];
      block(lo, hi - lo, own, own + channels);
    });
    return partial;
  }

  static int64_t Period(int64_t channels) { return channels * ((kPeriod + channels - 1) / channels); }

  // Flat passes in parts of whole periods.
  template <typename Part>
  static void Flat(tf::OpKernelContext* context, int64_t n, int64_t period, const Part& part) {
    ForEachPart(context, n, period * std::max<int64_t>(1, kQuantizeBlock / period), 4, part);
  }

  // The one tensor of an optional input, of the shape of x; false after an error.
  bool Optional(tf::OpKernelContext* context, int input, const tf::Tensor& x, const float** data) const {
    *data = nullptr;
    if (residuals_ == 0) return true;
    const tf::Tensor& given = context->input(input);
    if (given.shape() != x.shape()) {
      context->CtxFailure(absl::InvalidArgumentError(absl::StrCat("a residual has the shape of x, got ", given.shape().DebugString(), " and ", x.shape().DebugString())));
      return false;
    }
    *data = given.flat<float>().data();
    return true;
  }

  bool relu_;
  int residuals_;
};

class BatchNormOp : public NormBase {
 public:
  explicit BatchNormOp(tf::OpKernelConstruction* context) : NormBase(context) { OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_)); }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    const float* residual;
    if (!Fits(context, x, {1, 2}) || !Optional(context, 3, x, &residual)) return;
    const int64_t channels = x.dim_size(x.dims() - 1), rows = x.NumElements() / channels;
    tf::Tensor* outputs[4];
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &outputs[0]));
    for (int i = 1; i < 4; ++i) OP_REQUIRES_OK(context, context->allocate_output(i, tf::TensorShape({channels}), &outputs[i]));
    const float* from = x.flat<float>().data();
    // Each block's sums are of differences from a row of its own (per channel the median of three rows, so that an outlier is not taken), and the
    // blocks are merged in double: the spread of a block never drowns in the distance between rows of different blocks.
    std::vector<float> shifts(Blocks(rows) * channels);
    const std::vector<float> partial = PartialSums(context, rows, channels, [&](int64_t row, int64_t count, float* s, float* q) {
      const float *first = from + row * channels, *middle = first + count / 2 * channels, *last = first + (count - 1) * channels;
      float* shift = &shifts[row / kNormRows * channels];
      for (int64_t c = 0; c < channels; ++c) shift[c] = std::max(std::min(first[c], middle[c]), std::min(std::max(first[c], middle[c]), last[c]));
      loops_->moments(first, count, channels, shift, s, q);
    });
    const auto rows_of = [&](int64_t b) { return static_cast<double>(std::min(kNormRows, rows - b * kNormRows)); };
    std::vector<double> means_of(channels), squares(channels);
    for (int64_t b = 0; b < Blocks(rows); ++b)
      for (int64_t c = 0; c < channels; ++c) means_of[c] += partial[b * 2 * channels + c] + rows_of(b) * shifts[b * channels + c];
    for (int64_t c = 0; c < channels; ++c) means_of[c] /= rows;
    for (int64_t b = 0; b < Blocks(rows); ++b)
      for (int64_t c = 0; c < channels; ++c) {
        const double own = partial[b * 2 * channels + c] / rows_of(b), away = shifts[b * channels + c] + own - means_of[c];
        squares[c] += partial[(b * 2 + 1) * channels + c] + rows_of(b) * (away * away - own * own);
      }
    float *mean = outputs[1]->flat<float>().data(), *variance = outputs[2]->flat<float>().data(), *inverse = outputs[3]->flat<float>().data();
    const float *gamma = context->input(1).flat<float>().data(), *beta = context->input(2).flat<float>().data();
    std::vector<float> scale(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const double v = squares[c] != squares[c] ? squares[c] : std::max(0.0, squares[c] / rows);  // a NaN stays
      mean[c] = static_cast<float>(means_of[c]);
      variance[c] = static_cast<float>(v);
      inverse[c] = static_cast<float>(1.0 / std::sqrt(v + static_cast<double>(epsilon_)));
      scale[c] = gamma[c] * inverse[c];
    }
    const int64_t period = Period(channels);
    const auto means = Repeated(mean, channels, period), scales = Repeated(scale.data(), channels, period), betas = Repeated(beta, channels, period);
    const NormParams p{means.data(), scales.data(), betas.data(), nullptr, nullptr, nullptr, period, relu_};
    float* y = outputs[0]->flat<float>().data();
    Flat(context, x.NumElements(), period, [&](int64_t lo, int64_t hi) { loops_->normalize(p, from + lo, residual == nullptr ? nullptr : residual + lo, hi - lo, y + lo); });
  }

 private:
  float epsilon_;
};

class BatchNormGradOp : public NormBase {
 public:
  explicit BatchNormGradOp(tf::OpKernelConstruction* context) : NormBase(context) {
    OP_REQUIRES(context, residuals_ == 0 || relu_, absl::InvalidArgumentError("without a ReLU the gradient of a residual is dy: leave it out"));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& dy = context->input(0);
    const tf::Tensor& x = context->input(1);
    const float* y;
    if (!Fits(context, x, {2, 3, 4, 5}) || !Optional(context, 6, x, &y)) return;
    OP_REQUIRES(context, dy.shape() == x.shape(),
                absl::InvalidArgumentError(absl::StrCat("the gradient has the shape of x, got ", dy.shape().DebugString(), " and ", x.shape().DebugString())));
    const int64_t channels = x.dim_size(x.dims() - 1), rows = x.NumElements() / channels;
    const float *g = dy.flat<float>().data(), *from = x.flat<float>().data();
    tf::Tensor *dx, *dgamma, *dbeta;
    if (y == nullptr)  // else dresidual takes the memory of dy
      OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, x.shape(), &dx));
    else
      OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &dx));
    OP_REQUIRES_OK(context, context->allocate_output(1, tf::TensorShape({channels}), &dgamma));
    OP_REQUIRES_OK(context, context->allocate_output(2, tf::TensorShape({channels}), &dbeta));
    float* masked = nullptr;
    if (y != nullptr) {
      tf::Tensor* dresidual;
      OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 3, x.shape(), &dresidual));
      masked = dresidual->flat<float>().data();
    }
    const bool own_mask = relu_ && y == nullptr;
    const float *gamma = context->input(2).flat<float>().data(), *beta = context->input(3).flat<float>().data();
    const float *mean = context->input(4).flat<float>().data(), *inverse = context->input(5).flat<float>().data();
    std::vector<float> scale(channels), mean_dy(channels), mean_dyx(channels);
    for (int64_t c = 0; c < channels; ++c) scale[c] = gamma[c] * inverse[c];
    const NormParams own{mean, scale.data(), beta, nullptr, nullptr, nullptr, channels, own_mask};
    const std::vector<float> partial = PartialSums(context, rows, channels, [&](int64_t row, int64_t count, float* s, float* q) {
      const int64_t first = row * channels;
      if (y != nullptr)
        loops_->residual_sums(own, g + first, y + first, from + first, count, channels, masked + first, s, q);
      else
        loops_->norm_sums(own, g + first, from + first, count, channels, s, q);
    });
    std::vector<double> sum(channels), product(channels);
    for (int64_t b = 0; b < Blocks(rows); ++b)
      for (int64_t c = 0; c < channels; ++c) {
        sum[c] += partial[b * 2 * channels + c];
        product[c] += partial[(b * 2 + 1) * channels + c];
      }
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
    const NormParams p{means.data(), scales.data(), betas.data(), inverses.data(), dys.data(), dyxs.data(), period, own_mask};
    if (y != nullptr) g = masked;
    float* out = dx->flat<float>().data();
    Flat(context, x.NumElements(), period, [&](int64_t lo, int64_t hi) { loops_->norm_gradient(p, g + lo, from + lo, hi - lo, out + lo); });
  }
};

REGISTER_KERNEL_BUILDER(Name("GraffitiBatchNorm").Device(tf::DEVICE_CPU), BatchNormOp);
REGISTER_KERNEL_BUILDER(Name("GraffitiBatchNormGrad").Device(tf::DEVICE_CPU), BatchNormGradOp);

}  // namespace
}  // namespace graffiti
