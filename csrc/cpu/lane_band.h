// Staging for the depthwise algorithm on NCHW images: a band of result positions and the source values that its taps
// read, a vector of planes at a time.
//
//   stage [channel][d group][h group][w group][d][row][column][lane]        lane = one plane of the block
//
// A plane is one (image, result channel); a block is as many planes as a vector has lanes. With planes along the vector
// no load of a tap is unaligned, no lane is lost to short rows or to their ends, and stride, dilation and padding cost
// nothing: they are addresses. The price is two transpositions, of the source and of the result, four shuffles for a
// vector of 16 each.
//
// Along an axis, position q and tap j read source coordinate q * step + off(j). Coordinates are staged in groups of one
// residue modulo the step, so that neighbouring positions stand next to each other; a tap is then a group and a shift.
// When the taps lie further apart than the band is long (large dilation), each tap gets a group of its own instead. The
// phases of a strided dgrad have step 1 and share one stage.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "packed.h"

namespace convext {

// Groups [group, group + residues) of a staged axis: residue r at place i holds source coordinate
// (q + i) * step + base + r.
struct StagePass {
  int64_t group, residues, base;
};

// A tap in vectors: where its weight and its source are.
struct LaneTap {
  int64_t weight, source;
};

// Where things are in a worker's workspace, in bytes.
struct LaneMemory {
  int64_t taps = 0, entries = 0, stage = 0, weight = 0, row = 0, bytes = 0;
};

struct LaneAxis {
  const GatherAxis* phases = nullptr;
  int64_t phase_count = 1;
  int64_t count = 1;      // positions of the longest phase
  int64_t size = 1;       // positions of all phases: result coordinates
  int64_t positions = 1;  // of a band; the last band may have fewer
  int64_t groups = 1;     // residues of the step, or taps
  int64_t span = 0;       // staged places beyond the band's own
  int64_t first = 0;      // smallest tap offset
  bool by_tap = false;
  std::vector<StagePass> passes;

  void stage(const std::vector<GatherAxis>& all, int64_t band_positions) {
    phases = all.data();
    phase_count = static_cast<int64_t>(all.size());
    positions = band_positions;
    int64_t taps = 0, last = 0;
    count = size = 0;
    for (const GatherAxis& g : all) {
      size += g.count;
      count = std::max(count, g.count);
      if (g.taps == 0) continue;
      const int64_t end = g.off0 + (g.taps - 1) * g.off_step;
      first = taps ? std::min({first, g.off0, end}) : std::min(g.off0, end);
      last = taps ? std::max({last, g.off0, end}) : std::max(g.off0, end);
      taps += g.taps;
    }
    groups = std::min(step(), last - first + 1);
    span = (last - first) / step();
    by_tap = groups * (positions + span) > std::max<int64_t>(taps, 1) * positions;
    passes.clear();
    if (!by_tap) {
      passes.push_back({0, groups, first});
      return;
    }
    span = 0;
    groups = 0;
    for (const GatherAxis& g : all)
      for (int64_t t = 0; t < g.taps; ++t) {
        const int64_t tap = g.tap0 + t * g.tap_step;  // of the kernel: each belongs to one phase
        passes.push_back({tap, 1, g.off0 + t * g.off_step});
        groups = std::max(groups, tap + 1);
      }
  }
  int64_t step() const { return phases[0].step; }
  int64_t out_step() const { return phases[0].out_step; }  // phase p holds result coordinates p, p + out_step, ...
  int64_t staged() const { return positions + span; }
  int64_t bands() const { return divide_up(count, positions); }
  int64_t group_of(const GatherAxis& g, int64_t t) const {
    return by_tap ? g.tap0 + t * g.tap_step : (g.off0 + t * g.off_step - first) % step();
  }
  int64_t shift_of(const GatherAxis& g, int64_t t) const {
    return by_tap ? 0 : (g.off0 + t * g.off_step - first) / step();
  }
  // Source coordinates that one pass goes through.
  int64_t coordinates() const { return by_tap ? positions * step() : staged() * step(); }
};

struct LaneBand {
  LaneAxis axis[kSpatialAxes];
  int64_t depth = 1;  // source channels of a plane

  int64_t taps = 1;  // of the kernel
  int64_t vector_bytes = 0;

  LaneBand() = default;
  // A band whose stage takes at most kStageBytes, or else one row of some columns. `phases` must outlive it.
  LaneBand(const std::vector<GatherAxis> (&phases)[kSpatialAxes], int64_t depth_, int64_t taps_, int64_t vector_bytes_)
      : depth(depth_), taps(taps_), vector_bytes(vector_bytes_) {
    const int64_t budget = kStageBytes / vector_bytes;
    for (int i = 0; i < kSpatialAxes; ++i) axis[i].stage(phases[i], 1);
    // Columns first: a tap of the kernel then finds its neighbours' source. Halving leaves no short band at the end.
    for (const int i : {2, 1, 0}) {
      const int64_t least = i == 2 ? std::min(axis[i].count, kFewestColumns) : 1;
      int64_t positions =
          std::clamp<int64_t>(axis[i].count, 1, i == 2 ? kMostColumns / axis[i].out_step() + 1 : budget);
      axis[i].stage(phases[i], positions);
      while (positions > least && vectors() > budget) {
        positions = divide_up(positions, 2);
        axis[i].stage(phases[i], positions);
      }
      if (positions < axis[i].count) break;
    }
  }
  // Vectors of one (channel, d group, h group, w group), of one channel, of the whole stage.
  int64_t group_size() const { return axis[0].staged() * axis[1].staged() * axis[2].staged(); }
  int64_t channel_size() const { return axis[0].groups * axis[1].groups * axis[2].groups * group_size(); }
  int64_t vectors() const { return depth * channel_size(); }
  int64_t bands() const { return axis[0].bands() * axis[1].bands() * axis[2].bands(); }
  // Source rows that one pass over the stage goes through, and columns that it looks at in each.
  int64_t source_rows() const { return axis[0].coordinates() * axis[1].coordinates(); }
  int64_t source_columns() const { return axis[2].coordinates(); }

  int64_t place(int64_t d, int64_t h, int64_t w) const { return (d * axis[1].staged() + h) * axis[2].staged() + w; }
  // What a tap adds to a place, in vectors.
  int64_t offset(const GatherAxis* g, int64_t channel, int64_t td, int64_t th, int64_t tw) const {
    const int64_t group = (axis[0].group_of(g[0], td) * axis[1].groups + axis[1].group_of(g[1], th)) * axis[2].groups +
                          axis[2].group_of(g[2], tw);
    return channel * channel_size() + group * group_size() +
           place(axis[0].shift_of(g[0], td), axis[1].shift_of(g[1], th), axis[2].shift_of(g[2], tw));
  }
  // Results of a band wait here, whole rows of them; wgrad keeps the band of grad in its place.
  LaneMemory memory() const {
    LaneMemory m;
    const auto put = [&](int64_t bytes) {
      const int64_t at = m.bytes;
      m.bytes += round_up(bytes, 64);
      return at;
    };
    constexpr int64_t kNumber = sizeof(int64_t);
    const int64_t pixels = std::max({kRowPixels, axis[2].positions * axis[2].out_step(),
                                     axis[0].positions * axis[1].positions * axis[2].positions});
    m.taps = put(depth * taps * 2 * kNumber);
    m.entries = put((source_columns() + 2 * source_rows()) * kNumber);
    m.stage = put(vectors() * vector_bytes);
    m.weight = put(std::max<int64_t>(depth, 2) * taps * vector_bytes);
    m.row = put(pixels * vector_bytes);
    return m;
  }

  static constexpr int64_t kRowPixels = 256;  // of results that are written at once

 private:
  static constexpr int64_t kStageBytes = 256 << 10;  // a quarter of an L2
  static constexpr int64_t kFewestColumns = 64, kMostColumns = 1024;
};

}  // namespace convext
