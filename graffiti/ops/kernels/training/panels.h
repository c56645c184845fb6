// Packed columns for the tile primitive, and running tiles over rows of bytes.
#ifndef GRAFFITI_OPS_KERNELS_TRAINING_PANELS_H_
#define GRAFFITI_OPS_KERNELS_TRAINING_PANELS_H_

#include <algorithm>
#include <vector>

#include "arch.h"
#include "common.h"
#include "dot/dot.h"
#include "training/training.h"

namespace graffiti {

// Whether the operands go as bytes (u8 rows, s8 columns) or as pairs of s16.
inline DotTypes OperandTypes(int tier, int first_type, int second_type) {
  return HasDot(tier, DotTypes::kU8S8) && TypeSize(first_type) == 1 && TypeSize(second_type) == 1 ? DotTypes::kU8S8
                                                                                                  : DotTypes::kS16S16;
}

// How many products one 32-bit sum is sure to hold.
inline int64_t SafeTerms(DotTypes types, int first_type, int second_type) {
  if (types == DotTypes::kU8S8) return INT32_MAX / (255 * 128);
  const auto largest = [](int type) {
    return TypeSize(type) == 2 ? int64_t{32768} : type == GRAFFITI_U8 ? int64_t{255} : int64_t{128};
  };
  return INT32_MAX / (largest(first_type) * largest(second_type));
}

// Whether a convolution is one product of matrices: rows of channels, one for each pixel of all images, times the
// kernel.
inline bool IsFlat(const graffiti_conv_shape& s) {
  return s.kernel_height == 1 && s.kernel_width == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_top == 0 &&
         s.pad_left == 0 && s.out_height == s.height && s.out_width == s.width;
}

struct Panel {
  int64_t first, columns, width;          // columns [first, first + columns), padded to width
  std::vector<const DotKernel*> kernels;  // by rows, ascending
};

// Columns cut into panels of the widest tiles.
inline std::vector<Panel> Panels(int tier, DotTypes types, int64_t columns) {
  std::vector<Panel> panels;
  const int64_t widest = WidestDot(tier, types), lanes = DotLanes(tier, types);
  const DotKernelList list = DotKernels(tier);
  for (int64_t first = 0; first < columns;) {
    int64_t width = 0;
    const int64_t left = columns - first;
    for (int i = 0; i < list.count; ++i) {  // the widest that is full, else the narrowest that holds the rest
      const DotKernel& k = list.kernels[i];
      if (k.types == types && k.columns <= RoundUp(left, lanes)) width = std::max<int64_t>(width, k.columns);
    }
    width = std::min(std::max(width, lanes), widest);
    Panel panel{first, std::min(left, width), width, {}};
    for (int i = 0; i < list.count; ++i)
      if (list.kernels[i].types == types && list.kernels[i].columns == width) panel.kernels.push_back(&list.kernels[i]);
    std::sort(panel.kernels.begin(), panel.kernels.end(),
              [](const DotKernel* a, const DotKernel* b) { return a->rows < b->rows; });
    first += panel.columns;
    panels.push_back(std::move(panel));
  }
  return panels;
}

// The smallest kernel of a panel that has `rows`, else the tallest.
inline const DotKernel* KernelFor(const Panel& panel, int64_t rows) {
  for (const DotKernel* k : panel.kernels)
    if (k->rows >= rows) return k;
  return panel.kernels.back();
}

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_TRAINING_PANELS_H_
