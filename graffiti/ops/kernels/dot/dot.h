// The tile primitive: a block of `rows` x `columns` accumulators over indirect rows times packed columns.
//
//   acc[r][c] = init[c] + sum over segments g, steps s, i of  a[r][g][s][i] * b[g][s][c][i]
//
// A row is a byte offset from `base`; each segment starts at another byte offset from it and is `steps` runs of 4
// bytes: four u8 values (u8s8 kernels) or two s16 values (s16s16). B is packed [segment][step][column][4 bytes], s8 or
// s16. Adjacent rows begin 4 bytes one behind the other, and their steps `step_stride` bytes. With `epilogue` the
// accumulators, which already hold the bias and half of the last place, become 8-bit codes in registers:
//   y = acc >> shift;  a tie (acc & mask == 0) drops to even where `drop` says so;  y = min(max(y, low), high).
#ifndef GRAFFITI_OPS_KERNELS_DOT_DOT_H_
#define GRAFFITI_OPS_KERNELS_DOT_DOT_H_

#include <cstdint>

#include "arch.h"

namespace graffiti {

constexpr int kMaxTileRows = 12;
constexpr int kMaxTileColumns = 64;
constexpr int kFlipVectors = 2;  // narrower tiles have no time for it

// Arrays have one element per column of the panel, padded to the tile's columns.
struct Epilogue {
  const int32_t* shift;  // 0..30
  const int32_t* mask;   // (1 << shift) - 1
  const int32_t* drop;   // 1: half to even, 0: half up or floor (or shift 0)
  int32_t low, high;
};

struct TileArgs {
  const uint8_t* base;
  const int32_t* row_offsets;      // as many as the kernel has rows; of adjacent rows the first one's
  const int32_t* segment_offsets;  // as many as segments
  int64_t segments, steps;
  const void* b;        // aligned to 64 bytes
  const int32_t* init;  // padded like the epilogue's arrays
  const Epilogue* epilogue;  // of run8 only
  void* out;                 // run32: s32, run8: 8-bit codes, run_float: float32
  int64_t out_stride;        // bytes from row to row
  int64_t valid_rows, valid_columns;  // what is written
  const int32_t* out_offsets;         // run_float, run_stream: floats from out to each row, instead of out_stride
  float scale;                        // the same: what the accumulators are multiplied by
  int32_t flip;  // run_float, run_stream of kFlipVectors vectors and more: xored into every step of a row
  int64_t step_stride;                // adjacent rows
};

using TileFunction = void (*)(const TileArgs&);

enum class DotTypes { kU8S8, kS16S16 };

struct DotKernel {
  DotTypes types;
  int tier, rows, columns;
  TileFunction run32, run8, run_float;
  TileFunction run_stream;  // run_float past the caches: rows aligned to 64 bytes, columns whole vectors;
                            // FinishStreams() when done
  TileFunction run32_adjacent, run_float_adjacent;  // may read the rows that t.valid_rows leaves out
};

// Values of the inner dimension that one 4-byte step holds.
inline int DotGroup(DotTypes types) { return types == DotTypes::kU8S8 ? 4 : 2; }

struct DotKernelList {
  const DotKernel* kernels;
  int count;
};
GRAFFITI_DECLARE_TIERS(DotKernelList)

inline const DotKernelList& DotKernels(int tier) { return LoopsOf<DotKernelList>(tier); }  // of a resolved tier
bool HasDot(int tier, DotTypes types);
int WidestDot(int tier, DotTypes types);               // columns of the widest tile
int DotLanes(int tier, DotTypes types);                // columns of the narrowest
const DotKernel* FindDot(int tier, DotTypes types, int columns,
                         int64_t rows);  // the smallest that has `rows`, else the tallest

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_DOT_DOT_H_
