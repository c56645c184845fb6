// GraffitiFakeQuantize and GraffitiFakeQuantizeGrad: the trained log-threshold quantizer, one pass forward, one
// backward.
#include "bridge.h"
#include "tensorflow/core/framework/op.h"

namespace graffiti {
namespace {

absl::Status SameShapeAndScalar(InferenceContext* c, int tensor, int threshold) {
  ShapeHandle unused;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(threshold), 0, &unused));
  c->set_output(0, c->input(tensor));
  return absl::OkStatus();
}

REGISTER_OP("GraffitiFakeQuantize")
    .Input("x: float")
    .Input("log2_threshold: float")
    .Output("y: float")
    .Attr("bits: int >= 2")
    .Attr("is_signed: bool")
    .Attr("narrow: bool = false")
    .Attr(GRAFFITI_ROUNDINGS)
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn([](InferenceContext* c) { return SameShapeAndScalar(c, 0, 1); })
    .Doc("clip(round(x / s), low, high) * s with s = 2**(ceil(log2_threshold) - (bits - is_signed)).");

REGISTER_OP("GraffitiFakeQuantizeGrad")
    .Input("gradient: float")
    .Input("x: float")
    .Input("log2_threshold: float")
    .Output("x_gradient: float")
    .Output("log2_threshold_gradient: float")
    .Attr("bits: int >= 2")
    .Attr("is_signed: bool")
    .Attr("narrow: bool = false")
    .Attr(GRAFFITI_ROUNDINGS)
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn([](InferenceContext* c) {
      TF_RETURN_IF_ERROR(SameShapeAndScalar(c, 1, 2));
      c->set_output(1, c->Scalar());
      return absl::OkStatus();
    })
    .Doc("The published gradients of GraffitiFakeQuantize; the sum's order depends on the number of elements only.");

// Attributes and the threshold input, common to both directions.
class FakeQuantizeBase : public tf::OpKernel {
 public:
  explicit FakeQuantizeBase(tf::OpKernelConstruction* context) : OpKernel(context) {
    bool is_signed, narrow;
    OP_REQUIRES_OK(context, context->GetAttr("bits", &format_.bits));
    OP_REQUIRES_OK(context, context->GetAttr("is_signed", &is_signed));
    OP_REQUIRES_OK(context, context->GetAttr("narrow", &narrow));
    OP_REQUIRES_OK(context, GetRounding(context, &format_.rounding));
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
    format_.is_signed = is_signed;
    format_.narrow = narrow;
  }

 protected:
  absl::Status Format(const tf::Tensor& threshold, graffiti_fake_quantize_format* format) const {
    if (!tf::TensorShapeUtils::IsScalar(threshold.shape())) {
      return Invalid("fake_quantize takes one log2_threshold that is a number, got ", threshold.DebugString(),
                     "; use the python ops for one threshold per channel");
    }
    *format = format_;
    format->log2_threshold = threshold.scalar<float>()();
    return absl::OkStatus();
  }

  int32_t tier_;

 private:
  graffiti_fake_quantize_format format_{};
};

class FakeQuantizeOp : public FakeQuantizeBase {
 public:
  using FakeQuantizeBase::FakeQuantizeBase;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    graffiti_fake_quantize_format format;
    OP_REQUIRES_OK(context, Format(context->input(1), &format));
    tf::Tensor* y;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_fake_quantize(
        x.NumElements(), x.flat<float>().data(), &format, y->flat<float>().data(), tier_, threads.get())));
  }
};

class FakeQuantizeGradOp : public FakeQuantizeBase {
 public:
  using FakeQuantizeBase::FakeQuantizeBase;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &gradient = context->input(0), &x = context->input(1);
    graffiti_fake_quantize_format format;
    OP_REQUIRES_OK(context, Format(context->input(2), &format));
    OP_REQUIRES(context, gradient.shape() == x.shape(),
                Invalid("the gradient has the shape of x, got ", gradient.shape().DebugString(), " and ",
                        x.shape().DebugString()));
    tf::Tensor *x_gradient, *threshold_gradient;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, x.shape(), &x_gradient));
    OP_REQUIRES_OK(context, context->allocate_output(1, tf::TensorShape({}), &threshold_gradient));
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_fake_quantize_gradient(
        x.NumElements(), gradient.flat<float>().data(), x.flat<float>().data(), &format,
        x_gradient->flat<float>().data(), threshold_gradient->flat<float>().data(), tier_, threads.get())));
  }
};

REGISTER_KERNEL_BUILDER(Name("GraffitiFakeQuantize").Device(tf::DEVICE_CPU), FakeQuantizeOp);
REGISTER_KERNEL_BUILDER(Name("GraffitiFakeQuantizeGrad").Device(tf::DEVICE_CPU), FakeQuantizeGradOp);

}  // namespace
}  // namespace graffiti
