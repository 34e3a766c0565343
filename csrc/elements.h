// Element types and the type each is summed in.
//
// float16 and bfloat16 are stored bits: they are widened to float32 when they are packed or read, and narrowed (round
// to nearest even) once, when the finished sum is written. The conversions are written on integers so that the compiler
// vectorises them at every ISA level.
#pragma once

#include <cstdint>

namespace convext {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};
template <class T>
struct Complex {
  T re, im;
};

// All of them constexpr, so that CUDA kernels may call them too; and the builtin itself, because std::bit_cast is a
// template that files of different ISA levels would share.
constexpr uint32_t float_bits(float x) { return __builtin_bit_cast(uint32_t, x); }
constexpr float bits_float(uint32_t u) { return __builtin_bit_cast(float, u); }

constexpr float widen(BFloat16 x) { return bits_float(static_cast<uint32_t>(x.bits) << 16); }

constexpr float widen(Half x) {
  // Scaling by 2^112 moves the exponent from bias 15 to bias 127 and normalises subnormals in the same multiplication.
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t scaled = float_bits(bits_float(magnitude) * bits_float(0x77800000u));
  const uint32_t infinite_or_nan = magnitude | 0x7f800000u;
  return bits_float((magnitude >= 0x0f800000u ? infinite_or_nan : scaled) | sign);
}

constexpr float widen(float x) { return x; }
constexpr double widen(double x) { return x; }

// Integers are compared in 32 bits, or in their own 64.
constexpr int32_t widen(uint8_t x) { return x; }
constexpr int32_t widen(int8_t x) { return x; }
constexpr int32_t widen(int16_t x) { return x; }
constexpr int32_t widen(int32_t x) { return x; }
constexpr int64_t widen(int64_t x) { return x; }

template <class T>
struct Narrow {  // of the integers
  template <class A>
  static constexpr T from(A x) {
    return static_cast<T>(x);
  }
};
template <>
struct Narrow<float> {
  static constexpr float from(float x) { return x; }
};
template <>
struct Narrow<double> {
  static constexpr double from(double x) { return x; }
};
template <>
struct Narrow<BFloat16> {
  static constexpr BFloat16 from(float x) {
    const uint32_t u = float_bits(x);
    const uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    return {static_cast<uint16_t>(nan ? 0x7fc0u : rounded >> 16)};
  }
};
template <>
struct Narrow<Half> {
  static constexpr Half from(float x) {
    const uint32_t u = float_bits(x);
    const uint32_t magnitude = u & 0x7fffffffu;
    // Normal results: rebias the exponent and round the 13 dropped bits to even.
    const uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
    // Subnormal results: adding 0.5 aligns the sum so that the addition itself rounds to a multiple of 2^-24.
    const uint32_t subnormal = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t h = magnitude < 0x38800000u ? subnormal : normal;
    h = magnitude >= 0x477ff000u ? 0x7c00u : h;  // 65520 and above round to infinity
    h = magnitude > 0x7f800000u ? 0x7e00u : h;
    return {static_cast<uint16_t>(h | ((u >> 16) & 0x8000u))};
  }
};

}  // namespace convext
