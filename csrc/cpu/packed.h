// The packed algorithm's shared vocabulary: how a reduction is cut into blocks, a side into panels, and what a job is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../epilogue.h"
#include "../region.h"

namespace convext {

// Terms summed in registers before they are added to the result: B's panel of 256 x 32 floats fills two thirds of a
// 48 KiB L1, and a rounding error grows with the length of a chain, so longer would be worse on both counts.
inline constexpr int64_t kReductionBlock = 256;

inline int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
inline int64_t round_up(int64_t n, int64_t to) { return divide_up(n, to) * to; }

// The size that cuts n into equal parts of at most `most`.
inline int64_t balanced(int64_t n, int64_t most) { return n <= most ? n : divide_up(n, divide_up(n, most)); }

// n rows cut into panels of at most `most` that differ by at most one row.
struct Panels {
  int64_t count = 0, base = 0, extra = 0;
  Panels(int64_t n, int64_t most) {
    count = divide_up(n, most);
    if (count > 0) base = n / count, extra = n % count;
  }
  int64_t start(int64_t panel) const { return panel * base + std::min(panel, extra); }
  int64_t rows(int64_t panel) const { return base + (panel < extra); }
};

// Taps [tap, tap + taps) and channels [channel, channel + channels) of a reduction over (channel, tap).
struct Block {
  int64_t tap, taps, channel, channels;
  int64_t length() const { return taps * channels; }
};

// Whether lines so many bytes apart share a set of L1, which then drops most of many before they are read again.
inline bool share_a_set(int64_t bytes) { return bytes % 4096 == 0; }

// A reduction over depth channels and a number of taps, in blocks of at most kReductionBlock terms; the innermost index
// is the tap for NCHW sources (neighbouring taps share cache lines) and the channel for channels_last (they are
// contiguous). The order depends on one sample's shape and layout only: it fixes every bit of the result.
struct Reduction {
  int64_t taps = 0, depth = 0;
  bool channels_inner = false;
  bool taps_inner = false;  // of the blocks' order
  int64_t tap_chunk = 1, channel_chunk = 1;

  Reduction() = default;
  Reduction(int64_t taps_, int64_t depth_, bool channels_inner_)
      : taps(taps_), depth(depth_), channels_inner(channels_inner_) {
    if (taps * depth == 0) return;
    if (channels_inner) {
      channel_chunk = balanced(depth, kReductionBlock);
      tap_chunk = balanced(taps, std::max<int64_t>(1, kReductionBlock / channel_chunk));
    } else {
      tap_chunk = balanced(taps, kReductionBlock);
      channel_chunk = balanced(depth, std::max<int64_t>(1, kReductionBlock / tap_chunk));
    }
  }
  // Blocks of some channels under the taps of a part, of so many neighbours, in the order of the parts.
  static Reduction by_part(int64_t taps, int64_t depth, int64_t part) {
    Reduction reduction(part, depth, false);
    reduction.taps = taps;
    return reduction;
  }
  // Blocks of some channels under a single tap; the taps of a chunk of channels follow each other.
  static Reduction by_tap(int64_t taps, int64_t depth) {
    Reduction reduction(taps, depth, true);
    reduction.tap_chunk = 1;
    reduction.taps_inner = true;
    return reduction;
  }
  // An empty reduction still has one block, of length zero, which writes the bias.
  int64_t blocks() const {
    return taps * depth == 0 ? 1 : divide_up(taps, tap_chunk) * divide_up(depth, channel_chunk);
  }
  Block block(int64_t index) const {
    if (taps * depth == 0) return {0, 0, 0, 0};
    if (taps_inner) {
      const int64_t channel = index / taps * channel_chunk;
      return {index % taps, 1, channel, std::min(channel_chunk, depth - channel)};
    }
    const int64_t across = divide_up(depth, channel_chunk);
    const int64_t tap = index / across * tap_chunk, channel = index % across * channel_chunk;
    return {tap, std::min(tap_chunk, taps - tap), channel, std::min(channel_chunk, depth - channel)};
  }
  int64_t length() const { return taps * depth; }
  // Terms in the blocks before `b`.
  int64_t before(const Block& b) const { return b.tap * depth + b.taps * b.channel; }
  int64_t longest() const { return tap_chunk * channel_chunk; }
  // Where term (channel, tap) of a block stands: channel * channel_step + tap * tap_step.
  int64_t channel_step(const Block& b) const { return channels_inner ? 1 : b.taps; }
  int64_t tap_step(const Block& b) const { return channels_inner ? b.channels : 1; }
};

// Most pixels of a unit whose pixels are rows.
inline constexpr int64_t kMostUnitPixels = 512;

struct Tile {
  int64_t rows = 0, columns = 0;
  bool operator==(const Tile&) const = default;
};

// How the result of one region is cut into units of work. Units touch disjoint results, so their number may follow the
// threads without changing a bit.
struct UnitShape {
  bool pixels_are_rows = false;  // C[pixel, channel] for channels_last and small images, else C[channel, pixel]
  int64_t pixels = 0;            // pixels of a unit
  int64_t panels = 0;            // weight panels of a unit
  // Deep layers on small images: every unit covers all pixels, so each weight panel has one reader, which packs it into
  // L1 as it needs it. The weight then crosses memory once instead of three times.
  bool packs_own_weight = false;
  // Units read the weight as it lies (line_product.h): fprop's rows lie in the order of the reduction.
  bool weight_lines = false;
  // The weight's rows are terms instead, of neighbouring result channels: dgrad's of one tap.
  bool lines_across = false;
  // Units keep a block of the weight's lines for one tile of pixels after the other: of a single tap, in their order.
  bool holds_weight = false;
  // bfloat16: dgrad's lines are of the taps of a result channel (pack_tap_lines).
  bool tap_lines = false;
  // bfloat16, with lines or without: the pairs of a panel are neighbours of fprop's rows, not channels under one tap.
  bool neighbour_pairs = false;
  // Whether units read the weight itself, and no packed copy of it.
  bool reads_weight() const { return packs_own_weight || weight_lines; }
};

// Elements of one side of a region's packed weight: result channels, padded to whole tiles where they are columns.
inline int64_t packed_channels(const UnitShape& shape, const Tile& tile, int64_t channels) {
  return shape.pixels_are_rows ? round_up(channels, tile.columns) : channels;
}

struct ConvJob;

// A region of a job with its place in the packed weight and in the numbering of pack steps and units.
struct RegionJob {
  const Region* region = nullptr;
  Reduction reduction;
  int64_t pixels = 0;         // batch * positions
  int64_t pixel_blocks = 0;   // units along the pixels
  int64_t packed_offset = 0;  // in elements of the sum type
  int64_t first_pack = 0, first_unit = 0;
};

// A part of a zone's pixels times some panels of the weight; `before` pixels of other zones are of the same unit.
struct ZonePart {
  const RegionJob* zone;
  int64_t group, first_pixel, pixels, first_panel, panels, before;
};

// fprop or dgrad as a gather: result[n, m, q] = sum over channel, tap of weight[m, channel, tap] * source, and what
// follows it.
struct ConvJob {
  const ConvProblem* problem = nullptr;
  Tile tile;
  UnitShape shape;
  int64_t rows = 0, depth = 0;  // result and source channels of one group
  int64_t panel_depth = 0;      // channels of the reduction: of the source, or pairs of them
  int64_t band_rows = 1;        // most result rows of a band, for the banded algorithm
  const void* source = nullptr;
  Strides source_strides;
  PaddingMode source_mode = PaddingMode::kZeros;  // of dgrad always: its padding modes are folded regions
  const void* weight = nullptr;
  int64_t weight_group = 0, weight_row = 0, weight_depth = 0, weight_tap[kSpatialAxes] = {0, 0, 0};
  Epilogue epilogue;
  void* result = nullptr;
  Strides result_strides;
  // Shared workspace: the bias widened and padded to whole tiles, and the packed weight of the current wave.
  void* packed_bias = nullptr;
  void* packed_weight = nullptr;
  // The regions are zones of one, whose blocks are of one tap: they share its weight, packed in the order of its taps.
  bool zones = false;
  int64_t zone_parts = 1;  // of each zone's pixels: units along them
  // A wave is as many regions as one packed copy of the weight has room for.
  std::vector<RegionJob> wave;
  int64_t pack_count = 0, unit_count = 0;

  // Room for a group's bias: whole tiles where the channels are columns.
  int64_t bias_channels() const { return packed_channels(shape, tile, rows); }
  int64_t weight_panels() const { return divide_up(rows, shape.pixels_are_rows ? tile.columns : tile.rows); }
  int64_t channel_blocks() const { return divide_up(weight_panels(), shape.panels); }
};

// Elements beyond the last panel of an image that gathering it may overwrite: a vector.
inline constexpr int64_t kPanelSpill = 16;

// Per-thread workspace of a ConvJob, in elements of the sum type.
struct ConvWorkspace {
  int64_t image, partial, widened, weight;
  ConvWorkspace(const UnitShape& shape, const Tile& tile)
      : image(kReductionBlock * (shape.holds_weight ? tile.columns : round_up(shape.pixels, tile.columns)) +
              kPanelSpill),
        partial(round_up(shape.pixels, tile.columns) * shape.panels *
                (shape.pixels_are_rows ? tile.columns : tile.rows)),
        widened(kReductionBlock * tile.columns + kPanelSpill),
        weight(shape.packs_own_weight ? kReductionBlock * tile.columns
               : shape.holds_weight   ? kReductionBlock * line_rows(shape, tile) * shape.panels
               : shape.weight_lines
                   // One is multiplied, the next copied; or one of lines of taps, half of which may be empty.
                   ? kReductionBlock * line_rows(shape, tile) * 2
                   : 0) {}
  // Rows of a panel of lines: lines across are whole vectors, half as wide as a tile.
  static int64_t line_rows(const UnitShape& shape, const Tile& tile) {
    return shape.lines_across ? round_up(tile.rows, tile.columns / 2) : tile.rows;
  }
  int64_t elements() const { return image + partial + widened + weight; }
};

// fprop by inner products: a unit of work is (group, block of result channels, block of samples), whose rows stay in
// half of an L2 of 1 MiB. Where they are widened a block has more of them, for each is widened once for the others.
struct InnerProductShape {
  int64_t samples = 1, filters = 1;  // of a block
  int64_t vectors = 1;               // of a row, that are summed in registers
  int64_t copied = 1;                // of these: where a row is read in place the last, which ends with zeros
  static constexpr InnerProductShape of(bool in_place) {
    constexpr int64_t kWidened = kReductionBlock / 4;
    return in_place ? InnerProductShape{12, 16, kReductionBlock, 1} : InnerProductShape{48, 32, kWidened, kWidened};
  }
  int64_t units(const ConvProblem& p, int64_t rows) const {
    return p.groups * divide_up(rows, filters) * divide_up(p.batch, samples);
  }
};

// dgrad by combinations of rows: results of a unit, a multiple of what a tile has at any level.
inline constexpr int64_t kCombinedResults = 768;

// wgrad by correlation and by outer products: a unit of work is (slice, group, block of filters, block of channels).
struct WgradShape {
  int64_t filters = 1, channels = 1;  // of a block; outer products take all channels
  bool filters_are_vectors = false;   // outer products: else the columns are
  bool turns_images = false;          // outer products of NCHW images (turned_wgrad.h)
};

struct WgradJob {
  const ConvProblem* problem = nullptr;
  Tile tile;
  Region grad_region;    // one tap: grad as it is
  Region source_region;  // fprop's
  const void* grad = nullptr;
  Strides grad_strides;
  const void* source = nullptr;
  Strides source_strides;
  void* result = nullptr;
  Strides result_strides;
  // Where both gradients are made in one pass (depthwise_shifted_adjoint.h): the weight, and the source's gradient.
  const void* weight = nullptr;
  Strides weight_strides;
  void* source_grad = nullptr;
  Strides source_grad_strides;
  void* partial = nullptr;  // shared workspace: slices x groups x partial_elements
  int64_t slices = 1;
  int64_t panels = 1, tiles = 1;  // of a unit
  bool in_place = false;          // add up in the result: one slice, of the sum type, columns in memory order
  bool finishes_units = false;    // the same of a narrower type: units add up in their workspace
  bool channel_major = false;     // columns are numbered (channel, tap)
  WgradShape shape;
  // Where taps read padding at many pixels, each is a product of its own, over the box of pixels where it does not. A
  // product's columns are then channels.
  std::vector<TapBox> boxes;

  int64_t products() const { return boxes.empty() ? 1 : static_cast<int64_t>(boxes.size()); }
  const Region& grad_of(int64_t product) const {
    return boxes.empty() ? grad_region : boxes[static_cast<std::size_t>(product)].grad;
  }
  const Region& source_of(int64_t product) const {
    return boxes.empty() ? source_region : boxes[static_cast<std::size_t>(product)].source;
  }
  int64_t pixels(int64_t product) const { return problem->batch * source_of(product).positions(); }
  int64_t columns() const { return source_of(0).taps() * problem->in_channels; }
  int64_t row_panels() const { return divide_up(problem->out_channels, tile.rows); }
  int64_t column_tiles() const { return divide_up(columns(), tile.columns); }
  int64_t row_blocks() const { return divide_up(row_panels(), panels); }
  int64_t column_blocks() const { return divide_up(column_tiles(), tiles); }
  int64_t product_columns() const { return round_up(columns(), tile.columns); }
  int64_t partial_columns() const { return products() * product_columns(); }
  int64_t tap_distance() const { return boxes.empty() ? problem->in_channels : product_columns(); }
  int64_t partial_elements() const { return problem->out_channels * partial_columns(); }
  int64_t slice_start(int64_t product, int64_t slice) const {
    const int64_t all = pixels(product);
    return std::min(all, slice * round_up(divide_up(all, slices), kReductionBlock));
  }
  // Distance of a tap from the first one in the result.
  int64_t result_offset(int64_t tap) const {
    const GatherAxis* g = source_region.axis;
    const int64_t w = tap % g[2].taps, h = tap / g[2].taps % g[1].taps, d = tap / g[2].taps / g[1].taps;
    return d * result_strides.axis[0] + h * result_strides.axis[1] + w * result_strides.axis[2];
  }
  // Whether the taps of a channel follow each other in the result.
  bool taps_are_dense() const {
    const GatherAxis* g = source_region.axis;
    int64_t distance = 1;
    for (int i = kSpatialAxes; i-- > 0; distance *= g[i].taps)
      if (g[i].taps > 1 && result_strides.axis[i] != distance) return false;
    return true;
  }
  int64_t unit_count() const { return slices * products() * problem->groups * row_blocks() * column_blocks(); }
  Panels filter_blocks() const { return Panels(problem->out_channels, shape.filters); }
  Panels channel_blocks() const { return Panels(problem->in_channels, shape.channels); }
  int64_t block_units() const { return slices * problem->groups * filter_blocks().count * channel_blocks().count; }
};

// Per-thread workspace of a WgradJob in elements of the sum type: A panels, a B tile, rows to transpose or to widen and
// what they spill, the tile at the end of a result that is added up in place, and the sums of a unit that it finishes
// itself.
inline int64_t wgrad_workspace(const Tile& tile, int64_t panels, int64_t unit_tiles) {
  return kReductionBlock * (panels * tile.rows + 2 * tile.columns) + kPanelSpill +
         (1 + unit_tiles) * panels * tile.rows * tile.columns;
}

}  // namespace convext
