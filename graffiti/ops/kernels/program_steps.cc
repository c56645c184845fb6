#include "program_steps.h"

#include <algorithm>
#include <cstring>

namespace graffiti {
namespace {

constexpr int64_t kElementsOfUnit = 8192;

}  // namespace

int64_t ElementsStep::Units(int64_t images) const { return CeilDiv(images * elements, kElementsOfUnit); }

int ElementsStep::Run(const Block& block, int64_t lo, int64_t hi) const {
  if (lo >= hi) return GRAFFITI_OK;
  return RunElements(block, lo * kElementsOfUnit, std::min(hi * kElementsOfUnit, block.count * elements));
}

int QuantizeStep::RunElements(const Block& block, int64_t lo, int64_t hi) const {
  const float* from = reinterpret_cast<const float*>(program->Data(block, x));
  return op.Run(from, program->Data(block, y), lo, hi) ? GRAFFITI_OK : GRAFFITI_NOT_A_NUMBER;
}

int RescaleStep::RunElements(const Block& block, int64_t lo, int64_t hi) const {
  op.Run(reinterpret_cast<const float*>(program->Data(block, x)), reinterpret_cast<float*>(program->Data(block, y)), lo,
         hi);
  return GRAFFITI_OK;
}

int DequantizeStep::RunElements(const Block& block, int64_t lo, int64_t hi) const {
  op.Run(program->Data(block, x), reinterpret_cast<float*>(program->Data(block, y)), lo, hi);
  return GRAFFITI_OK;
}

int RequantizeStep::RunElements(const Block& block, int64_t lo, int64_t hi) const {
  op.Run(program->Data(block, x), program->Data(block, y), lo, hi);
  return GRAFFITI_OK;
}

int BinaryStep::RunElements(const Block& block, int64_t lo, int64_t hi) const {
  const uint8_t* second = y < 0 ? constant.get() : program->Data(block, y);
  const int64_t count = y < 0 ? y_count : block.count * elements;  // a tensor y is as long as x
  op.Run(program->Data(block, x), second, count, program->Data(block, out), lo, hi);
  return GRAFFITI_OK;
}

int LookupStep::RunElements(const Block& block, int64_t lo, int64_t hi) const {
  return op.Run(program->Data(block, x), program->Data(block, y), lo, hi) ? GRAFFITI_OK : GRAFFITI_INVALID_ARGUMENT;
}

int ConvStep::Run(const Block& block, int64_t lo, int64_t hi) const {
  uint8_t* to = program->Data(block, y) + y_offset * TypeSize(op->y_type());
  op->Run(program->Data(block, x), block.count, to, y_stride, lo, hi);
  return GRAFFITI_OK;
}

int MoveStep::Run(const Block& block, int64_t lo, int64_t hi) const {
  const uint8_t* from = program->Data(block, x);
  uint8_t* to = program->Data(block, y);
  for (int64_t image = lo; image < hi; ++image)
    Copy(0, from + (image * x_elements + x_offset) * size, to + (image * y_elements + y_offset) * size);
  return GRAFFITI_OK;
}

void MoveStep::Copy(std::size_t axis, const uint8_t* from, uint8_t* to) const {
  if (sizes.empty()) {
    std::memcpy(to, from, size);
  } else if (axis + 1 < sizes.size()) {
    for (int64_t i = 0; i < sizes[axis]; ++i)
      Copy(axis + 1, from + i * x_strides[axis] * size, to + i * y_strides[axis] * size);
  } else if (x_strides[axis] == 1 && y_strides[axis] == 1) {
    std::memcpy(to, from, sizes[axis] * size);
  } else {
    for (int64_t i = 0; i < sizes[axis]; ++i)
      std::memcpy(to + i * y_strides[axis] * size, from + i * x_strides[axis] * size, size);
  }
}

int ZeroStep::Run(const Block& block, int64_t lo, int64_t hi) const {
  if (lo < hi) std::memset(program->Data(block, y) + lo * bytes, 0, (hi - lo) * bytes);
  return GRAFFITI_OK;
}

int ConstantStep::Run(const Block& block, int64_t lo, int64_t hi) const {
  const int64_t bytes = static_cast<int64_t>(array.size());
  uint8_t* to = program->Data(block, y);
  for (int64_t image = lo; image < hi && bytes > 0; ++image) std::memcpy(to + image * bytes, array.data(), bytes);
  return GRAFFITI_OK;
}

}  // namespace graffiti
