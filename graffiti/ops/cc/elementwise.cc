// The ops on two operands (binary.inc, with broadcasting), GraffitiRequantize, Lookup, Quantize, Dequantize, MaxPool,
// AveragePool.
#include <cstring>

#include "bridge.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/util/bcast.h"

namespace graffiti {
namespace {

// ---- two arrays -----------------------------------------------------------------------------------------------------
// int32 of codes; an op that selects keeps the type, which both operands have.
#define GRAFFITI_REGISTER_0(name)                      \
  REGISTER_OP(name)                                    \
      .Input("x: T")                                   \
      .Input("y: U")                                   \
      .Output("z: int32")                              \
      .Attr("T: " GRAFFITI_CODES)                      \
      .Attr("U: " GRAFFITI_CODES)                      \
      .Attr(GRAFFITI_TIERS)                            \
      .SetShapeFn(tf::shape_inference::BroadcastBinaryOpShapeFn);
#define GRAFFITI_REGISTER_1(name)    \
  REGISTER_OP(name)                  \
      .Input("x: T")                 \
      .Input("y: T")                 \
      .Output("z: T")                \
      .Attr("T: " GRAFFITI_CODES)    \
      .Attr(GRAFFITI_TIERS)          \
      .SetShapeFn(tf::shape_inference::BroadcastBinaryOpShapeFn);
#define GRAFFITI_BINARY_OP(constant, name, number, selects, result) GRAFFITI_REGISTER_##selects("Graffiti" #name)
#define GRAFFITI_INNER_BINARY_OP(constant, number, result)
#include "binary.inc"

// Whether `part` stands at the end of `whole` once its leading ones are gone: then it repeats, element i takes i modulo
// its count.
bool Repeats(const tf::TensorShape& part, const tf::TensorShape& whole) {
  int first = 0;
  while (first < part.dims() && part.dim_size(first) == 1) ++first;
  if (part.dims() - first > whole.dims()) return false;
  for (int i = part.dims() - 1, j = whole.dims() - 1; i >= first; --i, --j) {
    if (part.dim_size(i) != whole.dim_size(j)) return false;
  }
  return true;
}

// A copy of `x` in the larger shape.
absl::Status Broadcast(tf::OpKernelContext* context, const tf::Tensor& x, const tf::TensorShape& shape,
                       tf::Tensor* result) {
  TF_RETURN_IF_ERROR(context->allocate_temp(x.dtype(), shape, result));
  const size_t bytes = tf::DataTypeSize(x.dtype());
  const int rank = shape.dims(), missing = rank - x.dims();
  std::vector<int64_t> steps(rank, 0), place(rank, 0);
  for (int64_t axis = x.dims() - 1, step = 1; axis >= 0; step *= x.dim_size(axis--)) {
    steps[axis + missing] = x.dim_size(axis) == 1 ? 0 : step;
  }
  const char* from = static_cast<const char*>(x.data());
  char* to = static_cast<char*>(result->data());
  int64_t offset = 0;
  for (int64_t i = 0; i < shape.num_elements(); ++i, to += bytes) {
    std::memcpy(to, from + offset * bytes, bytes);
    for (int axis = rank - 1; axis >= 0; --axis) {
      offset += steps[axis];
      if (++place[axis] < shape.dim_size(axis)) break;
      offset -= steps[axis] * place[axis];
      place[axis] = 0;
    }
  }
  return absl::OkStatus();
}

template <int kOperation>
class BinaryOp : public tf::OpKernel {
 public:
  explicit BinaryOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
  }

  void Compute(tf::OpKernelContext* context) override {
    tf::Tensor x = context->input(0), y = context->input(1);
    const tf::BCast broadcast(tf::BCast::FromShape(x.shape()), tf::BCast::FromShape(y.shape()));
    OP_REQUIRES(context, broadcast.IsValid(),
                Invalid("the shapes ", x.shape().DebugString(), " and ", y.shape().DebugString(), " do not broadcast"));
    const tf::TensorShape shape = tf::BCast::ToShape(broadcast.output_shape());
    tf::Tensor* z;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &z));
    if (shape.num_elements() == 0) return;
    if (kOperation != GRAFFITI_SUBTRACT && y.shape() == shape && x.shape() != shape) std::swap(x, y);
    tf::Tensor larger;
    if (x.NumElements() != shape.num_elements()) {
      OP_REQUIRES_OK(context, Broadcast(context, x, shape, &larger));
      x = larger;
    }
    if (!Repeats(y.shape(), shape)) {
      OP_REQUIRES_OK(context, Broadcast(context, y, shape, &larger));
      y = larger;
    }
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_elementwise(
        kOperation, shape.num_elements(), 1, x.data(), KernelType(x), y.data(), KernelType(y), y.NumElements(),
        nullptr, z->data(), tier_, threads.get())));
  }

 private:
  int32_t tier_;
};
#define GRAFFITI_BINARY_OP(constant, name, number, selects, result) \
  REGISTER_KERNEL_BUILDER(Name("Graffiti" #name).Device(tf::DEVICE_CPU), BinaryOp<GRAFFITI_##constant>);
#define GRAFFITI_INNER_BINARY_OP(constant, number, result)
#include "binary.inc"

// ---- one array ------------------------------------------------------------------------------------------------------
REGISTER_OP("GraffitiRequantize")
    .Input("x: T")
    .Output("y: output_type")
    .Attr("T: " GRAFFITI_CODES)
    .Attr("output_type: " GRAFFITI_CODES)
    .Attr("shift: list(int) >= 1")
    .Attr("low: int")
    .Attr("high: int")
    .Attr(GRAFFITI_ROUNDINGS)
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn(tf::shape_inference::UnchangedShape)
    .Doc("saturate(round(x / 2**shift), low, high); one shift or one per channel of the last axis.");

REGISTER_OP("GraffitiLookup")
    .Input("x: T")
    .Input("table: U")
    .Output("y: U")
    .Attr("T: " GRAFFITI_CODES)
    .Attr("U: " GRAFFITI_CODES)
    .Attr("low: int")
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn(tf::shape_inference::UnchangedShape)
    .Doc("table[x - low].");

REGISTER_OP("GraffitiQuantize")
    .Input("x: float")
    .Output("y: output_type")
    .Attr("output_type: " GRAFFITI_CODES)
    .Attr("exponent: int")
    .Attr("low: int")
    .Attr("high: int")
    .Attr(GRAFFITI_ROUNDINGS)
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn(tf::shape_inference::UnchangedShape)
    .Doc("saturate(round(x / 2**exponent), low, high); NaN is an error.");

REGISTER_OP("GraffitiDequantize")
    .Input("x: T")
    .Output("y: float")
    .Attr("T: " GRAFFITI_CODES)
    .Attr("exponent: list(int) >= 1")
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn(tf::shape_inference::UnchangedShape)
    .Doc("x * 2**exponent as float32; one exponent or one per channel of the last axis.");

// The shape function of a pool.
absl::Status PoolShape(InferenceContext* c) {
  ShapeHandle x;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &x));
  Window window;
  std::vector<int32_t> pool;
  TF_RETURN_IF_ERROR(window.Get(c, false));
  TF_RETURN_IF_ERROR(c->GetAttr("pool_size", &pool));
  if (pool.size() != 2) return Invalid("expected two pool sizes");
  DimensionHandle height, width;
  TF_RETURN_IF_ERROR(window.Infer(c, 0, c->Dim(x, 1), c->MakeDim(pool[0]), &height));
  TF_RETURN_IF_ERROR(window.Infer(c, 1, c->Dim(x, 2), c->MakeDim(pool[1]), &width));
  c->set_output(0, c->MakeShape({c->Dim(x, 0), height, width, c->Dim(x, 3)}));
  return absl::OkStatus();
}

#define GRAFFITI_POOL(name)                                    \
  REGISTER_OP(name)                                            \
      .Input("x: T")                                           \
      .Attr("T: " GRAFFITI_CODES)                              \
      .Attr("pool_size: list(int)")                            \
      .Attr("strides: list(int)")                              \
      .Attr("padding: {'same', 'valid', 'explicit'} = 'valid'") \
      .Attr("pads: list(int) = [0, 0, 0, 0]")                  \
      .Attr(GRAFFITI_TIERS)                                    \
      .SetShapeFn(PoolShape)
GRAFFITI_POOL("GraffitiMaxPool").Output("y: T").Doc("The largest code of each window; padding never wins.");
GRAFFITI_POOL("GraffitiAveragePool")
    .Output("y: output_type")
    .Attr("divide: bool = true")
    .Attr("shift: list(int)")
    .Attr("low: int")
    .Attr("high: int")
    .Attr(GRAFFITI_ROUNDINGS)
    .Attr("output_type: " GRAFFITI_CODES)
    .Doc(
        "saturate(round(sum / (elements * 2**shift)), low, high) over each window's part inside the image; without "
        "divide the sum itself.");

class RequantizeOp : public tf::OpKernel {
 public:
  explicit RequantizeOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, requantization_.Get(context));
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    const int64_t last = x.dims() == 0 ? 1 : x.dim_size(x.dims() - 1);
    const graffiti_requantization* to = nullptr;
    OP_REQUIRES_OK(context, requantization_.For(last, &to));
    tf::Tensor* y;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    if (x.NumElements() == 0) return;
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_requantize(
        x.NumElements(), to->shift_count, x.data(), KernelType(x), to, y->data(), tier_, threads.get())));
  }

 private:
  Requantization requantization_;
  int32_t tier_;
};
REGISTER_KERNEL_BUILDER(Name("GraffitiRequantize").Device(tf::DEVICE_CPU), RequantizeOp);

class LookupOp : public tf::OpKernel {
 public:
  explicit LookupOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("low", &low_));
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &x = context->input(0), &table = context->input(1);
    OP_REQUIRES(context, table.dims() == 1 && table.NumElements() > 0,
                Invalid("a table has one axis and entries, got ", table.shape().DebugString()));
    tf::Tensor* y;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    if (x.NumElements() == 0) return;
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_lookup(
        x.NumElements(), x.data(), KernelType(x), low_, table.data(), KernelType(table), table.NumElements(),
        y->data(), tier_, threads.get())));
  }

 private:
  int32_t low_, tier_;
};
REGISTER_KERNEL_BUILDER(Name("GraffitiLookup").Device(tf::DEVICE_CPU), LookupOp);

class QuantizeOp : public tf::OpKernel {
 public:
  explicit QuantizeOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("exponent", &exponent_));
    OP_REQUIRES_OK(context, context->GetAttr("low", &low_));
    OP_REQUIRES_OK(context, context->GetAttr("high", &high_));
    OP_REQUIRES_OK(context, GetRounding(context, &rounding_));
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    tf::Tensor* y;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    if (x.NumElements() == 0) return;
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_quantize(
        x.NumElements(), x.flat<float>().data(), exponent_, rounding_, low_, high_, KernelType(*y), y->data(), tier_,
        threads.get())));
  }

 private:
  int32_t exponent_, low_, high_, rounding_, tier_;
};
REGISTER_KERNEL_BUILDER(Name("GraffitiQuantize").Device(tf::DEVICE_CPU), QuantizeOp);

class DequantizeOp : public tf::OpKernel {
 public:
  explicit DequantizeOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("exponent", &exponent_));
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    const int64_t last = x.dims() == 0 ? 1 : x.dim_size(x.dims() - 1);
    const int64_t count = static_cast<int64_t>(exponent_.size());
    OP_REQUIRES(context, count == 1 || count == last,
                Invalid("expected one exponent or ", last, ", got ", count));
    tf::Tensor* y;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    if (x.NumElements() == 0) return;
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(graffiti_dequantize(
        x.NumElements(), count, x.data(), KernelType(x), exponent_.data(), count, y->flat<float>().data(), tier_,
        threads.get())));
  }

 private:
  std::vector<int32_t> exponent_;
  int32_t tier_;
};
REGISTER_KERNEL_BUILDER(Name("GraffitiDequantize").Device(tf::DEVICE_CPU), DequantizeOp);

// Size, strides and padding of a pool, and its output.
class PoolOp : public tf::OpKernel {
 public:
  explicit PoolOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, window_.Get(context, false));
    OP_REQUIRES_OK(context, context->GetAttr("pool_size", &pool_));
    OP_REQUIRES(context, pool_.size() == 2 && pool_[0] > 0 && pool_[1] > 0, Invalid("expected two pool sizes"));
    OP_REQUIRES_OK(context, GetTier(context, &tier_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    OP_REQUIRES(context, x.dims() == 4, Invalid("expected x (batch, height, width, channels)"));
    graffiti_pool_shape shape{};
    shape.height = x.dim_size(1), shape.width = x.dim_size(2), shape.channels = x.dim_size(3);
    shape.pool_height = pool_[0], shape.pool_width = pool_[1];
    shape.stride_h = window_.strides[0], shape.stride_w = window_.strides[1];
    OP_REQUIRES_OK(context, window_.Axis(0, shape.height, pool_[0], &shape.out_height, &shape.pad_top));
    OP_REQUIRES_OK(context, window_.Axis(1, shape.width, pool_[1], &shape.out_width, &shape.pad_left));
    tf::Tensor* y;
    OP_REQUIRES_OK(context, context->allocate_output(
        0, tf::TensorShape({x.dim_size(0), shape.out_height, shape.out_width, shape.channels}), &y));
    if (y->NumElements() == 0) return;
    const Threads threads(context);
    OP_REQUIRES_OK(context, FromKernels(Pool(shape, x, y, threads)));
  }

 protected:
  virtual int32_t Pool(const graffiti_pool_shape& shape, const tf::Tensor& x, tf::Tensor* y,
                       const Threads& threads) const = 0;
  int32_t tier_;

 private:
  Window window_;
  std::vector<int32_t> pool_;
};

class MaxPoolOp : public PoolOp {
  using PoolOp::PoolOp;
  int32_t Pool(const graffiti_pool_shape& shape, const tf::Tensor& x, tf::Tensor* y,
               const Threads& threads) const override {
    return graffiti_max_pool(&shape, x.dim_size(0), x.data(), KernelType(x), y->data(), tier_, threads.get());
  }
};
REGISTER_KERNEL_BUILDER(Name("GraffitiMaxPool").Device(tf::DEVICE_CPU), MaxPoolOp);

class AveragePoolOp : public PoolOp {
 public:
  explicit AveragePoolOp(tf::OpKernelConstruction* context) : PoolOp(context) {
    OP_REQUIRES_OK(context, requantization_.Get(context));
    OP_REQUIRES_OK(context, context->GetAttr("divide", &divide_));
  }

 private:
  int32_t Pool(const graffiti_pool_shape& shape, const tf::Tensor& x, tf::Tensor* y,
               const Threads& threads) const override {
    const graffiti_requantization* to = nullptr;
    if (!requantization_.For(1, &to).ok()) to = nullptr;  // the kernels say what they miss
    return graffiti_average_pool(&shape, x.dim_size(0), x.data(), KernelType(x), to, divide_, y->data(), tier_,
                                 threads.get());
  }

  Requantization requantization_;
  bool divide_;
};
REGISTER_KERNEL_BUILDER(Name("GraffitiAveragePool").Device(tf::DEVICE_CPU), AveragePoolOp);

}  // namespace
}  // namespace graffiti
