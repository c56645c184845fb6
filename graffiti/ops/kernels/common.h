// What the kernel files share: errors, type sizes, thread-local scratch, work split over somebody's threads.
#ifndef GRAFFITI_OPS_KERNELS_COMMON_H_
#define GRAFFITI_OPS_KERNELS_COMMON_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "c_api.h"

namespace graffiti {

// Keeps the sentence for graffiti_last_error() and returns the code.
__attribute__((format(printf, 2, 3))) int Fail(int code, const char* format, ...);
const char* LastError();
void ClearError();

inline int64_t TypeSize(int type) {
  switch (type) {
    case GRAFFITI_S8: case GRAFFITI_U8: return 1;
    case GRAFFITI_S16: case GRAFFITI_U16: return 2;
    case GRAFFITI_S32: case GRAFFITI_F32: return 4;
    default: return 0;
  }
}
inline bool IsCodeType(int type) { return type >= GRAFFITI_S8 && type <= GRAFFITI_S32; }
inline int64_t TypeLow(int type) {
  static const int64_t kLow[] = {-128, 0, -32768, 0, INT32_MIN};
  return kLow[type];
}
inline int64_t TypeHigh(int type) {
  static const int64_t kHigh[] = {127, 255, 32767, 65535, INT32_MAX};
  return kHigh[type];
}
const char* TypeName(int type);

// A code of any type.
inline int32_t ValueAt(const void* p, int type, int64_t index) {
  switch (type) {
    case GRAFFITI_S8: return static_cast<const int8_t*>(p)[index];
    case GRAFFITI_U8: return static_cast<const uint8_t*>(p)[index];
    case GRAFFITI_S16: return static_cast<const int16_t*>(p)[index];
    case GRAFFITI_U16: return static_cast<const uint16_t*>(p)[index];
    default: return static_cast<const int32_t*>(p)[index];
  }
}

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t FloorDiv(int64_t a, int64_t b) { return a >= 0 ? a / b : -CeilDiv(-a, b); }
inline int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// a * b * ... without overflow: false where a factor is negative or the product leaves `limit`.
bool CheckedProduct(std::initializer_list<int64_t> factors, int64_t limit, int64_t* product);

struct AlignedFree {
  void operator()(void* p) const { std::free(p); }
};
template <typename T>
using AlignedArray = std::unique_ptr<T[], AlignedFree>;

// Zeroed, aligned to 64 bytes. Throws std::bad_alloc.
template <typename T>
AlignedArray<T> AllocateAligned(int64_t count) {
  const std::size_t bytes = static_cast<std::size_t>(RoundUp(count * static_cast<int64_t>(sizeof(T)) + 1, 64));
  void* p = std::aligned_alloc(64, bytes);
  if (p == nullptr) throw std::bad_alloc();
  __builtin_memset(p, 0, bytes);
  return AlignedArray<T>(static_cast<T*>(p));
}

// At least `bytes` of this thread, aligned to 64, kept for the next call with the same slot. Contents are undefined.
enum ScratchSlot { kScratchInput, kScratchSums, kScratchPlanes, kScratchColumns, kScratchWide, kScratchSlots };
uint8_t* Scratch(ScratchSlot slot, int64_t bytes);

// fn(lo, hi) over [0, n) on the caller's threads (or here), a part at least `grain` long.
template <typename Function>
void ParallelFor(const graffiti_parallel* parallel, int64_t n, int64_t grain, const Function& fn) {
  if (n <= 0) return;
  if (parallel == nullptr || parallel->parallel_for == nullptr || n <= grain) return fn(0, n);
  struct Call {
    const Function& fn;
    int64_t n, grain;
  } call{fn, n, grain};
  parallel->parallel_for(
      parallel->context, CeilDiv(n, grain),
      [](void* arg, int64_t lo, int64_t hi) {
        const Call& c = *static_cast<Call*>(arg);
        if (lo < hi) c.fn(lo * c.grain, hi * c.grain < c.n ? hi * c.grain : c.n);
      },
      &call);
}

// fn(lo, hi) once for every block of [0, n), the last one perhaps shorter, on the caller's threads where that pays. A
// thread takes `grain` blocks at once, some ten microseconds of work; up to five times as many take no longer than
// waking a thread and run here.
template <typename Function>
void ForEachBlock(const graffiti_parallel* parallel, int64_t n, int64_t block, int64_t grain, const Function& fn) {
  ParallelFor(n <= 5 * grain * block ? nullptr : parallel, n, grain * block, [&](int64_t lo, int64_t hi) {
    for (; lo < hi; lo += block) fn(lo, lo + block < hi ? lo + block : hi);
  });
}

// Runs a C API body; exceptions become error codes.
template <typename Function>
int32_t Guarded(const Function& fn) {
  ClearError();
  try {
    return fn();
  } catch (const std::bad_alloc&) {
    return Fail(GRAFFITI_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return Fail(GRAFFITI_INVALID_ARGUMENT, "%s", error.what());
  }
}

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_COMMON_H_
