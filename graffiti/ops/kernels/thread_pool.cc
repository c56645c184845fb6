#include "thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "arch.h"

namespace graffiti {
namespace {

constexpr int kSpins = 2000;  // some tens of microseconds: the next phase, or the next batch, usually follows at once

inline void Wait(int* spins) {
  if (++*spins > kSpins) {
    sched_yield();
    return;
  }
#if GRAFFITI_X86_64
  __builtin_ia32_pause();
#endif
}

// Held by every thread that may still look at it; `run` is touched only by who has taken a part, and the caller waits
// for those.
class Job {
 public:
  Job(const std::vector<int64_t>& parts, const std::function<void(int64_t, int64_t)>& run)
      : phases_(parts.size()), run_(run) {
    for (std::size_t i = 0; i < parts.size(); ++i) phases_[i].parts = parts[i];
  }

  void Work() {
    for (std::size_t i = 0; i < phases_.size(); ++i) {
      Phase& phase = phases_[i];
      for (int64_t part; (part = phase.next.fetch_add(1, std::memory_order_relaxed)) < phase.parts;) {
        run_(static_cast<int64_t>(i), part);
        phase.done.fetch_add(1, std::memory_order_release);
      }
      for (int spins = 0; phase.done.load(std::memory_order_acquire) < phase.parts;) Wait(&spins);
    }
  }

 private:
  struct Phase {
    int64_t parts = 0;
    std::atomic<int64_t> next{0}, done{0};
  };
  std::vector<Phase> phases_;
  const std::function<void(int64_t, int64_t)>& run_;
};

class ThreadPool {
 public:
  // Offers the job to `helpers` threads.
  void Post(const std::shared_ptr<Job>& job, int helpers) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      StartThreads(helpers);
      job_ = job;
      helpers_ = helpers;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
  }

  // Nobody new takes the job.
  void Withdraw(const std::shared_ptr<Job>& job) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (job_ == job) job_ = nullptr;
  }

 private:
  void StartThreads(int wanted) {
    try {
      for (; started_ < wanted; ++started_)
        std::thread(&ThreadPool::Serve, this, started_, generation_.load()).detach();
    } catch (const std::system_error&) {  // no more threads to be had: those there are will do
    }
  }

  void Serve(int index, unsigned seen) {
    for (;;) {
      for (int spins = 0; spins < kSpins && generation_.load(std::memory_order_acquire) == seen;) Wait(&spins);
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        if (index < helpers_) job = job_;
      }
      if (job != nullptr) job->Work();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<unsigned> generation_{0};
  std::shared_ptr<Job> job_;
  int helpers_ = 0, started_ = 0;
};

// Never destroyed: its threads may outlive static destruction. A forked child has none of the threads and gets a new
// pool.
std::atomic<ThreadPool*> g_pool{nullptr};

ThreadPool& Pool() {
  static const bool once = [] {
    g_pool = new ThreadPool;
    pthread_atfork(nullptr, nullptr, [] { g_pool = new ThreadPool; });
    return true;
  }();
  static_cast<void>(once);
  return *g_pool.load(std::memory_order_acquire);
}

}  // namespace

void RunPhases(int threads, const std::vector<int64_t>& parts, const std::function<void(int64_t, int64_t)>& run) {
  if (threads <= 1) {
    for (std::size_t i = 0; i < parts.size(); ++i)
      for (int64_t part = 0; part < parts[i]; ++part) run(static_cast<int64_t>(i), part);
    return;
  }
  const auto job = std::make_shared<Job>(parts, run);
  ThreadPool& pool = Pool();
  pool.Post(job, threads - 1);
  job->Work();
  pool.Withdraw(job);
}

}  // namespace graffiti
