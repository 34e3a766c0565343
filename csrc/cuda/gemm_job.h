// A convolution as a matrix product, the same for all three operators:
//
//   C[m, n] = sum over k of A[m, k] * B[n, k]      fprop, dgrad        wgrad
//     m                                            result channel      output channel
//     n                                            result pixel        (tap, input channel)
//     k                                            (tap, channel)      output pixel
//     A                                            weight              grad_output
//     B                                            source image        input
//
// No matrix exists in memory. n and k are numbers of four digits: a pixel is (sample, d, h, w), a tap and its channel
// are (d, h, w, channel). A, C: an element's offset is linear in the digits. B, the image: n and k add up to an offset
// (of sample and channel) and to coordinates, which may lie in the padding.
#pragma once

#include "../problem.h"
#include "divisor.h"

namespace convext::cuda {

inline constexpr int kDigits = 4;

template <class Offset>
struct Digits {
  Divisor<Offset> size[kDigits];  // the first one's is not used

  constexpr void of(Offset number, Offset (&digit)[kDigits]) const {
    for (int i = kDigits - 1; i > 0; --i) {
      const Offset rest = size[i].quotient(number);
      digit[i] = number - rest * size[i].value();
      number = rest;
    }
    digit[0] = number;
  }
};

template <class Offset>
struct Linear {
  Offset base = 0, stride[kDigits] = {0, 0, 0, 0};

  constexpr Offset at(const Offset (&digit)[kDigits]) const {
    Offset sum = base;
    for (int i = 0; i < kDigits; ++i) sum += digit[i] * stride[i];
    return sum;
  }
};

// The part of the image's coordinates that n or k brings: axis i is digit i of a tap, digit i + 1 of a pixel; the step
// of the other one is zero.
template <class Offset>
struct Coordinates {
  Offset start[kSpatialAxes] = {0, 0, 0};
  Offset tap_step[kSpatialAxes] = {0, 0, 0}, pixel_step[kSpatialAxes] = {0, 0, 0};

  constexpr Offset at(const Offset (&digit)[kDigits], int axis) const {
    return start[axis] + digit[axis] * tap_step[axis] + digit[axis + 1] * pixel_step[axis];
  }
};

template <class Offset>
struct GemmJob {
  Offset rows, columns, depth;  // of one group
  Offset groups;
  // The tiles of C, and the pieces of the depth whose sums a second kernel adds up (one: there is none).
  Offset row_tiles, column_tiles, slices, slice_depth;
  Digits<Offset> n, k;
  Offset a_group, a_row, b_group, c_group, c_row;
  Linear<Offset> a_k, b_n, b_k, c_n;
  Coordinates<Offset> n_at, k_at;
  Offset extent[kSpatialAxes], source_stride[kSpatialAxes];  // of the image
  PaddingMode mode;
  bool a_along_k, b_along_k;     // whether neighbouring threads read neighbouring k, or rows
  bool c_by_runs, c_along_rows;  // whether C is written 16 bytes at a time, along m or along n

  constexpr int64_t blocks() const { return static_cast<int64_t>(row_tiles) * column_tiles * groups * slices; }
};

}  // namespace convext::cuda
