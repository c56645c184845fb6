// GraffitiConv2D, GraffitiDepthwiseConv2D, GraffitiDense: integer products, bias and requantization in one op.
#include "bridge.h"
#include "tensorflow/core/framework/op.h"

namespace graffiti {
namespace {

#define GRAFFITI_PRODUCT                                   \
      .Input("kernel: K")                                  \
      .Input("bias: int32")                                \
      .Output("y: output_type")                            \
      .Attr("T: " GRAFFITI_CODES)                          \
      .Attr("K: {int8, int16}")                            \
      .Attr("output_type: " GRAFFITI_CODES " = DT_INT32")  \
      .Attr("shift: list(int) = []")                       \
      .Attr("low: int = 0")                                \
      .Attr("high: int = 0")                               \
      .Attr(GRAFFITI_ROUNDINGS)                            \
      .Attr(GRAFFITI_TIERS)

#define GRAFFITI_WINDOW                                           \
      .Attr("strides: list(int)")                                 \
      .Attr("padding: {'same', 'valid', 'explicit'} = 'valid'")   \
      .Attr("pads: list(int) = [0, 0, 0, 0]")

absl::Status ConvShape(InferenceContext* c, bool depthwise) {
  ShapeHandle x, kernel;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &x));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 4, &kernel));
  Window window;
  TF_RETURN_IF_ERROR(window.Get(c, true));
  DimensionHandle height, width, channels = c->Dim(kernel, 3);
  TF_RETURN_IF_ERROR(window.Infer(c, 0, c->Dim(x, 1), c->Dim(kernel, 0), &height));
  TF_RETURN_IF_ERROR(window.Infer(c, 1, c->Dim(x, 2), c->Dim(kernel, 1), &width));
  if (depthwise) TF_RETURN_IF_ERROR(c->Multiply(c->Dim(kernel, 2), channels, &channels));
  c->set_output(0, c->MakeShape({c->Dim(x, 0), height, width, channels}));
  return absl::OkStatus();
}

REGISTER_OP("GraffitiConv2D")
    .Input("x: T") GRAFFITI_PRODUCT GRAFFITI_WINDOW
    .Attr("dilation: list(int) = [1, 1]")
    .Attr("groups: int >= 1 = 1")
    .SetShapeFn([](InferenceContext* c) { return ConvShape(c, false); })
    .Doc("Convolution of codes, kernel (*window, in/groups, out); no shift gives the int32 accumulators.");

REGISTER_OP("GraffitiDepthwiseConv2D")
    .Input("x: T") GRAFFITI_PRODUCT GRAFFITI_WINDOW
    .Attr("dilation: list(int) = [1, 1]")
    .SetShapeFn([](InferenceContext* c) { return ConvShape(c, true); })
    .Doc("Convolution of every channel by its own filters, kernel (*window, in, multiplier).");

REGISTER_OP("GraffitiDense")
    .Input("x: T") GRAFFITI_PRODUCT
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle x, kernel, rows, out;
      DimensionHandle unused;
      TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &x));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &kernel));
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(x, -1), c->Dim(kernel, 0), &unused));
      TF_RETURN_IF_ERROR(c->Subshape(x, 0, -1, &rows));
      TF_RETURN_IF_ERROR(c->Concatenate(rows, c->Vector(c->Dim(kernel, 1)), &out));
      c->set_output(0, out);
      return absl::OkStatus();
    })
    .Doc("x @ kernel over the last axis of x.");

// What the three share: requantization, tier, and the bias, which may be empty.
class ProductOp : public tf::OpKernel {
 public:
  explicit ProductOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, requantization_.Get(context));
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
  }

 protected:
  absl::Status Bias(const tf::Tensor& bias, int64_t channels, const int32_t** data) const {
    if (bias.NumElements() != 0 && bias.shape() != tf::TensorShape({channels})) {
      return Invalid("expected a bias of ", channels, " elements or none, got the shape ", bias.shape().DebugString());
    }
    *data = bias.NumElements() == 0 ? nullptr : bias.flat<int32_t>().data();
    return absl::OkStatus();
  }

  Requantization requantization_;
  int32_t tier_;
};

template <bool kDepthwise>
class ConvOp : public ProductOp {
 public:
  explicit ConvOp(tf::OpKernelConstruction* context) : ProductOp(context) {
    OP_REQUIRES_OK(context, window_.Get(context, true));
    if (!kDepthwise) OP_REQUIRES_OK(context, context->GetAttr("groups", &groups_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &x = context->input(0), &kernel = context->input(1), &bias = context->input(2);
    OP_REQUIRES(context, x.dims() == 4 && kernel.dims() == 4,
                Invalid("expected x (batch, height, width, channels) and a kernel of four axes"));
    graffiti_conv_shape shape{};
    shape.height = x.dim_size(1), shape.width = x.dim_size(2), shape.channels = x.dim_size(3);
    shape.kernel_height = kernel.dim_size(0), shape.kernel_width = kernel.dim_size(1);
    shape.groups = kDepthwise ? shape.channels : groups_;
    shape.out_channels = kernel.dim_size(3) * (kDepthwise ? shape.channels : 1);
    OP_REQUIRES(context,
                kernel.dim_size(2) * (kDepthwise ? 1 : groups_) == shape.channels &&
                    shape.out_channels % shape.groups == 0,
                Invalid("a kernel of the shape ", kernel.shape().DebugString(), " in ", shape.groups,
                        " groups does not fit x with ", shape.channels, " channels"));
    shape.stride_h = window_.strides[0], shape.stride_w = window_.strides[1];
    shape.dilation_h = window_.dilation[0], shape.dilation_w = window_.dilation[1];
    shape.spread_h = shape.spread_w = 1;
    OP_REQUIRES_OK(context, window_.Axis(0, shape.height, shape.kernel_height, &shape.out_height, &shape.pad_top));
    OP_REQUIRES_OK(context, window_.Axis(1, shape.width, shape.kernel_width, &shape.out_width, &shape.pad_left));
    const int32_t* bias_data = nullptr;
    const graffiti_requantization* to = nullptr;
    OP_REQUIRES_OK(context, Bias(bias, shape.out_channels, &bias_data));
    OP_REQUIRES_OK(context, requantization_.For(shape.out_channels, &to));
    tf::Tensor* y;
    OP_REQUIRES_OK(context, context->allocate_output(
        0, tf::TensorShape({x.dim_size(0), shape.out_height, shape.out_width, shape.out_channels}), &y));
    if (y->NumElements() == 0) return;
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_conv2d(
        &shape, x.dim_size(0), x.data(), KernelType(x), kernel.data(), KernelType(kernel), bias_data, to,
        y->data(), tier_, threads.get())));
  }

 private:
  Window window_;
  int64_t groups_ = 1;
};

class DenseOp : public ProductOp {
 public:
  using ProductOp::ProductOp;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &x = context->input(0), &kernel = context->input(1), &bias = context->input(2);
    OP_REQUIRES(context, x.dims() >= 1 && kernel.dims() == 2 && x.dim_size(x.dims() - 1) == kernel.dim_size(0),
                Invalid("dense takes x (..., in) and a kernel (in, out), got ", x.shape().DebugString(), " and ",
                        kernel.shape().DebugString()));
    const int64_t inputs = kernel.dim_size(0), outputs = kernel.dim_size(1);
    const int32_t* bias_data = nullptr;
    const graffiti_requantization* to = nullptr;
    OP_REQUIRES_OK(context, Bias(bias, outputs, &bias_data));
    OP_REQUIRES_OK(context, requantization_.For(outputs, &to));
    tf::TensorShape shape = x.shape();
    shape.set_dim(x.dims() - 1, outputs);
    tf::Tensor* y;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &y));
    if (y->NumElements() == 0) return;
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_dense(
        y->NumElements() / outputs, inputs, outputs, x.data(), KernelType(x), kernel.data(), KernelType(kernel),
        bias_data, to, y->data(), tier_, threads.get())));
  }
};

REGISTER_KERNEL_BUILDER(Name("GraffitiConv2D").Device(tf::DEVICE_CPU), ConvOp<false>);
REGISTER_KERNEL_BUILDER(Name("GraffitiDepthwiseConv2D").Device(tf::DEVICE_CPU), ConvOp<true>);
REGISTER_KERNEL_BUILDER(Name("GraffitiDense").Device(tf::DEVICE_CPU), DenseOp);

}  // namespace
}  // namespace graffiti
