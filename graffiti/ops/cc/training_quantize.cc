// GraffitiTrainingQuantize, GraffitiExtremes, GraffitiCountAbove: floats to codes of low-bit training, and one-pass
// facts about floats.
#include "bridge.h"
#include "tensorflow/core/framework/op.h"

namespace graffiti {
namespace {

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
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle unused;
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
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Vector(2));
      return absl::OkStatus();
    })
    .Doc("(min(x), max(x)), both NaN where x holds a NaN or Inf.");

REGISTER_OP("GraffitiCountAbove")
    .Input("x: float")
    .Input("bound: float")
    .Output("count: int64")
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Scalar());
      return absl::OkStatus();
    })
    .Doc("How many |x| > bound.");

class TrainingQuantizeOp : public tf::OpKernel {
 public:
  explicit TrainingQuantizeOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("low", &low_));
    OP_REQUIRES_OK(context, context->GetAttr("high", &high_));
    OP_REQUIRES_OK(context, context->GetAttr("stochastic", &stochastic_));
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &x = context->input(0), &inverse_step = context->input(1), &seed = context->input(2);
    OP_REQUIRES(context, inverse_step.NumElements() == 1 && seed.NumElements() == 2,
                Invalid("quantize takes one inverse_step and two words of seed, got ",
                        inverse_step.shape().DebugString(), " and ", seed.shape().DebugString()));
    tf::Tensor *codes, *extremes;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &codes));
    OP_REQUIRES_OK(context, context->allocate_output(1, tf::TensorShape({2}), &extremes));
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_training_quantize(
        x.NumElements(), x.flat<float>().data(), inverse_step.flat<float>()(0), low_, high_,
        stochastic_ ? seed.flat<uint32_t>().data() : nullptr, KernelType(*codes), codes->data(),
        extremes->flat<float>().data(), tier_, threads.get())));
  }

 private:
  int32_t low_, high_, tier_;
  bool stochastic_;
};
REGISTER_KERNEL_BUILDER(Name("GraffitiTrainingQuantize").Device(tf::DEVICE_CPU), TrainingQuantizeOp);

class ExtremesOp : public tf::OpKernel {
 public:
  explicit ExtremesOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    tf::Tensor* extremes;
    OP_REQUIRES_OK(context, context->allocate_output(0, tf::TensorShape({2}), &extremes));
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_extremes(
        x.NumElements(), x.flat<float>().data(), extremes->flat<float>().data(), tier_, threads.get())));
  }

 private:
  int32_t tier_;
};
REGISTER_KERNEL_BUILDER(Name("GraffitiExtremes").Device(tf::DEVICE_CPU), ExtremesOp);

class CountAboveOp : public tf::OpKernel {
 public:
  explicit CountAboveOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &x = context->input(0), &bound = context->input(1);
    OP_REQUIRES(context, bound.NumElements() == 1,
                Invalid("count_above takes one bound, got ", bound.shape().DebugString()));
    tf::Tensor* count;
    OP_REQUIRES_OK(context, context->allocate_output(0, tf::TensorShape({}), &count));
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_count_above(
        x.NumElements(), x.flat<float>().data(), bound.flat<float>()(0), count->flat<int64_t>().data(), tier_,
        threads.get())));
  }

 private:
  int32_t tier_;
};
REGISTER_KERNEL_BUILDER(Name("GraffitiCountAbove").Device(tf::DEVICE_CPU), CountAboveOp);

}  // namespace
}  // namespace graffiti
