// GraffitiFakeQuantize and GraffitiFakeQuantizeGrad: one pass forward, one backward (fake_quantize/fake_quantize.h).
#include "fake_quantize/fake_quantize.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge.h"
#include "parallel.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace graffiti {
namespace {

namespace tf = tensorflow;

constexpr int64_t kSerialBlocks = 16;  // 65,536 elements take some 15 microseconds

absl::Status SameShapeAndScalar(tf::shape_inference::InferenceContext* c, int tensor, int threshold) {
  tf::shape_inference::ShapeHandle unused;
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
    .Attr("rounding: {'half_even', 'half_up', 'half_away', 'floor'} = 'half_even'")
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn([](tf::shape_inference::InferenceContext* c) { return SameShapeAndScalar(c, 0, 1); })
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
    .Attr("rounding: {'half_even', 'half_up', 'half_away', 'floor'} = 'half_even'")
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn([](tf::shape_inference::InferenceContext* c) {
      TF_RETURN_IF_ERROR(SameShapeAndScalar(c, 1, 2));
      c->set_output(1, c->Scalar());
      return absl::OkStatus();
    })
    .Doc("The published gradients of GraffitiFakeQuantize; the sum's order depends on the number of elements only.");

// Attributes and the threshold input, common to both directions.
class FakeQuantizeBase : public tf::OpKernel {
 public:
  explicit FakeQuantizeBase(tf::OpKernelConstruction* context) : OpKernel(context) {
    std::string rounding;
    OP_REQUIRES_OK(context, context->GetAttr("bits", &bits_));
    OP_REQUIRES_OK(context, context->GetAttr("is_signed", &signed_));
    OP_REQUIRES_OK(context, context->GetAttr("narrow", &narrow_));
    OP_REQUIRES_OK(context, context->GetAttr("rounding", &rounding));
    OP_REQUIRES_OK(context, GetLoops(context, FakeQuantizeScalar, FakeQuantizeAvx2, FakeQuantizeAvx512, &loops_));
    OP_REQUIRES(context, bits_ <= 24,
                absl::InvalidArgumentError(
                    absl::StrCat("fake_quantize takes 2 to 24 bits (float32 holds no more), got ", bits_)));
    rounding_ = rounding == "half_even" ? Rounding::kHalfEven
                : rounding == "half_up" ? Rounding::kHalfUp
                : rounding == "half_away" ? Rounding::kHalfAway : Rounding::kFloor;
  }

 protected:
  // Checks the threshold; on an error the status is in the context.
  bool Params(tf::OpKernelContext* context, int input, FakeQuantizeParams* params) const {
    const tf::Tensor& threshold = context->input(input);
    if (!tf::TensorShapeUtils::IsScalar(threshold.shape()) || std::isnan(threshold.scalar<float>()())) {
      context->CtxFailure(absl::InvalidArgumentError(absl::StrCat(
          "fake_quantize takes one log2_threshold that is a number, got ", threshold.DebugString(),
          "; look for NaN in the loss, or use the python ops for one threshold per channel")));
      return false;
    }
    *params = MakeFakeQuantizeParams(threshold.scalar<float>()(), bits_, signed_, narrow_, rounding_);
    return true;
  }

  const FakeQuantizeLoops* loops_;

 private:
  int bits_;
  bool signed_, narrow_;
  Rounding rounding_;
};

class FakeQuantizeOp : public FakeQuantizeBase {
 public:
  using FakeQuantizeBase::FakeQuantizeBase;

  void Compute(tf::OpKernelContext* context) override {
    FakeQuantizeParams params;
    if (!Params(context, 1, &params)) return;
    const tf::Tensor& x = context->input(0);
    tf::Tensor* y;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    const float* from = x.flat<float>().data();
    float* to = y->flat<float>().data();
    ForEachPart(context, x.NumElements(), kFakeQuantizeBlock, kSerialBlocks, [&](int64_t lo, int64_t hi) {
      loops_->forward(params, from + lo, to + lo, hi - lo);
    });
  }
};

class FakeQuantizeGradOp : public FakeQuantizeBase {
 public:
  using FakeQuantizeBase::FakeQuantizeBase;

  void Compute(tf::OpKernelContext* context) override {
    FakeQuantizeParams params;
    if (!Params(context, 2, &params)) return;
    const tf::Tensor& gradient = context->input(0);
    const tf::Tensor& x = context->input(1);
    OP_REQUIRES(context, gradient.shape() == x.shape(),
                absl::InvalidArgumentError(absl::StrCat("the gradient has the shape of x, got ",
                                                        gradient.shape().DebugString(), " and ",
                                                        x.shape().DebugString())));
    tf::Tensor *x_gradient, *threshold_gradient;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, x.shape(), &x_gradient));
    OP_REQUIRES_OK(context, context->allocate_output(1, tf::TensorShape({}), &threshold_gradient));
    const float* g = gradient.flat<float>().data();
    const float* values = x.flat<float>().data();
    float* dx = x_gradient->flat<float>().data();
    std::vector<double> sums((x.NumElements() + kFakeQuantizeBlock - 1) / kFakeQuantizeBlock);
    ForEachPart(context, x.NumElements(), kFakeQuantizeBlock, kSerialBlocks, [&](int64_t lo, int64_t hi) {
      sums[lo / kFakeQuantizeBlock] = loops_->backward(params, g + lo, values + lo, dx + lo, hi - lo);
    });
    double sum = 0;
    for (double part : sums) sum += part;
    threshold_gradient->scalar<float>()() = static_cast<float>(sum * params.scale * 0.69314718055994530942);
  }
};

REGISTER_KERNEL_BUILDER(Name("GraffitiFakeQuantize").Device(tf::DEVICE_CPU), FakeQuantizeOp);
REGISTER_KERNEL_BUILDER(Name("GraffitiFakeQuantizeGrad").Device(tf::DEVICE_CPU), FakeQuantizeGradOp);

}  // namespace
}  // namespace graffiti
