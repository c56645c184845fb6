#include "dot/run_one.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "arch.h"
#include "dot/pack.h"

namespace graffiti {
namespace {

// The tiles of all tiers behind each other; nullptr past the last.
const DotKernel* KernelAt(int64_t index) {
  for (int tier = GRAFFITI_TIER_SCALAR; tier < GRAFFITI_TIER_COUNT; ++tier) {
    if (!TierBuilt(tier)) continue;
    const DotKernelList& list = DotKernels(tier);
    if (index < list.count) return index < 0 ? nullptr : &list.kernels[index];
    index -= list.count;
  }
  return nullptr;
}

int NoKernel(int64_t index) {
  return Fail(GRAFFITI_INVALID_ARGUMENT, "there is no dot kernel %lld", static_cast<long long>(index));
}

int TypeOfA(DotTypes types) { return types == DotTypes::kU8S8 ? GRAFFITI_U8 : GRAFFITI_S16; }
int TypeOfB(DotTypes types) { return types == DotTypes::kU8S8 ? GRAFFITI_S8 : GRAFFITI_S16; }

}  // namespace

int64_t CountDotKernels() {
  int64_t count = 0;
  while (KernelAt(count) != nullptr) ++count;
  return count;
}

int DescribeDotKernel(int64_t index, graffiti_dot_kernel_info* info) {
  const DotKernel* k = KernelAt(index);
  if (k == nullptr) return NoKernel(index);
  if (info == nullptr) return Fail(GRAFFITI_INVALID_ARGUMENT, "info must not be NULL");
  info->tier = k->tier;
  info->rows = k->rows;
  info->columns = k->columns;
  info->a_type = TypeOfA(k->types);
  info->b_type = TypeOfB(k->types);
  const char* types = k->types == DotTypes::kU8S8 ? "u8s8s32" : "s16s16s32";
  std::snprintf(info->name, sizeof info->name, "dot_%s_%dx%d_%s", types, k->rows, k->columns, TierName(k->tier));
  return GRAFFITI_OK;
}

int RunDotKernel(int64_t index, int64_t m, int64_t n, int64_t k, const void* a, const void* b, const int32_t* bias,
                 const graffiti_requantization* to, void* c, int64_t repeat) {
  const DotKernel* kernel = KernelAt(index);
  if (kernel == nullptr) return NoKernel(index);
  if (!TierSupported(kernel->tier))
    return Fail(GRAFFITI_UNSUPPORTED_TIER, "this CPU has no %s", TierName(kernel->tier));
  int64_t unused;
  if (m < 1 || n < 1 || k < 1 || !CheckedProduct({std::max(m, n), k, 8}, INT32_MAX, &unused))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "a product has sizes of at least 1");
  if (a == nullptr || b == nullptr || c == nullptr) return Fail(GRAFFITI_INVALID_ARGUMENT, "an array is missing");
  Requantizer requantizer;
  if (int code = requantizer.Init(to, n)) return code;
  const bool codes = !requantizer.identity();
  if (codes && !requantizer.fits_registers())
    return Fail(GRAFFITI_INVALID_ARGUMENT,
                "a tile rounds to 8 bits, by shifts of 0 to 30, half to even, half up or down");

  const int64_t columns = kernel->columns, panels = CeilDiv(n, columns), steps = PackedSteps(kernel->types, k),
                row = 4 * steps;
  const int64_t row_bytes = k * TypeSize(TypeOfA(kernel->types)), element = TypeSize(requantizer.type());
  AlignedArray<uint8_t> rows = AllocateAligned<uint8_t>(m * row),
                        packed = AllocateAligned<uint8_t>(panels * columns * row);
  for (int64_t i = 0; i < m; ++i)
    std::memcpy(&rows[i * row], static_cast<const uint8_t*>(a) + i * row_bytes, row_bytes);
  ColumnParameters parameters;
  parameters.Allocate(panels * columns);
  std::vector<int64_t> sums(columns);
  for (int64_t first = 0; first < n; first += columns) {
    const Columns part{b, TypeOfB(kernel->types), n, first, std::min(columns, n - first)};
    PackColumns(kernel->types, part, 1, k, columns, &packed[first * row], sums.data());
    for (int64_t j = first; j < first + part.count; ++j)
      parameters.Set(j, bias == nullptr ? 0 : bias[j], codes ? &requantizer : nullptr, j);
  }
  std::vector<int32_t> offsets(RoundUp(m, kernel->rows));  // rows past the end repeat the last one
  for (std::size_t i = 0; i < offsets.size(); ++i)
    offsets[i] = static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(i), m - 1) * row);
  const int32_t segment = 0;
  for (int64_t round = 0; round < repeat; ++round)
    for (int64_t first = 0; first < n; first += columns) {
      const Epilogue epilogue = parameters.From(first, requantizer);
      TileArgs t{};
      t.base = rows.get();
      t.segment_offsets = &segment;
      t.segments = 1;
      t.steps = steps;
      t.b = &packed[first * row];
      t.init = parameters.init(first);
      t.epilogue = &epilogue;
      t.out_stride = n * element;
      t.valid_columns = std::min(columns, n - first);
      for (int64_t i = 0; i < m; i += kernel->rows) {
        t.row_offsets = &offsets[i];
        t.out = static_cast<uint8_t*>(c) + (i * n + first) * element;
        t.valid_rows = std::min<int64_t>(kernel->rows, m - i);
        (codes ? kernel->run8 : kernel->run32)(t);
      }
    }
  return GRAFFITI_OK;
}

}  // namespace graffiti
