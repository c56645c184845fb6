// GraffitiProgram: a whole integer graph in one op, for SavedModels and tf.data; made by graffiti/runtime/program.py.
#include <memory>

#include "bridge.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"

namespace graffiti {
namespace {

REGISTER_OP("GraffitiProgram")
    .Input("inputs: input_types")
    .Output("outputs: output_types")
    .Attr("program: string")
    .Attr("input_types: list({int8, uint8, int16, uint16, int32, float}) >= 1")
    .Attr("output_types: list({int8, uint8, int16, uint16, int32, float}) >= 1")
    .Attr("output_shapes: list(shape) >= 1")
    .Attr("threads: int >= 0 = 0")
    .Attr(GRAFFITI_TIERS)
    .SetShapeFn([](InferenceContext* c) {
      std::vector<tf::PartialTensorShape> shapes;
      TF_RETURN_IF_ERROR(c->GetAttr("output_shapes", &shapes));
      if (static_cast<int>(shapes.size()) != c->num_outputs()) return Invalid("expected one shape for each output");
      for (int i = 0; i < c->num_outputs(); ++i) {
        ShapeHandle image, whole;
        TF_RETURN_IF_ERROR(c->MakeShapeFromPartialTensorShape(shapes[i], &image));
        const DimensionHandle batch = c->RankKnown(c->input(0)) ? c->Dim(c->input(0), 0) : c->UnknownDim();
        TF_RETURN_IF_ERROR(c->Concatenate(c->Vector(batch), image, &whole));
        c->set_output(i, whole);
      }
      return absl::OkStatus();
    })
    .Doc("Runs a compiled integer graph; output_shapes are without the batch axis. threads 0: all of the pool.");

class ProgramOp : public tf::OpKernel {
 public:
  explicit ProgramOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    std::string blob;
    int32_t tier;
    OP_REQUIRES_OK(context, context->GetAttr("program", &blob));
    OP_REQUIRES_OK(context, context->GetAttr("output_shapes", &shapes_));
    OP_REQUIRES_OK(context, context->GetAttr("threads", &threads_));
    OP_REQUIRES_OK(context, GetTier(context, &tier));
    OP_REQUIRES_OK(context, FromKernels(graffiti_create_program(
        blob.data(), static_cast<int64_t>(blob.size()), tier, &program_)));
    int64_t inputs, outputs, tensors;
    OP_REQUIRES_OK(context, FromKernels(graffiti_program_counts(program_, &inputs, &outputs, &tensors)));
    OP_REQUIRES(context,
                inputs == context->num_inputs() && outputs == context->num_outputs() &&
                    outputs == static_cast<int64_t>(shapes_.size()),
                Invalid("the program has ", inputs, " inputs and ", outputs, " outputs, the op ", context->num_inputs(),
                        " and ", context->num_outputs()));
    input_elements_.resize(inputs);
    for (int64_t i = 0; i < inputs; ++i) {
      int32_t type;
      OP_REQUIRES_OK(context, FromKernels(graffiti_program_input(program_, i, &type, &input_elements_[i])));
      OP_REQUIRES(context, type == KernelType(context->input_type(i)),
                  Invalid("input ", i, " of the program has another type than ",
                          tf::DataTypeString(context->input_type(i))));
    }
    for (int64_t i = 0; i < outputs; ++i) {
      int32_t type;
      int64_t elements;
      OP_REQUIRES_OK(context, FromKernels(graffiti_program_output(program_, i, &type, &elements)));
      OP_REQUIRES(context, type == KernelType(context->output_type(i)) && shapes_[i].num_elements() == elements,
                  Invalid("output ", i, " of the program has ", elements, " elements an image, or another type than ",
                          tf::DataTypeString(context->output_type(i)), "; the op says ", shapes_[i].DebugString()));
    }
  }

  ~ProgramOp() override { graffiti_destroy_program(program_); }

  void Compute(tf::OpKernelContext* context) override {
    const int64_t batch = context->input(0).dims() > 0 ? context->input(0).dim_size(0) : 0;
    std::vector<const void*> inputs;
    for (int i = 0; i < context->num_inputs(); ++i) {
      const tf::Tensor& x = context->input(i);
      OP_REQUIRES(context, x.dims() > 0 && x.dim_size(0) == batch && x.NumElements() == batch * input_elements_[i],
                  Invalid("input ", i, " of the program takes (batch, ...) with ", input_elements_[i],
                          " elements an image and one batch for all inputs, got ", x.shape().DebugString()));
      inputs.push_back(x.data());
    }
    std::vector<void*> outputs;
    for (int i = 0; i < context->num_outputs(); ++i) {
      tf::TensorShape shape({batch}), image;
      OP_REQUIRES(context, shapes_[i].AsTensorShape(&image), Invalid("output shapes of a program are known"));
      shape.AppendShape(image);
      tf::Tensor* y;
      OP_REQUIRES_OK(context, context->allocate_output(i, shape, &y));
      outputs.push_back(y->data());
    }
    if (batch == 0) return;
    const int32_t threads = threads_ > 0 ? threads_ : static_cast<int32_t>(Threads(context).count());
    OP_REQUIRES_OK(context, FromKernels(graffiti_run_program(program_, inputs.data(), outputs.data(), batch, threads)));
  }

 private:
  graffiti_program* program_ = nullptr;
  std::vector<tf::PartialTensorShape> shapes_;
  std::vector<int64_t> input_elements_;
  int32_t threads_;
};
REGISTER_KERNEL_BUILDER(Name("GraffitiProgram").Device(tf::DEVICE_CPU), ProgramOp);

}  // namespace
}  // namespace graffiti
