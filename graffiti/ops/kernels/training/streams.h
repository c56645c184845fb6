// Results that are written past the caches.
#ifndef GRAFFITI_OPS_KERNELS_TRAINING_STREAMS_H_
#define GRAFFITI_OPS_KERNELS_TRAINING_STREAMS_H_

#include <cstdint>

#include "arch.h"

#if GRAFFITI_X86_64
#include <xmmintrin.h>
#endif

namespace graffiti {

// Results of this size leave the caches before anyone reads them: written past the caches, none of their lines is read
// first. Smaller ones lose more by the next reader's misses than their writing gains.
constexpr int64_t kStreamBytes = 12 * 1024 * 1024;

// Whether rows of `columns` floats go past the caches: whole lines only.
inline bool Streams(const float* out, int64_t rows, int64_t columns) {
  return rows * columns * 4 >= kStreamBytes && columns % 16 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0;
}

// Makes what this thread has streamed visible to the others.
inline void FinishStreams() {
#if GRAFFITI_X86_64
  _mm_sfence();
#endif
}

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_TRAINING_STREAMS_H_
