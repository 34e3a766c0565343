// Staging for the correlation and banded algorithms: a band of result rows and the source values that its
// taps read, laid out so that every tap is one constant offset.
//
//   stage [channel][depth tap][w group][h group][row][column]
//
// Along an axis, position q and tap j read source coordinate q * step + off(j). Coordinates are staged in groups of one
// residue modulo the step, so that neighbouring positions stand next to each other; tap j is then a group and a shift.
// When the taps lie further apart than the band is long (large dilation), each tap gets a group of its own instead.
//
//   result (row r, column c of the band) at f = r * pitch + c   reads   stage[offset(tap) + f]
//
// for all taps alike: the band is one long filter, whatever the stride, dilation and padding.
#pragma once

#include "packed.h"

namespace convext {

struct StagedAxis {
  int64_t groups = 1;  // residues of the step, or taps
  int64_t span = 0;    // staged positions beyond the band's own
  bool by_tap = false;
  int64_t first = 0;  // smallest tap offset

  StagedAxis() = default;
  StagedAxis(const GatherAxis& g, int64_t positions) {
    const int64_t last_off = g.off0 + (g.taps - 1) * g.off_step;
    first = std::min(g.off0, last_off);
    groups = std::min(g.step, std::max(g.off0, last_off) - first + 1);
    span = (std::max(g.off0, last_off) - first) / g.step;
    by_tap = groups * (positions + span) > g.taps * positions;
    if (by_tap) groups = g.taps, span = 0;
  }
  int64_t group_of(const GatherAxis& g, int64_t tap) const {
    return by_tap ? tap : (g.off0 + tap * g.off_step - first) % g.step;
  }
  int64_t shift_of(const GatherAxis& g, int64_t tap) const {
    return by_tap ? 0 : (g.off0 + tap * g.off_step - first) / g.step;
  }
  // Source coordinate of staged position i of a group, for a band that starts at position q.
  int64_t source(const GatherAxis& g, int64_t group, int64_t q, int64_t i) const {
    return (q + i) * g.step + (by_tap ? g.off0 + group * g.off_step : first + group);
  }
  // Of the staged positions of all `positions`: how many lie before the source and as many behind it, in every group.
  int64_t beside(const GatherAxis& g, int64_t positions) const {
    int64_t fewest = positions + span;
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t x = source(g, group, 0, 0), behind = divide_up(std::max<int64_t>(0, g.extent - x), g.step);
      fewest = std::min({fewest, divide_up(std::max<int64_t>(0, -x), g.step), positions + span - behind});
    }
    return std::max<int64_t>(0, fewest);
  }
};

inline constexpr int64_t kFewestColumns = 64;

struct Band {
  int64_t rows = 1, columns = 1;  // result positions; bands at the end may have fewer
  StagedAxis h, w;
  int64_t pitch = 1;         // between staged rows, and between rows of the result
  int64_t shared = 0;        // staged columns behind a row that are those before the next one
  int64_t group_size = 1;    // elements of one (channel, depth tap, w group, h group)
  int64_t channel_size = 1;  // elements of one channel
  bool whole = false;        // one band covers a slice of the region

  Band() = default;
  // The longest band of at most `most_rows` whose stage takes at most `budget` elements, or a single row.
  // With `shares_zeros` what is beside the source are zeros, and those behind a row also stand before the next.
  Band(const Region& r, int64_t depth, int64_t budget, int64_t most_rows = 64, int64_t most_columns = 1024,
       bool shares_zeros = false) {
    const GatherAxis *gd = &r.axis[0], *gh = &r.axis[1], *gw = &r.axis[2];
    // Columns are cut so that a row of the stage fits, and not evenly: the workspace must not depend on the remainder.
    columns = std::min(gw->count, most_columns);
    w = StagedAxis(*gw, columns);
    h = StagedAxis(*gh, 1);
    const int64_t staged_rows = std::max<int64_t>(1, depth) * gd->taps * w.groups * h.groups * (1 + h.span);
    columns = std::min(columns, std::max<int64_t>(kFewestColumns, budget / std::max<int64_t>(1, staged_rows) - w.span));
    w = StagedAxis(*gw, columns);
    if (shares_zeros && columns == gw->count) shared = w.beside(*gw, columns);
    pitch = columns + w.span - shared;
    // The span of the rows depends on by_tap, which depends on the rows: settle it for a tall band first.
    rows = balanced(gh->count, most_rows);
    for (int attempt = 0; attempt < 2; ++attempt) {
      h = StagedAxis(*gh, rows);
      const int64_t row_size = std::max<int64_t>(1, depth) * gd->taps * w.groups * h.groups * pitch;
      const int64_t fitting = std::max<int64_t>(1, budget / std::max<int64_t>(1, row_size) - h.span);
      rows = std::min(rows, balanced(gh->count, fitting));
    }
    h = StagedAxis(*gh, rows);
    whole = rows == gh->count && columns == gw->count;
    group_size = (rows + h.span) * pitch;
    channel_size = gd->taps * w.groups * h.groups * group_size;
  }
  // Elements from the first to the last result of a band with so many rows and columns: under every tap they stay
  // within the stage.
  int64_t length(int64_t band_rows, int64_t band_columns) const { return (band_rows - 1) * pitch + band_columns; }
  int64_t stage_elements(int64_t depth) const { return depth * channel_size; }
  int64_t flat_elements() const { return rows * pitch; }
  int64_t row_bands(const Region& r) const { return divide_up(r.axis[1].count, rows); }
  int64_t column_bands(const Region& r) const { return divide_up(r.axis[2].count, columns); }
  int64_t count(const Region& r) const { return r.axis[0].count * row_bands(r) * column_bands(r); }

  // Offset of a tap of a channel in the stage.
  int64_t offset(const Region& r, int64_t channel, int64_t d, int64_t h_tap, int64_t w_tap) const {
    const GatherAxis *gh = &r.axis[1], *gw = &r.axis[2];
    const int64_t group = (d * w.groups + w.group_of(*gw, w_tap)) * h.groups + h.group_of(*gh, h_tap);
    return channel * channel_size + group * group_size + h.shift_of(*gh, h_tap) * pitch + w.shift_of(*gw, w_tap);
  }
};

// Above this an algorithm that stages declines: its workspace would grow with the kernel.
inline constexpr int64_t kMostStageBytes = 1 << 20;
inline constexpr int64_t kMostVectorBytes = 64;
// Elements a vector may touch beyond a stage or a flat result.
inline constexpr int64_t kBandSlack = 16 * 8;

// The banded algorithm stages the channels of one reduction block in L2 and keeps its partial sums there too.
inline constexpr int64_t kBlockBandBytes = 128 << 10;
inline constexpr int64_t kBandPartialBytes = 256 << 10;
// Stages that are kept for other result planes, and most bytes of them: half of L2.
inline constexpr int64_t kMostKeptStages = 32, kKeptStageBytes = 512 << 10;

// A single tap to at most so many result channels, over at least so many pixels, of elements that are multiplied where
// they lie, sums blocks of kStreams channels, in bands of kStreamColumns. Such planes are often a power of two apart;
// of 64 a cache drops the lines that were asked for before they are reached, of eight it does not. Smaller planes stay
// in the caches and lose (64 to 4 channels, 128 x 128, Zen 4: 88 us against 141).
inline constexpr int64_t kMostStreamedRows = 8, kLeastStreamed = 1 << 16, kStreams = 8, kStreamColumns = 1024;

// How the banded algorithm covers a region: `rows` result channels, `most_rows` pixel rows a band at most.
//
// A reduction of several blocks is cut by depth taps first: a block then reads one plane of each channel, or, where
// that lies beside the image, need not be multiplied. Where the stages of all blocks fit, they are kept for the next
// result plane, most of whose source planes are the same ones.
struct BandedRegion {
  static constexpr int64_t kLine = 64;  // bytes of a cache line
  Reduction reduction;
  Region plane;  // the region under one depth tap of a block, the first, or all of them
  Band band;
  int64_t channel_distance = 0;  // in the stage: an odd number of cache lines, which then fill all sets of a cache
  int64_t distance = 0;  // between the partial sums of two channels, off the powers of two that collide in a cache
  int64_t most_stage_bytes = kBlockBandBytes;
  int64_t stages = 1;  // that are kept: one for each block, or a single one
  BandedRegion() = default;
  BandedRegion(const Region& r, int64_t rows, int64_t depth, int64_t sum_bytes, bool widened, int64_t most_rows,
               bool zeros)
      : reduction(r.taps(), depth, false), plane(r) {
    if (reduction.blocks() > 1 && r.axis[0].taps > 1) {
      plane.axis[0].taps = 1;
      reduction = Reduction::by_part(r.taps(), depth, plane.taps());
    }
    constexpr int64_t kMostColumns = 256, kTile = 32;
    const int64_t count = r.axis[2].count;
    if (!widened && r.taps() == 1 && rows <= kMostStreamedRows && count >= kLeastStreamed && depth > 0) {
      reduction.channel_chunk = balanced(depth, kStreams);
      band = banded(rows, kStreamColumns, sum_bytes, most_rows, zeros);
    } else if (count <= kMostColumns) {
      band = banded(rows, count, sum_bytes, most_rows, zeros);
    } else {  // rows are cut into whole tiles, as long as is best for the share of what is staged that is multiplied
      constexpr double kBetter = 1.05;
      double best = 0;
      for (int64_t most = kMostColumns; most >= kTile; most -= kTile) {
        const Band cut = banded(rows, most, sum_bytes, most_rows, zeros);
        const auto share = static_cast<double>(cut.rows * cut.columns) / static_cast<double>(cut.group_size);
        // A single tap multiplies all that it stages; what counts then is that the last band of a row is about as long
        // as the others, for threads take turns by bands of all planes.
        const auto even = static_cast<double>(count) / static_cast<double>(round_up(count, cut.columns));
        if (plane.taps() == 1 ? even > kBetter * best : share > best)
          band = cut, best = plane.taps() == 1 ? even : share;
      }
    }
    channel_distance = (divide_up((band.channel_size + band.shared) * sum_bytes, kLine) | 1) * kLine / sum_bytes;
    distance = round_up(band.flat_elements(), 64) + 16;
    if (by_plane(r)) most_stage_bytes = kKeptStageBytes;
    const int64_t blocks = reduction.blocks();
    if (by_plane(r) && blocks <= kMostKeptStages && blocks * stage_size() * sum_bytes <= kKeptStageBytes)
      stages = blocks;
  }
  // A band of at most so many rows and columns.
  Band banded(int64_t channels, int64_t columns, int64_t sum_bytes, int64_t most_rows, bool zeros) const {
    const int64_t pitch = columns + StagedAxis(plane.axis[2], columns).span;
    const int64_t fitting = kBandPartialBytes / sum_bytes / std::max<int64_t>(1, channels * pitch);
    return Band(plane, reduction.channel_chunk, kBlockBandBytes / sum_bytes, std::clamp<int64_t>(fitting, 1, most_rows),
                columns, zeros);
  }
  bool by_plane(const Region& r) const { return plane.axis[0].taps < r.axis[0].taps; }
  int64_t stage_size() const { return reduction.channel_chunk * channel_distance + kBandSlack; }
  int64_t stage_elements() const { return stages * stage_size(); }
  // A cut region gets the budgets, so that the workspace of large images does not depend on how they are cut.
  int64_t workspace_elements(int64_t rows, int64_t sum_bytes) const {
    const int64_t needed = stage_elements() + rows * distance + 64;
    const int64_t apart = reduction.channel_chunk * 2 * kLine / sum_bytes;  // what channel_distance adds at most
    const int64_t budget = (most_stage_bytes + kBandPartialBytes) / sum_bytes + apart + kBandSlack + rows * 80 + 64;
    return band.whole ? needed : std::max(needed, budget);
  }
};

}  // namespace convext
