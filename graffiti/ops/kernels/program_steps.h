// The steps of a program: what each does with a block of images. program_reader.cc makes them, program.cc runs them.
#ifndef GRAFFITI_OPS_KERNELS_PROGRAM_STEPS_H_
#define GRAFFITI_OPS_KERNELS_PROGRAM_STEPS_H_

#include <memory>
#include <vector>

#include "conv.h"
#include "elementwise.h"
#include "program.h"

namespace graffiti {

struct ElementsStep : Step {  // a range of elements is split anywhere
  const Program* program = nullptr;
  int64_t elements = 0;
  int64_t Units(int64_t images) const override;
  int Run(const Block& block, int64_t lo, int64_t hi) const override;
  virtual int RunElements(const Block& block, int64_t lo, int64_t hi) const = 0;
};

struct QuantizeStep : ElementsStep {
  int64_t x = 0, y = 0;
  QuantizeOp op;
  int RunElements(const Block& block, int64_t lo, int64_t hi) const override;
};

struct RescaleStep : ElementsStep {
  int64_t x = 0, y = 0;
  RescaleOp op;
  int RunElements(const Block& block, int64_t lo, int64_t hi) const override;
};

struct DequantizeStep : ElementsStep {
  int64_t x = 0, y = 0;
  DequantizeOp op;
  int RunElements(const Block& block, int64_t lo, int64_t hi) const override;
};

struct RequantizeStep : ElementsStep {
  int64_t x = 0, y = 0;
  RequantizeOp op;
  int RunElements(const Block& block, int64_t lo, int64_t hi) const override;
};

struct BinaryStep : ElementsStep {
  int64_t x = 0, y = -1, out = 0, y_count = 1;  // y < 0: the constant, repeated every y_count elements
  AlignedArray<uint8_t> constant;
  BinaryOp op;
  int RunElements(const Block& block, int64_t lo, int64_t hi) const override;
};

struct LookupStep : ElementsStep {
  int64_t x = 0, y = 0;
  LookupOp op;
  int RunElements(const Block& block, int64_t lo, int64_t hi) const override;
};

struct ConvStep : Step {
  const Program* program = nullptr;
  int64_t x = 0, y = 0, y_offset = 0, y_stride = 0;
  std::unique_ptr<Conv> op;
  int64_t Units(int64_t images) const override { return op->Units(images); }
  int Run(const Block& block, int64_t lo, int64_t hi) const override;
};

// Of a MaxPoolOp or AveragePoolOp.
template <class Op>
struct PoolStep : Step {
  const Program* program = nullptr;
  int64_t x = 0, y = 0;
  Op op;
  int64_t Units(int64_t images) const override { return op.Units(images); }
  int Run(const Block& block, int64_t lo, int64_t hi) const override {
    op.Run(program->Data(block, x), program->Data(block, y), lo, hi);
    return GRAFFITI_OK;
  }
};
using MaxPoolStep = PoolStep<MaxPoolOp>;
using AveragePoolStep = PoolStep<AveragePoolOp>;

// An array copied between two strided views: concat, pad, crop, permute, upsample, broadcast.
struct MoveStep : Step {
  const Program* program = nullptr;
  int64_t x = 0, y = 0, x_elements = 0, y_elements = 0, x_offset = 0, y_offset = 0, size = 1;
  std::vector<int64_t> sizes, x_strides, y_strides;
  int64_t Units(int64_t images) const override { return images; }
  int Run(const Block& block, int64_t lo, int64_t hi) const override;

 private:
  void Copy(std::size_t axis, const uint8_t* from, uint8_t* to) const;
};

struct ZeroStep : Step {
  const Program* program = nullptr;
  int64_t y = 0, bytes = 0;
  int64_t Units(int64_t images) const override { return images; }
  int Run(const Block& block, int64_t lo, int64_t hi) const override;
};

struct ConstantStep : Step {
  const Program* program = nullptr;
  int64_t y = 0;
  std::vector<uint8_t> array;
  int64_t Units(int64_t images) const override { return images; }
  int Run(const Block& block, int64_t lo, int64_t hi) const override;
};

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_PROGRAM_STEPS_H_
