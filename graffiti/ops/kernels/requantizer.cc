#include "requantizer.h"

namespace graffiti {

int Requantizer::Init(const graffiti_requantization* to, int64_t channels) {
  if (to == nullptr) {
    *this = Requantizer();
    return GRAFFITI_OK;
  }
  if (!IsCodeType(to->type))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "requantize gives s8, u8, s16, u16 or s32, got type %d", to->type);
  if (to->rounding < GRAFFITI_HALF_EVEN || to->rounding > GRAFFITI_FLOOR)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "a rounding mode is 0 to 3, got %d", to->rounding);
  if (to->shift == nullptr || (to->shift_count != 1 && to->shift_count != channels))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "requantize needs one shift or one per channel (%lld), got %lld",
                static_cast<long long>(channels), static_cast<long long>(to->shift_count));
  if (to->low > to->high || to->low < TypeLow(to->type) || to->high > TypeHigh(to->type))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "requantize saturates to low <= high within %s, got [%d, %d]",
                TypeName(to->type), to->low, to->high);
  shift_.assign(to->shift, to->shift + to->shift_count);
  common_ = true;
  simple_ = true;
  for (int32_t shift : shift_) {
    if (shift < -62 || shift > 62) return Fail(GRAFFITI_INVALID_ARGUMENT, "a shift is -62 to 62, got %d", shift);
    common_ &= shift == shift_[0];
    simple_ &= shift >= 0 && shift <= 30;
  }
  if (common_) shift_.resize(1);
  identity_ = false;
  type_ = to->type;
  rounding_ = to->rounding;
  low_ = to->low;
  high_ = to->high;
  const int32_t most = int32_t{1} << 30;
  left_ = common_ && shift_[0] < 0 && shift_[0] >= -30 && low_ >= -most && high_ <= most;
  return GRAFFITI_OK;
}

}  // namespace graffiti
