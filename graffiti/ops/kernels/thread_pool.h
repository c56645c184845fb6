// One small pool of threads for all programs of the process.
//
// A job is a list of phases, each of some parts that may run in any order on any thread; a phase begins when all parts
// of the one before are done. The caller works too and never waits for a thread that has not taken a part: on a busy
// machine, where the others may not be running at all, it simply does everything itself.
#ifndef GRAFFITI_OPS_KERNELS_THREAD_POOL_H_
#define GRAFFITI_OPS_KERNELS_THREAD_POOL_H_

#include <cstdint>
#include <functional>
#include <vector>

namespace graffiti {

constexpr int kMaxThreads = 256;

// run(phase, part) for every part of every phase, on up to `threads` threads, the caller being one. run must not throw.
void RunPhases(int threads, const std::vector<int64_t>& parts, const std::function<void(int64_t, int64_t)>& run);

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_THREAD_POOL_H_
