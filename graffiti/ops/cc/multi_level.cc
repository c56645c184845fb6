// GraffitiGroupMaximum and GraffitiMultiLevel: the two passes of multi-level scaling.
#include "bridge.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/util/overflow.h"

namespace graffiti {
namespace {

REGISTER_OP("GraffitiGroupMaximum")
    .Input("x: float")
    .Input("layout: int64")
    .Output("largest: float")
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->UnknownShapeOfRank(2));
      return absl::OkStatus();
    })
    .Doc("max |x| of each group [outer, groups]; x is read as [outer, rows, groups, inner] = layout.");

REGISTER_OP("GraffitiMultiLevel")
    .Input("x: float")
    .Input("divisors: float")
    .Input("factors: float")
    .Input("seed: uint32")
    .Input("layout: int64")
    .Output("y: float")
    .Attr("exponent_bits: int")
    .Attr("mantissa_bits: int")
    .Attr("carry: bool = true")
    .Attr("top_exponent: int = -1")
    .Attr("stochastic: bool = false")
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->input(0));
      return absl::OkStatus();
    })
    .Doc("sign(x) * element(|x| / divisor) * factor, divisor and factor one a group [outer, groups]; x is read as "
         "[outer, rows, groups, inner] = layout.");

// The layout input, four sizes whose product is that of x.
absl::Status ReadLayout(const tf::Tensor& given, const tf::Tensor& x, graffiti_group_layout* layout) {
  int64_t product = -1;
  if (given.NumElements() == 4) {
    const auto sizes = given.flat<int64_t>();
    *layout = {sizes(0), sizes(1), sizes(2), sizes(3)};
    product = 1;
    for (int i = 0; i < 4; ++i)
      product = tf::MultiplyWithoutOverflow(product, sizes(i));  // negative where it cannot be
  }
  if (product == x.NumElements()) return absl::OkStatus();
  return Invalid("layout is [outer, rows, groups, inner] with the product ", x.NumElements(), ", got ",
                 given.DebugString(4));
}

class GroupMaximumOp : public tf::OpKernel {
 public:
  explicit GroupMaximumOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    graffiti_group_layout layout;
    OP_REQUIRES_OK(context, ReadLayout(context->input(1), x, &layout));
    tf::Tensor* largest;
    OP_REQUIRES_OK(context, context->allocate_output(0, tf::TensorShape({layout.outer, layout.groups}), &largest));
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_group_maximum(
        &layout, x.flat<float>().data(), largest->flat<float>().data(), tier_, threads.get())));
  }

 private:
  int32_t tier_;
};
REGISTER_KERNEL_BUILDER(Name("GraffitiGroupMaximum").Device(tf::DEVICE_CPU), GroupMaximumOp);

class MultiLevelOp : public tf::OpKernel {
 public:
  explicit MultiLevelOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    bool carry;
    OP_REQUIRES_OK(context, context->GetAttr("exponent_bits", &format_.exponent_bits));
    OP_REQUIRES_OK(context, context->GetAttr("mantissa_bits", &format_.mantissa_bits));
    OP_REQUIRES_OK(context, context->GetAttr("carry", &carry));
    OP_REQUIRES_OK(context, context->GetAttr("top_exponent", &format_.top_exponent));
    OP_REQUIRES_OK(context, context->GetAttr("stochastic", &stochastic_));
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
    format_.carry = carry;
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &x = context->input(0), &divisors = context->input(1), &factors = context->input(2);
    const tf::Tensor& seed = context->input(3);
    graffiti_group_layout layout;
    OP_REQUIRES_OK(context, ReadLayout(context->input(4), x, &layout));
    const int64_t groups = layout.outer * layout.groups;
    OP_REQUIRES(context, divisors.NumElements() == groups && factors.NumElements() == groups && seed.NumElements() == 2,
                Invalid("multi_level takes a divisor and a factor for each group and two words of seed, got ",
                        divisors.NumElements(), ", ", factors.NumElements(), " and ", seed.NumElements(), " for ",
                        groups, " groups"));
    tf::Tensor* y;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_multi_level(
        &layout, x.flat<float>().data(), divisors.flat<float>().data(), factors.flat<float>().data(), &format_,
        stochastic_ ? seed.flat<uint32_t>().data() : nullptr, y->flat<float>().data(), tier_, threads.get())));
  }

 private:
  graffiti_element_format format_;
  bool stochastic_;
  int32_t tier_;
};
REGISTER_KERNEL_BUILDER(Name("GraffitiMultiLevel").Device(tf::DEVICE_CPU), MultiLevelOp);

}  // namespace
}  // namespace graffiti
