#include "dot/dot.h"

#include "arch.h"

namespace graffiti {

template <typename Visit>
static void ForEachDot(int tier, DotTypes types, const Visit& visit) {
  const DotKernelList list = DotKernels(tier);
  for (int i = 0; i < list.count; ++i)
    if (list.kernels[i].types == types) visit(list.kernels[i]);
}

bool HasDot(int tier, DotTypes types) { return WidestDot(tier, types) > 0; }

int WidestDot(int tier, DotTypes types) {
  int widest = 0;
  ForEachDot(tier, types, [&](const DotKernel& k) { widest = k.columns > widest ? k.columns : widest; });
  return widest;
}

int DotLanes(int tier, DotTypes types) {
  int lanes = kMaxTileColumns;
  ForEachDot(tier, types, [&](const DotKernel& k) { lanes = k.columns < lanes ? k.columns : lanes; });
  return lanes;
}

const DotKernel* FindDot(int tier, DotTypes types, int columns, int64_t rows) {
  const DotKernel* best = nullptr;
  ForEachDot(tier, types, [&](const DotKernel& k) {
    if (k.columns != columns) return;
    const bool covers = k.rows >= rows, best_covers = best != nullptr && best->rows >= rows;
    if (best == nullptr || (covers && (!best_covers || k.rows < best->rows)) ||
        (!covers && !best_covers && k.rows > best->rows))
      best = &k;
  });
  return best;
}

}  // namespace graffiti
