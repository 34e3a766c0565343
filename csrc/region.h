// fprop and dgrad as one gather: a region is a regular grid of result positions that share one set of taps.
//
//   result[n, m, out0 + q * out_step] = sum over taps j, channels c of weight[m, c, tap(j)] * source[n, c, x(q, j)]
//   tap(j)  = tap0 + j * tap_step
//   x(q, j) = q * step + off0 + j * off_step
//
// fprop is one region. dgrad with stride s has one region for each phase of the result modulo s, in which only every
// s-th tap contributes: a dense problem of stride one, without stuffed zeros and without a scatter. With a padding mode
// other than zeros, result positions near the border also collect what their padded images received; they form regions
// of their own that visit all taps ("folded" axes).
#pragma once

#include <cstdint>
#include <vector>

#include "problem.h"

namespace convext {

struct GatherAxis {
  int64_t count = 1;                         // positions q
  int64_t out0 = 0, out_step = 1;            // their result coordinates
  int64_t taps = 1, tap0 = 0, tap_step = 1;  // contributing kernel indices
  int64_t step = 1, off0 = 0, off_step = 0;  // source coordinates
  int64_t extent = 1;                        // size of the source
  bool folded = false;                       // step, off0 and off_step are unused: every padded image counts
};

struct Region {
  GatherAxis axis[kSpatialAxes];

  int64_t positions() const { return axis[0].count * axis[1].count * axis[2].count; }
  int64_t taps() const { return axis[0].taps * axis[1].taps * axis[2].taps; }
  bool folded() const { return axis[0].folded || axis[1].folded || axis[2].folded; }
};

// The single region of fprop; wgrad reads its input through the same one.
Region fprop_region(const ConvProblem& p);

// dgrad along one axis: the phases of the result, and with a padding mode its borders. Regions are their products.
std::vector<GatherAxis> dgrad_axes(PaddingMode mode, const ConvAxis& a);

// The regions of dgrad, which together cover every result position once.
std::vector<Region> dgrad_regions(const ConvProblem& p);

// How many regions dgrad_regions would make.
int64_t count_dgrad_regions(const ConvProblem& p);

// A region in boxes of positions ("zones"), each with the taps that read the source, and not zeros beside it, from all
// of its positions: what a zone leaves out reads zeros alone. For regions that are not folded, of a source padded by
// zeros.
//
//   an axis of 28 pixels, three taps,   pixel   0 .. 11   12 .. 15   16 .. 27
//   dilation and padding 12             taps    1, 2      0, 1, 2    0, 1
std::vector<Region> zones_of(const Region& region);

// The pixels of a gradient at which a tap of fprop reads the source, and what it reads there: both have one tap, and as
// many positions. For sources padded by zeros.
struct TapBox {
  Region grad, source;
};
std::vector<TapBox> tap_boxes(const ConvProblem& p);

}  // namespace convext
