// The geometry of windows as integers: how a call passes it where every microsecond counts. Through the dispatcher and
// the stable ABI a list costs 0.4 us and 0.1 for each of its elements, an integer 0.07 (torch 2.13).
//
//   window    for each axis (stride - 1, dilation - 1), and from bit kModeBit on the padding mode
//   padding   for each axis (before, after)
//   kernel    for each axis (size - 1, 0)
//
// A code is a pair of kFieldBits-wide fields for each axis, the width first: axes that a problem has not are zeros, and
// so are the defaults. Values that do not fit have no code; such calls pass lists. convext/ops/coded.py reads them.
#pragma once

#include <cstdint>

#include "problem.h"

namespace convext {

inline constexpr int kFieldBits = 10;
inline constexpr int kModeBit = 2 * kFieldBits * kSpatialAxes;
inline constexpr int64_t kLargestField = (int64_t{1} << kFieldBits) - 1;       // of an unsigned field
inline constexpr int64_t kLargestSide = (int64_t{1} << (kFieldBits - 1)) - 1;  // of padding, which has a sign

struct CodePair {
  int64_t first, second;
};

// The pair of axis `axis` of kSpatialAxes, the last of which is the width.
constexpr int code_shift(int axis) { return 2 * kFieldBits * (kSpatialAxes - 1 - axis); }
constexpr int64_t encode_pair(int axis, int64_t first, int64_t second) {
  return ((first & kLargestField) | (second & kLargestField) << kFieldBits) << code_shift(axis);
}
constexpr CodePair decode_pair(int axis, int64_t code) {
  return {code >> code_shift(axis) & kLargestField, code >> (code_shift(axis) + kFieldBits) & kLargestField};
}
constexpr int64_t with_sign(int64_t field) { return field > kLargestSide ? field - kLargestField - 1 : field; }

// Stride, dilation and padding of an axis.
inline void set_geometry(ConvAxis& a, int axis, int64_t window, int64_t padding) {
  const CodePair steps = decode_pair(axis, window), sides = decode_pair(axis, padding);
  a.stride = steps.first + 1;
  a.dilation = steps.second + 1;
  a.lo = with_sign(sides.first);
  a.hi = with_sign(sides.second);
}

}  // namespace convext
