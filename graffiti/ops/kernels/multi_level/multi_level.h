// Multi-level scaling: elements of a small float format under a scale for each group, and the largest magnitude of each
// group.
//
//   y = sign(x) * element(|x| / divisor) * factor
//
// A tensor is read as [outer, rows, groups, inner]; a group is one (outer, group), with one divisor and one factor.
// Zhong et al., arXiv 2006.02804, sections III and IV; numerics/training.py has the element's formula.
#ifndef GRAFFITI_OPS_KERNELS_MULTI_LEVEL_MULTI_LEVEL_H_
#define GRAFFITI_OPS_KERNELS_MULTI_LEVEL_MULTI_LEVEL_H_

#include <cstdint>

#include "arch.h"
#include "c_api.h"
#include "noise.h"

namespace graffiti {

// Divisor and factor of each element of a run, repeated with `period`.
struct GroupNumbers {
  const float *divisor, *factor;
  int64_t period;
};

struct MultiLevelLoops {
  // most[c / inner] = max(most[c / inner], |x[r][c]|) over rows of `width` elements, as the bits of non-negative floats
  void (*group_maximum)(const float* x, int64_t rows, int64_t width, int64_t inner, int32_t* most);
  // n elements, the first of which has the flat index `first`; to nearest without a key
  void (*multi_level)(const graffiti_element_format& format, const NoiseKey* key, const float* x, int64_t n,
                      int64_t first, const GroupNumbers& numbers, float* y);
};
GRAFFITI_DECLARE_TIERS(MultiLevelLoops)

// Of a resolved tier; see graffiti_group_maximum and graffiti_multi_level in c_api.h.
int CheckGroups(const graffiti_group_layout& layout, int64_t* elements);
void GroupMaximum(const graffiti_group_layout& layout, const float* x, float* largest, int tier,
                  const graffiti_parallel* parallel);
int MultiLevel(const graffiti_group_layout& layout, const float* x, const float* divisors, const float* factors,
               const graffiti_element_format& format, const uint32_t* seed, float* y, int tier,
               const graffiti_parallel* parallel);

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_MULTI_LEVEL_MULTI_LEVEL_H_
