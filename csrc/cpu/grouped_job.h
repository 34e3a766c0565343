// How grouped layers are cut whose groups fill vectors with channels (grouped.h, grouped_wgrad.h).
#pragma once

#include <algorithm>
#include <vector>

#include "band.h"

namespace convext {

// Vectors of result channels that a tile sums at once, and most channels of a group.
inline constexpr int64_t kMostGroupedVectors = 3, kMostGroupedChannels = 64;

// One row of a plane: `len` elements from `from` to the stage's place `to`.
struct RowCopy {
  int64_t to, from, len;
};
// At most so many make up a stage that a band covers whole; a padding mode other than zeros copies borders one by one.
inline int64_t copies_of_plane(const Band& band, PaddingMode mode) {
  const int64_t rows = band.w.groups * band.h.groups * (band.rows + band.h.span);
  return mode == PaddingMode::kZeros ? rows : rows * (1 + band.pitch);
}

// One image of one group is staged whole, padded, with the positions of a residue modulo the stride together (band.h),
// so that each tap is a constant offset; the phases of a strided dgrad share one stage.
struct GroupedShape {
  Region staged;  // what BandStager reads: one tap
  Band band;
  PaddingMode mode = PaddingMode::kZeros;  // of coordinates outside of the source
  int64_t depth = 0, taps = 0;             // channels of the source; taps of the kernel
  int64_t chunk = 1;                       // channels of a block of the reduction, with all taps
  int64_t rows = 0, vectors = 0;           // result channels, and vectors of them
  int64_t pixels = 0, width = 0;           // of the result; of wgrad, of grad
  bool holds_weight = false;               // a group's packed weight stays in L2, instead of one block of it

  GroupedShape() = default;
  // wgrad's are those of fprop.
  GroupedShape(const ConvProblem& p, ConvOperator op, const std::vector<Region>& regions, int64_t lanes,
               int64_t sum_bytes)
      : taps(kernel_taps(p)) {
    const bool dgrad = op == ConvOperator::kDgrad;
    if (!dgrad) mode = p.mode;
    depth = dgrad ? p.out_channels : p.in_channels;
    rows = dgrad ? p.in_channels : p.out_channels;
    vectors = divide_up(rows, lanes);
    width = dgrad ? p.axis[2].input : p.axis[2].output;
    pixels = dgrad ? input_pixels(p) : output_pixels(p);
    constexpr int64_t kHeldWeightBytes = 128 << 10;
    StagedAxis staged_axis[kSpatialAxes];
    for (int i = 0; i < kSpatialAxes; ++i) staged_axis[i] = stage_axis(regions, i);
    band.h = staged_axis[1], band.w = staged_axis[2];
    band.rows = staged.axis[1].count, band.columns = staged.axis[2].count;
    band.pitch = band.columns + band.w.span;
    band.group_size = (band.rows + band.h.span) * band.pitch;
    band.channel_size = band.w.groups * band.h.groups * band.group_size;
    band.whole = true;
    chunk = balanced(depth, std::max<int64_t>(1, kReductionBlock / std::max<int64_t>(1, taps)));
    holds_weight = depth * taps * rows * sum_bytes <= kHeldWeightBytes;
  }

  // What a tap adds to the place of a result position in the stage.
  int64_t offset(const Region& r, int64_t channel, int64_t h_tap, int64_t w_tap) const {
    const GatherAxis &h = r.axis[1], &w = r.axis[2];
    const int64_t y = h.off0 + h_tap * h.off_step - band.h.first, x = w.off0 + w_tap * w.off_step - band.w.first;
    return channel * band.channel_size + (x % w.step * band.h.groups + y % h.step) * band.group_size +
           y / h.step * band.pitch + x / w.step;
  }

  int64_t copy_bytes() const {
    return round_up(copies_of_plane(band, mode) * static_cast<int64_t>(sizeof(RowCopy)), 64);
  }
  int64_t stage_elements() const { return depth * band.channel_size + kBandSlack; }
  int64_t weight_elements() const { return (holds_weight ? depth : chunk) * taps * rows + kBandSlack; }
  int64_t sum_elements(int64_t lanes) const { return vectors * pixels * lanes; }

 private:
  StagedAxis stage_axis(const std::vector<Region>& regions, int i) {
    GatherAxis& to = staged.axis[i];
    StagedAxis result;
    int64_t last = 0;
    bool found = false;
    to.count = 0;
    for (const Region& r : regions) {
      const GatherAxis& g = r.axis[i];
      to.count = std::max(to.count, g.count);
      to.step = g.step, to.extent = g.extent;
      if (g.taps == 0) continue;
      const int64_t end = g.off0 + (g.taps - 1) * g.off_step, low = std::min(g.off0, end), high = std::max(g.off0, end);
      result.first = found ? std::min(result.first, low) : low;
      last = found ? std::max(last, high) : high;
      found = true;
    }
    result.groups = std::min(to.step, last - result.first + 1);
    result.span = (last - result.first) / to.step;
    return result;
  }
};

// Per-thread workspaces, in bytes: numbers first, then elements of the sum type.
struct GroupedWorkspace {
  int64_t copies, terms, stage, weight, sums, bytes;
  GroupedWorkspace(const GroupedShape& s, int64_t lanes, int64_t sum_bytes)
      : copies(0),
        terms(s.copy_bytes()),
        stage(terms + round_up(2 * s.chunk * s.taps * static_cast<int64_t>(sizeof(int64_t)), 64)),
        weight(stage + round_up(s.stage_elements() * sum_bytes, 64)),
        sums(weight + round_up(s.weight_elements() * sum_bytes, 64)),
        bytes(sums + round_up(s.sum_elements(lanes) * sum_bytes, 64)) {}
};
struct GroupedWgradWorkspace {
  int64_t copies, offsets, stage, grad, sums, bytes;
  GroupedWgradWorkspace(const GroupedShape& s, int64_t lanes, int64_t sum_bytes)
      : copies(0),
        offsets(s.copy_bytes()),
        stage(offsets + round_up(s.taps * static_cast<int64_t>(sizeof(int64_t)), 64)),
        grad(stage + round_up(s.stage_elements() * sum_bytes, 64)),
        sums(grad + round_up((s.pixels + lanes) * lanes * sum_bytes, 64)),
        bytes(sums + round_up(s.depth * s.taps * lanes * sum_bytes, 64)) {}
};

// Of depthwise layers by rows (depthwise_rows.h), which stage planes alike.
struct DepthwiseRowsWorkspace {
  static constexpr int64_t kPassBytes = 48, kTileRows = 8;
  int64_t copies, passes, stage, grad, sums, bytes;
  DepthwiseRowsWorkspace(const GroupedShape& s, bool wgrad, int64_t lanes, int64_t sum_bytes)
      : copies(0),
        passes(s.copy_bytes()),
        stage(passes + round_up(s.depth * s.taps * kPassBytes, 64)),
        grad(stage + round_up(s.stage_elements() * sum_bytes, 64)),
        sums(grad + (wgrad ? round_up(s.pixels * sum_bytes, 64) : 0)),
        bytes(sums + (wgrad ? round_up(s.taps, lanes) * (lanes + 1) : kTileRows * lanes) * sum_bytes) {}
};

}  // namespace convext
