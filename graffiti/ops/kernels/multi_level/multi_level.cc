// What does not depend on the instruction set: checks, the work in units of rows, each element's divisor and factor.
#include "multi_level/multi_level.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common.h"

namespace graffiti {
namespace {

constexpr int64_t kUnit = 16384;  // elements of one unit of work, about
constexpr int64_t kPeriod = 512;  // at least so many divisors and factors in a run, where there are rows enough

int64_t Width(const graffiti_group_layout& layout) { return layout.groups * layout.inner; }

// One number for each group to one for each element of a row, then repeated up to `period`.
void Spread(const float* of_group, const graffiti_group_layout& layout, int64_t period, float* out) {
  const int64_t width = Width(layout);
  for (int64_t g = 0, i = 0; g < layout.groups; ++g)
    for (int64_t k = 0; k < layout.inner; ++k) out[i++] = of_group[g];
  for (int64_t i = width; i < period; ++i) out[i] = out[i - width];
}

}  // namespace

int CheckGroups(const graffiti_group_layout& l, int64_t* elements) {
  constexpr int64_t kMost = INT64_MAX / 8;
  int64_t unused;
  if (CheckedProduct({l.outer, l.groups}, kMost, &unused) && CheckedProduct({l.groups, l.inner}, kMost, &unused) &&
      CheckedProduct({l.outer, l.rows, l.groups, l.inner}, kMost, elements))
    return GRAFFITI_OK;
  return Fail(GRAFFITI_INVALID_ARGUMENT,
              "layout is [outer, rows, groups, inner] of a tensor, got [%lld, %lld, %lld, %lld]",
              static_cast<long long>(l.outer), static_cast<long long>(l.rows), static_cast<long long>(l.groups),
              static_cast<long long>(l.inner));
}

void GroupMaximum(const graffiti_group_layout& layout, const float* x, float* largest, int tier,
                  const graffiti_parallel* parallel) {
  const MultiLevelLoops& loops = LoopsOf<MultiLevelLoops>(tier);
  const int64_t each = layout.rows * Width(layout);
  std::vector<int32_t> most(layout.outer * layout.groups);
  ForEachBlock(parallel, layout.outer, 1, std::max<int64_t>(1, kUnit / std::max<int64_t>(1, each)),
               [&](int64_t a, int64_t) {
                 loops.group_maximum(x + a * each, layout.rows, Width(layout), layout.inner, &most[a * layout.groups]);
               });
  if (!most.empty()) std::memcpy(largest, most.data(), most.size() * sizeof(float));
}

int MultiLevel(const graffiti_group_layout& layout, const float* x, const float* divisors, const float* factors,
               const graffiti_element_format& format, const uint32_t* seed, float* y, int tier,
               const graffiti_parallel* parallel) {
  if (format.exponent_bits < 0 || format.exponent_bits > 5 || format.mantissa_bits < 1 || format.mantissa_bits > 11 ||
      format.top_exponent < -1 || format.top_exponent > 0)
    return Fail(
        GRAFFITI_INVALID_ARGUMENT,
        "an element has 0...5 exponent bits, 1...11 mantissa bits and a top exponent of -1 or 0, got %d, %d and %d",
        format.exponent_bits, format.mantissa_bits, format.top_exponent);
  const int64_t width = Width(layout);
  if (layout.outer * layout.rows * width == 0) return GRAFFITI_OK;
  const MultiLevelLoops& loops = LoopsOf<MultiLevelLoops>(tier);
  const NoiseKey key = seed == nullptr ? NoiseKey{0, 0} : KeyOfSeed(seed);
  // Units of whole rows of one outer part.
  const int64_t unit_rows = std::max<int64_t>(1, std::min(layout.rows, kUnit / width));
  const int64_t units = CeilDiv(layout.rows, unit_rows);
  const int64_t grain = std::max<int64_t>(1, kUnit / (unit_rows * width));
  ForEachBlock(parallel, layout.outer * units, 1, grain, [&](int64_t part, int64_t) {
    const int64_t a = part / units, row = part % units * unit_rows, rows = std::min(unit_rows, layout.rows - row);
    const int64_t period = std::min(rows, CeilDiv(kPeriod, width)) * width;
    float* numbers =
        reinterpret_cast<float*>(Scratch(kScratchColumns, 2 * period * static_cast<int64_t>(sizeof(float))));
    Spread(divisors + a * layout.groups, layout, period, numbers);
    Spread(factors + a * layout.groups, layout, period, numbers + period);
    const int64_t first = (a * layout.rows + row) * width;
    loops.multi_level(format, seed == nullptr ? nullptr : &key, x + first, rows * width, first,
                      {numbers, numbers + period, period}, y + first);
  });
  return GRAFFITI_OK;
}

}  // namespace graffiti
