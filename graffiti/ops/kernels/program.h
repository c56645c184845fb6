// The flat form of an integer graph and its execution. program_format.inc has the bytes of a blob.
//
// A program is a list of steps over tensors. Tensors live in an arena planned per image (every tensor of a block of
// images lies at block * its planned offset), or are the caller's inputs and outputs. Threads take blocks of images;
// with fewer images than threads they share the units of every step instead.
#ifndef GRAFFITI_OPS_KERNELS_PROGRAM_H_
#define GRAFFITI_OPS_KERNELS_PROGRAM_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "common.h"

namespace graffiti {

enum class Place : int64_t { kArena = 0, kInput = 1, kOutput = 2 };

struct ProgramTensor {
  int type;
  Place place;
  int64_t offset;  // bytes into the arena of one image, or the number of the input or output
  int64_t elements;  // of one image
};

// What a step wrote, for the debug run: rows runs of `inner` elements, `stride` elements apart, in a tensor.
struct ProgramValue {
  int64_t step, tensor, offset, rows, inner, stride;
};

// The images that one call of a step works on.
struct Block {
  uint8_t* arena;
  int64_t capacity;  // images the arena was laid out for
  int64_t first, count;  // images of the batch
  const void* const* inputs;
  void* const* outputs;
};

class Step {
 public:
  virtual ~Step() = default;
  virtual int64_t Units(int64_t images) const = 0;
  // Units [lo, hi); 0 or an error code (without a message: other threads run too).
  virtual int Run(const Block& block, int64_t lo, int64_t hi) const = 0;
};

class Program {
 public:
  static int Create(const void* blob, int64_t size, int tier, std::unique_ptr<Program>* program);

  int Run(const void* const* inputs, void* const* outputs, int64_t batch, int threads, void* const* values);

  const std::vector<int64_t>& inputs() const { return inputs_; }
  const std::vector<int64_t>& outputs() const { return outputs_; }
  const std::vector<ProgramValue>& values() const { return values_; }
  const ProgramTensor& tensor(int64_t index) const { return tensors_[index]; }
  uint8_t* Data(const Block& block, int64_t tensor) const;

 private:
  friend class ProgramReader;

  // An arena from the free list, or a new one; handed back when it goes.
  struct Lease {
    Lease(Program* owner, AlignedArray<uint8_t> memory) : program(owner), arena(std::move(memory)) {}
    Lease(Lease&&) = default;
    ~Lease();
    Program* program;
    AlignedArray<uint8_t> arena;
  };
  Lease Rent();
  int RunStep(const Block& block, std::size_t step, int64_t lo, int64_t hi) const;
  int RunShared(const void* const* inputs, void* const* outputs, int64_t batch, int threads, void* const* values);
  int RunApart(const void* const* inputs, void* const* outputs, int64_t batch, int threads, void* const* values);
  void CopyValues(const Block& block, std::size_t step, void* const* values) const;

  int64_t arena_bytes_ = 0, block_ = 1;
  std::vector<ProgramTensor> tensors_;
  std::vector<int64_t> inputs_, outputs_;
  std::vector<ProgramValue> values_;
  std::vector<std::vector<std::size_t>> values_of_step_;
  std::vector<std::unique_ptr<Step>> steps_;
  std::mutex mutex_;
  std::vector<AlignedArray<uint8_t>> free_arenas_;
};

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_PROGRAM_H_
