// GraffitiTrainingConv2D and its two gradients: the three products of a training step on codes, to float32.
#include "bridge.h"
#include "tensorflow/core/framework/op.h"

namespace graffiti {
namespace {

#define GRAFFITI_GEOMETRY                        \
      .Attr("strides: list(int) = [1, 1]")       \
      .Attr("pads: list(int) = [0, 0, 0, 0]")    \
      .Attr("dilations: list(int) = [1, 1]")     \
      .Attr("depthwise: bool = false")           \
      .Attr(GRAFFITI_TIERS)

REGISTER_OP("GraffitiTrainingConv2D")
    .Input("x: T")
    .Input("kernel: int8")
    .Input("scale: float")
    .Output("y: float")
    .Attr("T: {int8, uint8}") GRAFFITI_GEOMETRY
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle x, kernel;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &x));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 4, &kernel));
      std::vector<int32_t> strides, pads, dilations;
      TF_RETURN_IF_ERROR(c->GetAttr("strides", &strides));
      TF_RETURN_IF_ERROR(c->GetAttr("pads", &pads));
      TF_RETURN_IF_ERROR(c->GetAttr("dilations", &dilations));
      DimensionHandle out[2];
      for (int axis = 0; axis < 2; ++axis) {
        out[axis] = c->UnknownDim();
        if (!c->ValueKnown(c->Dim(x, axis + 1)) || !c->ValueKnown(c->Dim(kernel, axis))) continue;
        const int64_t reach = (c->Value(c->Dim(kernel, axis)) - 1) * dilations[axis] + 1;
        const int64_t size = c->Value(c->Dim(x, axis + 1)) + pads[2 * axis] + pads[2 * axis + 1];
        if (size >= reach) out[axis] = c->MakeDim((size - reach) / strides[axis] + 1);
      }
      bool depthwise;
      TF_RETURN_IF_ERROR(c->GetAttr("depthwise", &depthwise));
      DimensionHandle channels = c->Dim(kernel, 3);
      if (depthwise) TF_RETURN_IF_ERROR(c->Multiply(c->Dim(kernel, 2), channels, &channels));
      c->set_output(0, c->MakeShape({c->Dim(x, 0), out[0], out[1], channels}));
      return absl::OkStatus();
    })
    .Doc(
        "scale * convolution of codes; every sum exact, rounded once to float32. pads: top, bottom, left, right. "
        "depthwise: the kernel is [height, width, channels, multiplier].");

REGISTER_OP("GraffitiTrainingConv2DInputGrad")
    .Input("dy: T")
    .Input("kernel: int8")
    .Input("scale: float")
    .Input("input_shape: int32")
    .Output("dx: float")
    .Attr("T: {int8, int16}") GRAFFITI_GEOMETRY
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle shape;
      TF_RETURN_IF_ERROR(c->MakeShapeFromShapeTensor(3, &shape));
      TF_RETURN_IF_ERROR(c->WithRank(shape, 4, &shape));
      c->set_output(0, shape);
      return absl::OkStatus();
    })
    .Doc("scale * input gradient of GraffitiTrainingConv2D.");

REGISTER_OP("GraffitiTrainingConv2DWeightGrad")
    .Input("x: X")
    .Input("dy: T")
    .Input("scale: float")
    .Output("dw: float")
    .Attr("X: {int8, uint8}")
    .Attr("T: {int8, int16}")
    .Attr("window: list(int)") GRAFFITI_GEOMETRY
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle x, dy;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &x));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 4, &dy));
      std::vector<int32_t> window;
      TF_RETURN_IF_ERROR(c->GetAttr("window", &window));
      if (window.size() != 2) return Invalid("a window has a height and a width");
      bool depthwise;
      TF_RETURN_IF_ERROR(c->GetAttr("depthwise", &depthwise));
      DimensionHandle last = c->Dim(dy, 3);
      if (depthwise) TF_RETURN_IF_ERROR(c->Divide(last, c->Dim(x, 3), /*evenly_divisible=*/true, &last));
      c->set_output(0, c->MakeShape({c->MakeDim(window[0]), c->MakeDim(window[1]), c->Dim(x, 3), last}));
      return absl::OkStatus();
    })
    .Doc("scale * weight gradient of GraffitiTrainingConv2D.");

class TrainingConv : public tf::OpKernel {
 public:
  explicit TrainingConv(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
    OP_REQUIRES_OK(context, context->GetAttr("strides", &strides_));
    OP_REQUIRES_OK(context, context->GetAttr("pads", &pads_));
    OP_REQUIRES_OK(context, context->GetAttr("dilations", &dilations_));
    OP_REQUIRES_OK(context, context->GetAttr("depthwise", &depthwise_));
    OP_REQUIRES(context, strides_.size() == 2 && pads_.size() == 4 && dilations_.size() == 2,
                Invalid("expected two strides, four pads (top, bottom, left, right) and two dilations"));
    for (int32_t n : strides_) OP_REQUIRES(context, n >= 1, Invalid("strides are at least 1, got ", n));
    for (int32_t n : dilations_) OP_REQUIRES(context, n >= 1, Invalid("dilations are at least 1, got ", n));
    for (int32_t n : pads_) OP_REQUIRES(context, n >= 0, Invalid("pads are at least 0, got ", n));
  }

 protected:
  // The shape for x [.., H, W, C] and a kernel [.., last], with the sizes that follow.
  absl::Status Shape(int64_t height, int64_t width, int64_t channels, int64_t window_h, int64_t window_w, int64_t last,
                     graffiti_conv_shape* s) const {
    const int64_t out_channels = depthwise_ ? channels * last : last;
    *s = graffiti_conv_shape{};
    s->height = height;
    s->width = width;
    s->channels = channels;
    s->kernel_height = window_h;
    s->kernel_width = window_w;
    s->out_channels = out_channels;
    s->stride_h = strides_[0];
    s->stride_w = strides_[1];
    s->dilation_h = dilations_[0];
    s->dilation_w = dilations_[1];
    s->pad_top = pads_[0];
    s->pad_left = pads_[2];
    s->groups = depthwise_ ? channels : 1;
    s->spread_h = s->spread_w = 1;
    const int64_t reach_h = (window_h - 1) * dilations_[0] + 1, reach_w = (window_w - 1) * dilations_[1] + 1;
    const int64_t padded_h = height + pads_[0] + pads_[1], padded_w = width + pads_[2] + pads_[3];
    if (padded_h < reach_h || padded_w < reach_w)
      return Invalid("a window that reaches over ", reach_h, "x", reach_w, " does not fit a padded image of ", padded_h,
                     "x", padded_w);
    s->out_height = (padded_h - reach_h) / strides_[0] + 1;
    s->out_width = (padded_w - reach_w) / strides_[1] + 1;
    return absl::OkStatus();
  }

  absl::Status Run(tf::OpKernelContext* context, int32_t pass, const graffiti_conv_shape& shape, int64_t batch,
                   tf::Tensor* out) const {
    const tf::Tensor &first = context->input(0), &second = context->input(1);
    if (context->input(2).NumElements() != 1)
      return Invalid("expected one scale, got ", context->input(2).NumElements());
    Threads threads(context);
    return FromKernels(graffiti_training_conv(
        pass, &shape, batch, first.tensor_data().data(), KernelType(first), second.tensor_data().data(),
        KernelType(second), context->input(2).flat<float>()(0), out->flat<float>().data(), tier_, threads.get()));
  }

  absl::Status Gradient(const tf::Tensor& dy, int64_t batch, const graffiti_conv_shape& s) const {
    const tf::TensorShape expected({batch, s.out_height, s.out_width, s.out_channels});
    if (dy.shape() != expected)
      return Invalid("expected a gradient of shape ", expected.DebugString(), ", got ", dy.shape().DebugString());
    return absl::OkStatus();
  }

  int32_t tier_;
  bool depthwise_;
  std::vector<int32_t> strides_, pads_, dilations_;
};

class Forward : public TrainingConv {
 public:
  using TrainingConv::TrainingConv;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &x = context->input(0), &kernel = context->input(1);
    OP_REQUIRES(
        context, x.dims() == 4 && kernel.dims() == 4 && kernel.dim_size(2) == x.dim_size(3),
        Invalid("expected x [batch, height, width, channels] and a kernel [height, width, channels, outputs], got ",
                x.shape().DebugString(), " and ", kernel.shape().DebugString()));
    graffiti_conv_shape shape;
    OP_REQUIRES_OK(context, Shape(x.dim_size(1), x.dim_size(2), x.dim_size(3), kernel.dim_size(0), kernel.dim_size(1),
                                  kernel.dim_size(3), &shape));
    tf::Tensor* y;
    OP_REQUIRES_OK(context,
                   context->allocate_output(
                       0, tf::TensorShape({x.dim_size(0), shape.out_height, shape.out_width, shape.out_channels}), &y));
    OP_REQUIRES_OK(context, Run(context, GRAFFITI_FORWARD, shape, x.dim_size(0), y));
  }
};

class InputGradient : public TrainingConv {
 public:
  using TrainingConv::TrainingConv;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &dy = context->input(0), &kernel = context->input(1), &sizes = context->input(3);
    OP_REQUIRES(
        context, dy.dims() == 4 && kernel.dims() == 4 && sizes.NumElements() == 4,
        Invalid("expected dy and kernel of rank 4 and an input_shape of 4 sizes, got ", dy.shape().DebugString(), ", ",
                kernel.shape().DebugString(), " and ", sizes.shape().DebugString()));
    const auto x = sizes.flat<int32_t>();
    graffiti_conv_shape shape;
    OP_REQUIRES(context, x(3) == kernel.dim_size(2),
                Invalid("the kernel takes ", kernel.dim_size(2), " channels, input_shape has ", x(3)));
    OP_REQUIRES_OK(context,
                   Shape(x(1), x(2), x(3), kernel.dim_size(0), kernel.dim_size(1), kernel.dim_size(3), &shape));
    OP_REQUIRES_OK(context, Gradient(dy, x(0), shape));
    tf::Tensor* dx;
    OP_REQUIRES_OK(context, context->allocate_output(0, tf::TensorShape({x(0), x(1), x(2), x(3)}), &dx));
    OP_REQUIRES_OK(context, Run(context, GRAFFITI_INPUT_GRADIENT, shape, x(0), dx));
  }
};

class WeightGradient : public TrainingConv {
 public:
  explicit WeightGradient(tf::OpKernelConstruction* context) : TrainingConv(context) {
    OP_REQUIRES_OK(context, context->GetAttr("window", &window_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &x = context->input(0), &dy = context->input(1);
    OP_REQUIRES(
        context, x.dims() == 4 && dy.dims() == 4 && window_.size() == 2,
        Invalid("expected x and dy of rank 4, got ", x.shape().DebugString(), " and ", dy.shape().DebugString()));
    graffiti_conv_shape shape;
    OP_REQUIRES(context, !depthwise_ || (x.dim_size(3) > 0 && dy.dim_size(3) % x.dim_size(3) == 0),
                Invalid("expected a gradient with a multiple of ", x.dim_size(3), " channels, got ", dy.dim_size(3)));
    const int64_t last = depthwise_ ? dy.dim_size(3) / x.dim_size(3) : dy.dim_size(3);
    OP_REQUIRES_OK(context, Shape(x.dim_size(1), x.dim_size(2), x.dim_size(3), window_[0], window_[1], last, &shape));
    OP_REQUIRES_OK(context, Gradient(dy, x.dim_size(0), shape));
    tf::Tensor* dw;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, tf::TensorShape({window_[0], window_[1], x.dim_size(3), last}), &dw));
    OP_REQUIRES_OK(context, Run(context, GRAFFITI_WEIGHT_GRADIENT, shape, x.dim_size(0), dw));
  }

 private:
  std::vector<int32_t> window_;
};

REGISTER_KERNEL_BUILDER(Name("GraffitiTrainingConv2D").Device(tf::DEVICE_CPU), Forward);
REGISTER_KERNEL_BUILDER(Name("GraffitiTrainingConv2DInputGrad").Device(tf::DEVICE_CPU).HostMemory("input_shape"),
                        InputGradient);
REGISTER_KERNEL_BUILDER(Name("GraffitiTrainingConv2DWeightGrad").Device(tf::DEVICE_CPU), WeightGradient);

}  // namespace
}  // namespace graffiti
