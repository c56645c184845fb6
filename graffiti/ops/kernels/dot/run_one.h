// One register tile by its number, on a product of its own: for the tests and the benchmark of graffiti_run_dot_kernel.
#ifndef GRAFFITI_OPS_KERNELS_DOT_RUN_ONE_H_
#define GRAFFITI_OPS_KERNELS_DOT_RUN_ONE_H_

#include "c_api.h"

namespace graffiti {

int64_t CountDotKernels();
int DescribeDotKernel(int64_t index, graffiti_dot_kernel_info* info);
// The arguments of graffiti_run_dot_kernel. Packed as a convolution packs its weights (dot/pack.h).
int RunDotKernel(int64_t index, int64_t m, int64_t n, int64_t k, const void* a, const void* b, const int32_t* bias,
                 const graffiti_requantization* to, void* c, int64_t repeat);

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_DOT_RUN_ONE_H_
