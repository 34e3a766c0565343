// Division by numbers that are known before the kernel starts.
#pragma once

#include <cstdint>

namespace convext::cuda {

// 64 bits: the machine's own division.
template <class Index>
class Divisor {
 public:
  constexpr Divisor() = default;
  constexpr explicit Divisor(int64_t divisor) : divisor_(divisor) {}
  constexpr Index quotient(Index n) const { return n / divisor_; }
  constexpr Index value() const { return divisor_; }

 private:
  Index divisor_ = 1;
};

// 32 bits: a multiplication and a shift. With s = ceil(log2 d) and m = floor(2^32 (2^s - d) / d) + 1,
// n / d = (n + (n m >> 32)) >> s for all n below 2^31 (Granlund and Montgomery 1994).
template <>
class Divisor<int32_t> {
 public:
  constexpr Divisor() : Divisor(1) {}
  constexpr explicit Divisor(int64_t divisor) : divisor_(static_cast<int32_t>(divisor)) {
    while ((int64_t{1} << shift_) < divisor) ++shift_;
    const uint64_t rest = (uint64_t{1} << shift_) - static_cast<uint64_t>(divisor);
    multiplier_ = static_cast<uint32_t>((rest << 32) / static_cast<uint64_t>(divisor) + 1);
  }
  constexpr int32_t quotient(int32_t n) const {
    const uint32_t u = static_cast<uint32_t>(n);
    return static_cast<int32_t>((u + static_cast<uint32_t>((uint64_t{u} * multiplier_) >> 32)) >> shift_);
  }
  constexpr int32_t value() const { return divisor_; }

 private:
  int32_t divisor_;
  uint32_t multiplier_ = 1;
  uint32_t shift_ = 0;
};

}  // namespace convext::cuda
