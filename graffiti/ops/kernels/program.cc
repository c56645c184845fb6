#include "program.h"

#include <algorithm>
#include <cstring>

#include "thread_pool.h"

namespace graffiti {

uint8_t* Program::Data(const Block& block, int64_t tensor) const {
  const ProgramTensor& t = tensors_[tensor];
  switch (t.place) {
    case Place::kArena: return block.arena + block.capacity * t.offset;
    case Place::kInput:
      return const_cast<uint8_t*>(static_cast<const uint8_t*>(block.inputs[t.offset])) +
             block.first * t.elements * TypeSize(t.type);
    default: return static_cast<uint8_t*>(block.outputs[t.offset]) + block.first * t.elements * TypeSize(t.type);
  }
}

Program::Lease Program::Rent() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!free_arenas_.empty()) {
      Lease lease(this, std::move(free_arenas_.back()));
      free_arenas_.pop_back();
      return lease;
    }
  }
  return Lease(this, AllocateAligned<uint8_t>(arena_bytes_ * block_));
}

Program::Lease::~Lease() {
  if (arena == nullptr) return;
  std::lock_guard<std::mutex> lock(program->mutex_);
  program->free_arenas_.push_back(std::move(arena));
}

void Program::CopyValues(const Block& block, std::size_t step, void* const* values) const {
  for (std::size_t index : values_of_step_[step]) {
    if (values[index] == nullptr) continue;
    const ProgramValue& v = values_[index];
    const ProgramTensor& t = tensors_[v.tensor];
    const int64_t size = TypeSize(t.type);
    const uint8_t* from = Data(block, v.tensor) + v.offset * size;
    uint8_t* to = static_cast<uint8_t*>(values[index]) + block.first * v.rows * v.inner * size;
    for (int64_t image = 0; image < block.count; ++image)
      for (int64_t row = 0; row < v.rows; ++row, to += v.inner * size)
        std::memcpy(to, from + (image * t.elements + row * v.stride) * size, v.inner * size);
  }
}

int Program::RunStep(const Block& block, std::size_t step, int64_t lo, int64_t hi) const {
  try {
    return steps_[step]->Run(block, lo, hi);
  } catch (const std::bad_alloc&) {
    return GRAFFITI_OUT_OF_MEMORY;
  }
}

// Every thread takes blocks of images.
int Program::RunApart(const void* const* inputs, void* const* outputs, int64_t batch, int threads,
                      void* const* values) {
  const int64_t size = std::min(block_, CeilDiv(batch, threads)), tasks = CeilDiv(batch, size);
  std::atomic<int> status{GRAFFITI_OK};
  const auto run = [&](int64_t, int64_t task) {
    try {
      const Lease lease = Rent();
      const Block block{lease.arena.get(), block_, task * size, std::min(size, batch - task * size), inputs, outputs};
      for (std::size_t i = 0; i < steps_.size() && status.load(std::memory_order_relaxed) == GRAFFITI_OK; ++i) {
        if (int code = RunStep(block, i, 0, steps_[i]->Units(block.count))) status = code;
        if (values != nullptr) CopyValues(block, i, values);
      }
    } catch (const std::bad_alloc&) {
      status = GRAFFITI_OUT_OF_MEMORY;
    }
  };
  RunPhases(static_cast<int>(std::min<int64_t>(threads, tasks)), {tasks}, run);
  return status;
}

// All threads share the units of each step.
int Program::RunShared(const void* const* inputs, void* const* outputs, int64_t batch, int threads,
                       void* const* values) {
  const Lease lease = Rent();
  std::atomic<int> status{GRAFFITI_OK};
  for (int64_t first = 0; first < batch; first += block_) {
    const Block block{lease.arena.get(), block_, first, std::min(block_, batch - first), inputs, outputs};
    std::vector<int64_t> parts;
    for (const std::unique_ptr<Step>& step : steps_) {
      const int64_t units = step->Units(block.count);
      parts.push_back(
          std::min<int64_t>(units, units >= 8 * threads ? 2 * threads : threads));  // some slack for a late thread
      if (values != nullptr) parts.push_back(1);
    }
    const std::size_t each = values == nullptr ? 1 : 2;
    RunPhases(threads, parts, [&](int64_t phase, int64_t part) {
      const std::size_t step = static_cast<std::size_t>(phase) / each;
      if (static_cast<std::size_t>(phase) % each == 1) return CopyValues(block, step, values);
      const int64_t units = steps_[step]->Units(block.count), count = parts[phase];
      if (int code = RunStep(block, step, units * part / count, units * (part + 1) / count)) status = code;
    });
  }
  return status;
}

int Program::Run(const void* const* inputs, void* const* outputs, int64_t batch, int threads, void* const* values) {
  if (batch < 0)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "a batch has 0 or more images, got %lld", static_cast<long long>(batch));
  for (std::size_t i = 0; i < inputs_.size() && batch > 0; ++i)
    if (inputs == nullptr || inputs[i] == nullptr) return Fail(GRAFFITI_INVALID_ARGUMENT, "input %zu is missing", i);
  for (std::size_t i = 0; i < outputs_.size() && batch > 0; ++i)
    if (outputs == nullptr || outputs[i] == nullptr) return Fail(GRAFFITI_INVALID_ARGUMENT, "output %zu is missing", i);
  if (batch == 0) return GRAFFITI_OK;
  threads = std::clamp(threads, 1, kMaxThreads);
  const int status = threads == 1 || batch >= threads ? RunApart(inputs, outputs, batch, threads, values)
                                                      : RunShared(inputs, outputs, batch, threads, values);
  switch (status) {
    case GRAFFITI_OK: return GRAFFITI_OK;
    case GRAFFITI_NOT_A_NUMBER:
      return Fail(GRAFFITI_NOT_A_NUMBER, "an input holds NaN, which has no code; clean the data first");
    case GRAFFITI_OUT_OF_MEMORY: return Fail(GRAFFITI_OUT_OF_MEMORY, "out of memory");
    default:
      return Fail(status,
                  "a lookup was asked for a code outside its table; requantize to the table's input format first");
  }
}

}  // namespace graffiti
