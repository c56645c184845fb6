// What does not depend on the instruction set: ranges, the work in blocks, the extremes of all of them.
#include "quantize/quantize.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "common.h"
#include "floats.h"

namespace graffiti {
namespace {

constexpr int64_t kGrain = 4;  // blocks

int64_t Blocks(int64_t count) { return CeilDiv(count, kQuantizeBlock); }

// Merges the keys of all blocks; both NaN where one lies outside the finite numbers.
void WriteExtremes(const std::vector<ExtremeKeys>& blocks, float* out) {
  ExtremeKeys all;
  for (const ExtremeKeys& block : blocks) {
    all.low = std::min(all.low, block.low);
    all.high = std::max(all.high, block.high);
  }
  constexpr int32_t kInfinity = 0x7f800000;
  if (blocks.empty()) {
    out[0] = out[1] = 0.0f;
  } else if (all.high >= kInfinity || all.low <= ~kInfinity) {
    out[0] = out[1] = std::numeric_limits<float>::quiet_NaN();
  } else {
    out[0] = FromBits(KeyOfBits(all.low));
    out[1] = FromBits(KeyOfBits(all.high));
  }
}

}  // namespace

int TrainingQuantize(int64_t count, const float* x, float inverse_step, int32_t low, int32_t high, const uint32_t* seed,
                     int32_t type, void* codes, float* extremes, int tier, const graffiti_parallel* parallel) {
  if (type != GRAFFITI_S8 && type != GRAFFITI_U8 && type != GRAFFITI_S16)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "codes of low-bit training are s8, u8 or s16, got %s", TypeName(type));
  if (low < TypeLow(type) || low > high || high > TypeHigh(type))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "codes of %s are in %lld...%lld, got low=%d, high=%d", TypeName(type),
                static_cast<long long>(TypeLow(type)), static_cast<long long>(TypeHigh(type)), low, high);
  const QuantizeLoops& loops = LoopsOf<QuantizeLoops>(tier);
  const NoiseKey key = seed == nullptr ? NoiseKey{0, 0} : KeyOfSeed(seed);
  const QuantizeParams p{inverse_step, static_cast<float>(low), static_cast<float>(high), seed != nullptr, key};
  std::vector<ExtremeKeys> keys(Blocks(count));
  ForEachBlock(parallel, count, kQuantizeBlock, kGrain, [&](int64_t lo, int64_t hi) {
    ExtremeKeys* own = &keys[Blocks(lo)];
    const uint32_t half_first = static_cast<uint32_t>(lo / 2);
    switch (type) {
      case GRAFFITI_S8:
        return loops.s8(p, x + lo, hi - lo, half_first, static_cast<int8_t*>(codes) + lo, own);
      case GRAFFITI_U8:
        return loops.u8(p, x + lo, hi - lo, half_first, static_cast<uint8_t*>(codes) + lo, own);
      default:
        return loops.s16(p, x + lo, hi - lo, half_first, static_cast<int16_t*>(codes) + lo, own);
    }
  });
  WriteExtremes(keys, extremes);
  return GRAFFITI_OK;
}

void FindExtremes(int64_t count, const float* x, float* extremes, int tier, const graffiti_parallel* parallel) {
  const QuantizeLoops& loops = LoopsOf<QuantizeLoops>(tier);
  std::vector<ExtremeKeys> keys(Blocks(count));
  ForEachBlock(parallel, count, kQuantizeBlock, kGrain,
               [&](int64_t lo, int64_t hi) { loops.extremes(x + lo, hi - lo, &keys[Blocks(lo)]); });
  WriteExtremes(keys, extremes);
}

int64_t CountLarge(int64_t count, const float* x, float bound, int tier, const graffiti_parallel* parallel) {
  const QuantizeLoops& loops = LoopsOf<QuantizeLoops>(tier);
  std::vector<int64_t> counts(Blocks(count));
  ForEachBlock(parallel, count, kQuantizeBlock, kGrain,
               [&](int64_t lo, int64_t hi) { counts[Blocks(lo)] = loops.count_above(x + lo, hi - lo, bound); });
  int64_t all = 0;
  for (const int64_t own : counts) all += own;
  return all;
}

}  // namespace graffiti
