// A checked graffiti_requantization: which loop it takes, and its shifts as arrays.
#ifndef GRAFFITI_OPS_KERNELS_REQUANTIZER_H_
#define GRAFFITI_OPS_KERNELS_REQUANTIZER_H_

#include <vector>

#include "common.h"
#include "loops/loops.h"

namespace graffiti {

class Requantizer {
 public:
  // Identity: s32 stays s32.
  Requantizer() = default;

  // `to` NULL: the identity.
  int Init(const graffiti_requantization* to, int64_t channels);

  bool identity() const { return identity_; }
  int type() const { return type_; }
  int rounding() const { return rounding_; }
  int32_t low() const { return low_; }
  int32_t high() const { return high_; }
  bool common() const { return common_; }
  // All shifts are 0..30: the 32-bit loops take them.
  bool simple() const { return simple_; }
  // To 8 bits in the registers of a tile.
  bool fits_registers() const {
    return !identity_ && simple_ && TypeSize(type_) == 1 && rounding_ != GRAFFITI_HALF_AWAY;
  }
  int32_t shift(int64_t channel) const { return shift_[common_ ? 0 : channel]; }

  // x[0..n) (channels first_channel.., not wrapping around) rounded, saturated and stored. x is changed.
  void Apply(const Loops& loops, int32_t* x, int64_t n, int64_t first_channel, void* out) const {
    if (!identity_) {
      const int32_t* shift = shift_.data() + (common_ ? 0 : first_channel);
      if (left_)
        loops.shift_left(x, -shift[0], n, low_, high_);
      else
        (simple_ ? loops.round : loops.round_any)(rounding_, x, shift, common_, n, low_, high_);
    }
    loops.store(type_, x, n, out);
  }

 private:
  bool identity_ = true, common_ = true, simple_ = true,
       left_ = false;  // left_: one shift of 1..30 to the left, narrow bounds
  int type_ = GRAFFITI_S32, rounding_ = GRAFFITI_HALF_EVEN;
  int32_t low_ = 0, high_ = 0;
  std::vector<int32_t> shift_{0};
};

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_REQUANTIZER_H_
