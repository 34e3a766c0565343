#include "line_plan.h"

#include <algorithm>

namespace convext {
namespace {

// Sums of a unit that reads the weight as it lies, and the pixels that these suffice for: they stream through L2 beside
// the gathered pixels of a block, which stay.
constexpr int64_t kMostLineSums = int64_t{1} << 20, kLeastLinePixels = 128;
// Channels from which on a unit has as many pixels as its sums allow; few repay a block's pixels that leave L2 room.
constexpr int64_t kManyLineRows = 256;

// Result channels up to which a unit keeps its weight and reads pixels where they lie, tile by tile (one thread: 192 to
// 16 channels on 28 x 28 pixels 55 us, gathered for all panels 70; 112 on 14 x 14 265 and 275, 256 alike).
constexpr int64_t kMostHeldRows = 128;
// A sample's results from which on streams_result holds: whole rows repay several, which L2 does not hold, and cost a
// single one next to nothing (plan.cpp; the batch may not choose an algorithm).
constexpr int64_t kStreamedBytes = int64_t{768} << 10;

// Whether the weight of pairs may be paired as it lies: rows that begin with a pair, blocks of all taps.
bool keeps_pairs(const PlanRequest& r) {
  return panel_terms(r) == 2 && r.weight_dense && !r.source_channels_last && gather_depth(r) % 2 == 0 &&
         kernel_taps(r.problem) <= kReductionBlock;
}

// Tile by tile a result is written in pieces of a tile's width, a page or more apart, which a larger one than its image
// waits for (16 to 96 channels on 8 images of 112 x 112, two threads: 7.4 ms, panel by panel 4.3).
bool holds_weight(const PlanRequest& r) {
  return reads_in_order(r) && gather_rows(r) <= kMostHeldRows &&
         !(streams_result(r) && gather_rows(r) >= gather_depth(r));
}

}  // namespace

bool reads_in_order(const PlanRequest& r) {
  for (const ConvAxis& a : r.problem.axis)
    if (!is_pointwise(a)) return false;
  return panel_terms(r) == 1 && !is_widened(r);
}

bool streams_result(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  const int64_t pixels = r.op == ConvOperator::kDgrad ? input_pixels(p) : output_pixels(p);
  return pixels * p.groups * gather_rows(r) >= kStreamedBytes / r.element_bytes;
}

bool pairs_neighbours(const PlanRequest& r) { return r.op == ConvOperator::kFprop && keeps_pairs(r); }

bool reads_tap_lines(const PlanRequest& r) {
  for (const ConvAxis& a : r.problem.axis)
    if (a.stride != 1) return false;
  // Lines that are more than half empty would not fit into a panel's room (ConvWorkspace).
  return r.op == ConvOperator::kDgrad && keeps_pairs(r) && !r.result_channels_last &&
         2 * kernel_taps(r.problem) >= r.lanes;
}

bool may_read_lines(const PlanRequest& r) {
  if (pairs_neighbours(r) || reads_tap_lines(r)) return !r.result_channels_last;
  const bool across = r.op == ConvOperator::kDgrad && kernel_taps(r.problem) == 1 && region_count(r) == 1;
  return (r.op == ConvOperator::kFprop || across) && r.weight_in_order && !r.source_channels_last &&
         !r.result_channels_last && r.element_bytes == r.sum_bytes && panel_terms(r) == 1;
}

UnitShape line_shape(const PlanRequest& r, int64_t threads) {
  const ConvProblem& p = r.problem;
  const int64_t rows = gather_rows(r), groups = p.groups;
  const int64_t pixels =
      std::max<int64_t>(1, p.batch * (r.op == ConvOperator::kDgrad ? input_pixels(p) : output_pixels(p)));
  const int64_t panels = std::max<int64_t>(1, divide_up(rows, r.tile.rows)), lanes = r.lanes;
  const bool held = holds_weight(r);
  // For each term of the reduction: the products of a vector of pixels and a channel take half a cycle, gathering such
  // a vector some (reading it where it lies less), and a line of the weight a sixteenth.
  const auto cycles = [&](int64_t size, int64_t unit_rows) {
    constexpr double kProduct = 0.52, kGathered = 3, kInPlace = 0.5, kWeight = 0.1;
    const auto n = static_cast<double>(unit_rows), vectors = static_cast<double>(divide_up(size, lanes));
    return vectors * (n * kProduct + (held ? kInPlace : kGathered)) + kWeight * n;
  };
  UnitShape best;
  best.weight_lines = true;
  best.neighbour_pairs = pairs_neighbours(r);
  best.tap_lines = reads_tap_lines(r);
  best.lines_across = r.op == ConvOperator::kDgrad && !best.tap_lines;
  best.holds_weight = held;
  double least = 0;
  const auto consider = [&](int64_t size, int64_t unit_panels) {
    const int64_t units = divide_up(pixels, size) * divide_up(panels, unit_panels) * groups;
    const double busiest =
        static_cast<double>(divide_up(units, threads)) * cycles(size, std::min(rows, unit_panels * r.tile.rows));
    if (best.pixels > 0 && busiest >= 0.99 * least) return;
    best.pixels = size, best.panels = unit_panels, least = busiest;
  };
  const int64_t fewest = divide_up(panels * r.tile.rows * kLeastLinePixels * r.sum_bytes, kMostLineSums);
  for (int64_t blocks = fewest;; blocks = std::min(2 * blocks, fewest * threads)) {
    const int64_t unit_panels = divide_up(panels, std::min(blocks, panels));
    const int64_t fitting = kMostLineSums / r.sum_bytes / (unit_panels * r.tile.rows);
    const int64_t enough = rows < kManyLineRows ? kMostUnitPixels / 2 : kMostUnitPixels;
    const int64_t most = std::clamp(fitting / r.tile.columns * r.tile.columns, r.tile.columns, enough);
    const int64_t parts = divide_up(pixels, most);
    consider(most, unit_panels);
    for (int64_t i = 0; parts < 16 * threads && i <= std::min<int64_t>(2 * threads, 32); ++i)
      consider(std::min(most, round_up(divide_up(pixels, parts + i), lanes)), unit_panels);
    if (blocks >= fewest * threads || blocks >= panels) return best;
  }
}

}  // namespace convext
