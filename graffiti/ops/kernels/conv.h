// A convolution (also depthwise, dense, transposed by spread) with packed weights, bias and requantization for one
// tier.
//
// Work is counted in units: rows of output pixels over all images, or, where the convolution is one matrix product
// (1x1, dense), groups of pixels or of columns. Any partition of the units over threads gives the same bytes.
#ifndef GRAFFITI_OPS_KERNELS_CONV_H_
#define GRAFFITI_OPS_KERNELS_CONV_H_

#include <memory>
#include <vector>

#include "common.h"
#include "depthwise/depthwise.h"
#include "dot/pack.h"
#include "loops/loops.h"
#include "requantizer.h"

namespace graffiti {

class Conv {
 public:
  // Checks everything and packs. tier is resolved.
  static int Create(const graffiti_conv_shape& shape, int x_type, const void* kernel, int kernel_type,
                    const int32_t* bias, const graffiti_requantization* to, int tier, std::unique_ptr<Conv>* conv);

  const graffiti_conv_shape& shape() const { return s_; }
  int x_type() const { return x_type_; }
  int y_type() const { return to_.type(); }
  int64_t Units(int64_t batch) const;
  // Units [lo, hi). y_stride: elements from output pixel to output pixel (out_channels where dense).
  void Run(const void* x, int64_t batch, void* y, int64_t y_stride, int64_t lo, int64_t hi) const;

 private:
  enum class Method { kDot, kDepthwise, kGeneric };
  // Columns that one register tile covers.
  struct Panel {
    int64_t group, first, columns;  // of the output channels
    int64_t weights, parameters;    // where its packed weights (bytes) and padded columns begin
    std::vector<const DotKernel*> kernels;  // by rows, ascending
  };

  int Check(int kernel_type) const;
  void Plan();
  void PackDot(const void* kernel, int kernel_type, const int32_t* bias);
  void PackDepthwise(const void* kernel, int kernel_type, const int32_t* bias);
  void PackGeneric(const void* kernel, int kernel_type, const int32_t* bias);
  bool FusesRequantization(const void* kernel, int kernel_type, const int32_t* bias) const;

  void GatherRows(const uint8_t* image, int64_t first_row, int64_t rows, uint8_t* out) const;
  void GatherFlat(const uint8_t* x, int64_t elements, uint8_t* out) const;
  void RunImages(const uint8_t* x, uint8_t* y, int64_t y_pixel, int64_t lo, int64_t hi) const;
  void RunFlat(const uint8_t* x, int64_t pixels, uint8_t* y, int64_t y_pixel, int64_t lo, int64_t hi) const;
  void RunGeneric(const uint8_t* x, uint8_t* y, int64_t y_pixel, int64_t lo, int64_t hi) const;
  void RunPixels(const uint8_t* base, int64_t pixels, uint8_t* y, int64_t y_pixel, std::size_t first_panel,
                 std::size_t last_panel) const;
  void RunDepthwisePixels(const uint8_t* base, int64_t pixels, uint8_t* y, int64_t y_pixel) const;

  graffiti_conv_shape s_{};
  int x_type_ = 0, tier_ = 0;
  Requantizer to_;
  Method method_ = Method::kGeneric;
  DotTypes types_ = DotTypes::kS16S16;
  const Loops* loops_ = nullptr;
  const DepthwiseKernels* depthwise_ = nullptr;

  bool flat_ = false;    // one matrix product over all pixels of all images
  bool direct_ = false;  // rows are read where they are; else gathered (padded, widened, offset) into scratch first
  bool fused_ = false;   // requantized in registers
  int64_t multiplier_ = 1, element_ = 1;  // of depthwise; bytes of a gathered value
  int64_t channels_ = 0, width_ = 0;      // of a gathered row
  int64_t strip_ = 1;                     // output rows gathered at once
  int64_t gathered_bytes_ = 0;
  int64_t steps_ = 0;
  std::vector<int32_t> pixel_offsets_, segment_offsets_;
  std::vector<Panel> panels_;
  AlignedArray<uint8_t> weights_;
  ColumnParameters parameters_;
};

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_CONV_H_
