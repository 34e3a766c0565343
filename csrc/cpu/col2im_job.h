// How strided dgrad is cut for the col2im algorithm (col2im.h).
#pragma once

#include <algorithm>

#include "packed.h"

namespace convext {

// Most taps along the last axis, and most of the others together: the fold keeps a table of each.
inline constexpr int64_t kMostCol2imTaps = 64;

// A unit computes `channels` result channels of a group, either of whole images or of a band of one image.
struct Col2imShape {
  int64_t channels = 1;
  int64_t images = 1;  // of a unit; 1 where an image is cut into bands
  int cut = 0;         // the axis that bands cut: the first that is longer than one
  int64_t band = 0;    // result positions of a band along it, a multiple of the stride unless it is all of them
  bool whole(const ConvProblem& p) const { return band >= p.axis[cut].input; }
};

// Source positions [first, last) of an axis that reach result positions [begin, end).
struct SourceRange {
  int64_t first, last;
  SourceRange(const ConvAxis& a, int64_t begin, int64_t end) {
    const int64_t reach = begin + a.lo - a.dilation * (a.kernel - 1);
    first = std::clamp<int64_t>(reach <= 0 ? 0 : divide_up(reach, a.stride), 0, a.output);
    last = end + a.lo <= 0 ? first : std::clamp<int64_t>((end - 1 + a.lo) / a.stride + 1, first, a.output);
  }
  // The most that any range of `length` positions has.
  static int64_t most(const ConvAxis& a, int64_t length) {
    return std::min(a.output, (length - 1 + a.dilation * (a.kernel - 1)) / a.stride + 1);
  }
};

// Per-thread workspace, in elements of the sum type.
struct Col2imWorkspace {
  int64_t weight, image, sums, phases, line;
  int64_t pitch;  // between rows of sums, off the powers of two that collide in a cache
  Col2imWorkspace(const ConvProblem& p, const Col2imShape& shape, const Tile& tile) {
    int64_t pixels = shape.images;
    for (int i = 0; i < kSpatialAxes; ++i)
      pixels *= i == shape.cut && !shape.whole(p) ? SourceRange::most(p.axis[i], shape.band) : p.axis[i].output;
    const int64_t rows = shape.channels * kernel_taps(p), slack = tile.columns;
    const ConvAxis& w = p.axis[2];
    const int64_t positions = shape.cut == 2 ? shape.band : w.input;
    pitch = round_up(pixels, tile.columns) + 16;
    weight = round_up(kReductionBlock * rows, 16) + slack;
    image = kReductionBlock * tile.columns;
    sums = rows * pitch + slack;
    phases = w.stride * phase_pitch(w, positions, tile);
    line = round_up(positions, tile.columns) + 2 * slack;
  }
  // Room for the positions of one residue modulo the stride.
  static int64_t phase_pitch(const ConvAxis& w, int64_t positions, const Tile& tile) {
    return round_up(divide_up(positions, w.stride), tile.columns) + tile.columns;
  }
  int64_t elements() const { return weight + image + sums + phases + line; }
};

}  // namespace convext
