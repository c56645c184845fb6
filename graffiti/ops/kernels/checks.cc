#include "checks.h"

#include "arch.h"
#include "common.h"

namespace graffiti {

int Tier(int32_t tier, int* resolved) {
  *resolved = ResolveTier(tier);
  if (*resolved != 0) return GRAFFITI_OK;
  const char* name = TierName(tier);
  if (name != nullptr) return Fail(GRAFFITI_UNSUPPORTED_TIER, "this CPU has no %s; use the tier auto", name);
  return Fail(GRAFFITI_INVALID_ARGUMENT, "a tier is 0 (auto) to %d, got %d", GRAFFITI_TIER_COUNT - 1, tier);
}

int CheckCount(int64_t count, std::initializer_list<const void*> pointers) {
  if (count < 0)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "a count is 0 or more, got %lld", static_cast<long long>(count));
  for (const void* p : pointers)
    if (p == nullptr && count > 0) return Fail(GRAFFITI_INVALID_ARGUMENT, "an array is missing");
  return GRAFFITI_OK;
}

int CheckGiven(const void* pointer, const char* name) {
  return pointer != nullptr ? GRAFFITI_OK : Fail(GRAFFITI_INVALID_ARGUMENT, "%s must not be NULL", name);
}

int CheckWhole(int64_t count, int64_t channels) {
  if (channels >= 1 && count % channels == 0) return GRAFFITI_OK;
  return Fail(GRAFFITI_INVALID_ARGUMENT, "%lld elements are no whole number of %lld channels",
              static_cast<long long>(count), static_cast<long long>(channels));
}

}  // namespace graffiti
