// What the C ABI asks of every call: a tier that runs here, arrays that are there.
#ifndef GRAFFITI_OPS_KERNELS_CHECKS_H_
#define GRAFFITI_OPS_KERNELS_CHECKS_H_

#include <cstdint>
#include <initializer_list>

namespace graffiti {

// The tier to run, never AUTO.
int Tier(int32_t tier, int* resolved);

// A count of elements, and arrays that may only be missing where there are none.
int CheckCount(int64_t count, std::initializer_list<const void*> pointers);

// A struct that must be there, by its name.
int CheckGiven(const void* pointer, const char* name);

// A whole number of channels.
int CheckWhole(int64_t count, int64_t channels);

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_CHECKS_H_
