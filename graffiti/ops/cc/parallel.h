// What the op files share: work spread over TensorFlow's own thread pool.
#ifndef GRAFFITI_OPS_CC_PARALLEL_H_
#define GRAFFITI_OPS_CC_PARALLEL_H_

#include <algorithm>
#include <cstdint>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/util/work_sharder.h"

namespace graffiti {

// Runs fn(lo, hi) once for every `part` elements of [0, count), on the op's thread pool where that pays: waking one
// costs tens of microseconds, so `serial_parts` of them or fewer run here.
template <typename Function>
void ForEachPart(tensorflow::OpKernelContext* context, int64_t count, int64_t part, int64_t serial_parts,
                 const Function& fn) {
  const int64_t parts = (count + part - 1) / part;
  const auto run = [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) fn(p * part, std::min(count, (p + 1) * part));
  };
  const auto* threads = context->device()->tensorflow_cpu_worker_threads();
  if (parts <= serial_parts || threads == nullptr || threads->num_threads <= 1) return run(0, parts);
  tensorflow::Shard(threads->num_threads, threads->workers, parts, /*cost_per_unit=*/10000, run);
}

}  // namespace graffiti

#endif  // GRAFFITI_OPS_CC_PARALLEL_H_
