// GraffitiBatchNorm and GraffitiBatchNormGrad: batch norm for training, with a residual sum and a ReLU behind it.
#include "bridge.h"
#include "tensorflow/core/framework/op.h"

namespace graffiti {
namespace {

absl::Status NormShapes(InferenceContext* c, int x, std::initializer_list<int> vectors,
                        std::initializer_list<int> vector_outputs) {
  ShapeHandle shape, unused;
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
    .Doc("(x - mean) * gamma / sqrt(variance + epsilon) + beta by the batch's statistics over all but the last axis, "
         "perhaps + residual and max(y, 0).");

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
    .Doc("The gradients of GraffitiBatchNorm. The ReLU's mask is computed again; behind a residual sum it is y > 0, "
         "and dresidual is dy there.");

// What both directions share: attributes, and the checks of shapes.
class NormBase : public tf::OpKernel {
 public:
  explicit NormBase(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
    OP_REQUIRES_OK(context, context->GetAttr("residuals", &residuals_));
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
    OP_REQUIRES(context, residuals_ <= 1, Invalid("batch norm takes at most one residual, got ", residuals_));
  }

 protected:
  static absl::Status Fits(tf::OpKernelContext* context, const tf::Tensor& x, std::initializer_list<int> vectors) {
    const int64_t channels = x.dims() < 1 ? 0 : x.dim_size(x.dims() - 1);
    bool fits = x.dims() >= 2 && x.NumElements() > 0;
    for (int input : vectors) fits = fits && context->input(input).NumElements() == channels;
    if (fits) return absl::OkStatus();
    return Invalid("batch norm takes at least one row [..., channels] and a value per channel, got x ",
                   x.shape().DebugString());
  }

  // The one tensor of an optional input, of the shape of x; NULL where there is none.
  absl::Status Optional(tf::OpKernelContext* context, int input, const tf::Tensor& x, const float** data) const {
    *data = nullptr;
    if (residuals_ == 0) return absl::OkStatus();
    const tf::Tensor& given = context->input(input);
    if (given.shape() != x.shape()) {
      return Invalid("a residual has the shape of x, got ", given.shape().DebugString(), " and ",
                     x.shape().DebugString());
    }
    *data = given.flat<float>().data();
    return absl::OkStatus();
  }

  static const float* Input(tf::OpKernelContext* context, int input) {
    return context->input(input).flat<float>().data();
  }

  bool relu_;
  int residuals_;
  int32_t tier_;
};

class BatchNormOp : public NormBase {
 public:
  explicit BatchNormOp(tf::OpKernelConstruction* context) : NormBase(context) {
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    graffiti_batch_norm_inputs in{};
    OP_REQUIRES_OK(context, Fits(context, x, {1, 2}));
    OP_REQUIRES_OK(context, Optional(context, 3, x, &in.residual));
    in.channels = x.dim_size(x.dims() - 1);
    in.rows = x.NumElements() / in.channels;
    in.x = Input(context, 0), in.gamma = Input(context, 1), in.beta = Input(context, 2);
    in.epsilon = epsilon_, in.relu = relu_;
    tf::Tensor* outputs[4];
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &outputs[0]));
    for (int i = 1; i < 4; ++i) {
      OP_REQUIRES_OK(context, context->allocate_output(i, tf::TensorShape({in.channels}), &outputs[i]));
    }
    const graffiti_batch_norm_outputs out{outputs[0]->flat<float>().data(), outputs[1]->flat<float>().data(),
                                          outputs[2]->flat<float>().data(), outputs[3]->flat<float>().data()};
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_batch_norm(&in, &out, tier_, threads.get())));
  }

 private:
  float epsilon_;
};

class BatchNormGradOp : public NormBase {
 public:
  explicit BatchNormGradOp(tf::OpKernelConstruction* context) : NormBase(context) {
    OP_REQUIRES(context, residuals_ == 0 || relu_,
                Invalid("without a ReLU the gradient of a residual is dy: leave it out"));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &dy = context->input(0), &x = context->input(1);
    graffiti_batch_norm_gradient_inputs in{};
    OP_REQUIRES_OK(context, Fits(context, x, {2, 3, 4, 5}));
    OP_REQUIRES_OK(context, Optional(context, 6, x, &in.y));
    OP_REQUIRES(context, dy.shape() == x.shape(),
                Invalid("the gradient has the shape of x, got ", dy.shape().DebugString(), " and ",
                        x.shape().DebugString()));
    in.channels = x.dim_size(x.dims() - 1);
    in.rows = x.NumElements() / in.channels;
    in.dy = Input(context, 0), in.x = Input(context, 1), in.gamma = Input(context, 2), in.beta = Input(context, 3);
    in.mean = Input(context, 4), in.inverse_deviation = Input(context, 5), in.relu = relu_;
    tf::Tensor *dx, *dgamma, *dbeta, *dresidual = nullptr;
    if (in.y == nullptr) {  // else dresidual takes the memory of dy
      OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, x.shape(), &dx));
    } else {
      OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &dx));
      OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 3, x.shape(), &dresidual));
    }
    OP_REQUIRES_OK(context, context->allocate_output(1, tf::TensorShape({in.channels}), &dgamma));
    OP_REQUIRES_OK(context, context->allocate_output(2, tf::TensorShape({in.channels}), &dbeta));
    const graffiti_batch_norm_gradient_outputs out{
        dx->flat<float>().data(), dgamma->flat<float>().data(), dbeta->flat<float>().data(),
        dresidual == nullptr ? nullptr : dresidual->flat<float>().data()};
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_batch_norm_gradient(&in, &out, tier_, threads.get())));
  }
};

REGISTER_KERNEL_BUILDER(Name("GraffitiBatchNorm").Device(tf::DEVICE_CPU), BatchNormOp);
REGISTER_KERNEL_BUILDER(Name("GraffitiBatchNormGrad").Device(tf::DEVICE_CPU), BatchNormGradOp);

}  // namespace
}  // namespace graffiti
