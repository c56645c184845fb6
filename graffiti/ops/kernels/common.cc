#include "common.h"

#include <cstdarg>
#include <cstdio>

namespace graffiti {
namespace {

thread_local char t_error[512] = "";

struct ScratchBuffers {
  uint8_t* data[kScratchSlots] = {};
  int64_t size[kScratchSlots] = {};
  ~ScratchBuffers() {
    for (uint8_t* p : data) std::free(p);
  }
};
thread_local ScratchBuffers t_scratch;

}  // namespace

int Fail(int code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(t_error, sizeof t_error, format, arguments);
  va_end(arguments);
  return code;
}

const char* LastError() { return t_error; }
void ClearError() { t_error[0] = '\0'; }

const char* TypeName(int type) {
  static const char* const kNames[] = {"s8", "u8", "s16", "u16", "s32", "f32"};
  return type >= GRAFFITI_S8 && type <= GRAFFITI_F32 ? kNames[type] : "unknown";
}

bool CheckedProduct(std::initializer_list<int64_t> factors, int64_t limit, int64_t* product) {
  int64_t result = 1;
  for (int64_t factor : factors)
    if (factor < 0 || __builtin_mul_overflow(result, factor, &result) || result > limit) return false;
  *product = result;
  return true;
}

uint8_t* Scratch(ScratchSlot slot, int64_t bytes) {
  if (t_scratch.size[slot] < bytes) {
    std::free(t_scratch.data[slot]);
    t_scratch.data[slot] = nullptr;
    t_scratch.size[slot] = 0;
    const int64_t size = RoundUp(bytes + bytes / 4, 4096);
    t_scratch.data[slot] = static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<std::size_t>(size)));
    if (t_scratch.data[slot] == nullptr) throw std::bad_alloc();
    t_scratch.size[slot] = size;
  }
  return t_scratch.data[slot];
}

}  // namespace graffiti
