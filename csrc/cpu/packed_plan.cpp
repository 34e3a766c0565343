#include "packed_plan.h"

#include <algorithm>

#include "line_plan.h"

namespace convext {
namespace {

// How much fuller vectors of channels have to be than those of pixels, where a block is a whole sum (96 channels to 576
// on 14 x 14 pixels, two threads: 0.10 ms with pixels along the vector, 0.20 with channels).
constexpr double kFullerOfOneBlock = 1.5;
// Weights from this size on fall out of L2 between packing and use.
constexpr int64_t kOwnWeightBytes = 256 << 10;
// Pixels up to which a weight of that size is packed by its readers even where pixels fill vectors as well as channels
// do.
constexpr int64_t kFewPixels = 128;
// Weights from this size on cross memory once, however many the pixels (8 MiB, 256 pixels: 4.5 against 10 ms).
constexpr int64_t kHugeWeightBytes = int64_t{4} << 20;
// Zones are cut where they leave this share of the products, a zone's last tile counted as so many pixels more; and
// from so many channels, whose products under one tap are a block.
constexpr double kMostZoneWork = 0.8;
constexpr int64_t kZoneEdge = 8, kLeastZoneDepth = 64, kMostZoneTaps = kReductionBlock;
// Most pixels and panels of a unit of zones: their sums, a block of the weight and the pixels of a zone fill half of
// L2.
constexpr int64_t kMostZonePixels = 400, kMostZonePanels = 8;
// Pixels times tiles of a unit that packs its own weight: 512 KiB of float sums.
constexpr int64_t kOwnWeightSums = 4096;
// Channels of a first layer's source.
constexpr int64_t kFewDepth = 4;
// How full vectors of pixels have to be for a gradient of pairs to have them (512 to 512 channels on 7 x 7 pixels, 0.77
// full, one thread: 1.9 ms, 3.1 with pixels as rows; emptier ones were not measured).
constexpr double kLeastFillOfTapLines = 0.5;
// Pixels times channels of a unit of more than 128 pixels, but of huge weights: 256 KiB of float sums.
constexpr int64_t kUnitSums = 1 << 16;

// Result pixels of the region that has the most of them.
int64_t largest_region(const PlanRequest& r) {
  int64_t pixels = r.problem.batch;
  for (const ConvAxis& a : r.problem.axis)
    pixels *= r.op == ConvOperator::kDgrad ? divide_up(a.input, a.stride) : a.output;
  return pixels;
}

// Whether most taps of many positions read padding: large dilations on small images.
bool repays_zones(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (p.mode != PaddingMode::kZeros || r.source_channels_last || r.result_channels_last) return false;
  if (gather_depth(r) < kLeastZoneDepth || 2 * gather_rows(r) < r.tile.columns || region_count(r) != 1) return false;
  const Region region = regions_of(r).front();
  if (region.taps() == 1 || kernel_taps(p) > kMostZoneTaps) return false;  // those that no zone has are packed, too
  int64_t work = 0;
  for (const Region& zone : zones_of(region)) work += (zone.positions() + kZoneEdge) * zone.taps();
  return static_cast<double>(work) < kMostZoneWork * static_cast<double>(region.positions() * region.taps());
}

// Whether pixels as rows of pairs, fuller vectors, repay what it costs to turn a tile of sums and narrow it by lines as
// long as the tile is high: 800 cycles, against 200 where pixels are columns. The product takes a cycle a row and pair.
bool rows_repay_turning(const PlanRequest& r, double as_rows, double as_columns) {
  constexpr double kTurned = 800, kStored = 200;
  const double product = static_cast<double>(r.tile.rows * panel_depth(r) * kernel_taps(r.problem));
  return (product + kTurned) * as_columns < (product + kStored) * as_rows;
}

// How zones are cut: pixels are rows, of which tiles have no more than there are; and a unit has a part of every zone.
UnitShape zone_shape(const PlanRequest& r, int64_t parts) {
  UnitShape shape;
  shape.pixels_are_rows = true;
  for (const Region& zone : zones_of(regions_of(r).front()))
    shape.pixels += divide_up(r.problem.batch * zone.positions(), parts);
  shape.panels = balanced(divide_up(gather_rows(r), r.tile.columns), kMostZonePanels);
  return shape;
}

// Parts of each zone's pixels: enough for the threads, and for a unit's sums to stay in L2.
int64_t zone_parts(const PlanRequest& r, int64_t threads) {
  const bool dgrad = r.op == ConvOperator::kDgrad;
  const int64_t pixels = r.problem.batch * (dgrad ? input_pixels(r.problem) : output_pixels(r.problem));
  return round_up(std::max<int64_t>(1, divide_up(pixels, kMostZonePixels)), threads);
}

// Tiles that the busiest thread multiplies where units of `size` pixels times a block of channels are dealt in order.
double busiest(int64_t pixels, int64_t size, int64_t tile, int64_t blocks, int64_t threads) {
  const int64_t units = divide_up(pixels, size) * blocks;
  int64_t most = 0;
  for (int64_t thread = 0; thread < threads; ++thread) {
    int64_t tiles = 0;
    for (int64_t unit = thread * units / threads; unit < (thread + 1) * units / threads; ++unit)
      tiles += divide_up(std::min(size, pixels - unit / blocks * size), tile);
    most = std::max(most, tiles);
  }
  return static_cast<double>(most) / static_cast<double>(blocks);
}

UnitShape unit_shape(const PlanRequest& r, int64_t threads) {
  const int64_t rows = gather_rows(r), pixels = largest_region(r), groups = r.problem.groups;
  const int64_t weight_bytes = weight_elements(r.problem) * r.sum_bytes / panel_terms(r);
  // Most lines of a cache are read for two panels where they lie across: of a huge weight from memory each time (512 to
  // 2048 channels on 8 images of 7 x 7: 5.9 against 7.0 ms).
  const bool across = r.op == ConvOperator::kDgrad && !reads_tap_lines(r), huge = weight_bytes >= kHugeWeightBytes;
  const bool lines = may_read_lines(r) && !(across && huge);  // and multiply half of a tile alone
  const double as_columns = fill(pixels, lines ? r.lanes : r.tile.columns), as_rows = fill(rows, r.tile.columns);
  UnitShape shape;
  shape.neighbour_pairs = pairs_neighbours(r);
  // A result whose channels are contiguous is written in place only with channels along the vector; otherwise that
  // orientation has to transpose its result, which must be paid for by fuller vectors.
  // The same holds for sums that a single block completes: they are stored as soon as they are begun.
  const bool one_block = kernel_taps(r.problem) * panel_depth(r) <= kReductionBlock;
  const double fuller = one_block ? kFullerOfOneBlock : 1.1;
  shape.pixels_are_rows = r.result_channels_last ? as_rows >= 0.6 * as_columns : as_rows > fuller * as_columns;
  if (panel_terms(r) > 1 && !r.result_channels_last)
    shape.pixels_are_rows = shape.pixels_are_rows && rows_repay_turning(r, as_rows, as_columns);
  if (as_rows < 0.5) shape.pixels_are_rows = false;  // the packed weight would be mostly padding
  // Rows of terms as they lie need no transposition (pixel_rows.h), which repays even a vector that is half empty.
  const bool rows_as_they_lie =
      panel_terms(r) == 1 && r.result_channels_last && (r.source_channels_last || gather_depth(r) == 1);
  shape.pixels_are_rows = shape.pixels_are_rows || rows_as_they_lie;
  // The weight of pixels as rows is turned, which lines of taps need not be.
  if (lines && reads_tap_lines(r) && as_columns > kLeastFillOfTapLines) shape.pixels_are_rows = false;
  if (lines && !shape.pixels_are_rows) return line_shape(r, threads);
  const int64_t width = shape.pixels_are_rows ? r.tile.columns : r.tile.rows;
  const int64_t panels = std::max<int64_t>(1, divide_up(rows, width));
  // Pixels that fill vectors too are gathered for all channels at once, which saves more than the weight's passes cost.
  const bool few_pixels = pixels <= kFewPixels || as_rows > fuller * as_columns || huge;
  if (as_rows > 0.9 && few_pixels && pixels <= std::min(kMostUnitPixels, 2 * rows) && weight_bytes >= kOwnWeightBytes) {
    shape.pixels_are_rows = shape.packs_own_weight = true;
    shape.pixels = pixels;
    // The more tiles a unit has, the less the gathering of the image once a unit costs; its sums stay within half of
    // L2.
    const int64_t tiles = divide_up(rows, r.tile.columns);
    const int64_t fitting = std::clamp<int64_t>(kOwnWeightSums / std::max<int64_t>(1, pixels), 4, 16);
    shape.panels = std::min(fitting, divide_up(tiles * groups, threads));
    return shape;
  }
  const int64_t smallest = shape.pixels_are_rows ? 2 * r.tile.rows : r.tile.columns;
  // Windows of few channels are read where they lie: what a unit costs beside its tiles is all that its size decides.
  const int64_t most = rows_as_they_lie && gather_depth(r) <= kFewDepth ? kMostUnitPixels : 128;
  shape.pixels = shape.pixels_are_rows ? most / r.tile.rows * r.tile.rows : 4 * r.tile.columns;
  // 512 channels by 128 pixels of partial sums stay within a quarter of a megabyte.
  shape.panels = std::clamp<int64_t>(divide_up(512, width), 1, panels);
  const auto pixel_units = [&] { return region_count(r) * groups * divide_up(pixels, shape.pixels); };
  const auto units = [&] { return pixel_units() * divide_up(panels, shape.panels); };
  if (region_count(r) * groups == 1 && pixel_units() <= 16 * threads) {
    // Smaller units only where they leave the busiest thread less to do.
    const int64_t tile = shape.pixels_are_rows ? r.tile.rows : r.tile.columns, blocks = divide_up(panels, shape.panels);
    for (int64_t size = shape.pixels / 2 / tile * tile; threads > 1 && size >= smallest; size = size / 2 / tile * tile)
      if (busiest(pixels, size, tile, blocks, threads) < 0.97 * busiest(pixels, shape.pixels, tile, blocks, threads))
        shape.pixels = size;
    // Larger ones wherever they do not: a panel of the weight that is read has more tiles then.
    const int64_t fitting = std::min(kMostUnitPixels, kUnitSums / (shape.panels * width));
    for (int64_t parts = threads; !shape.pixels_are_rows && pixels > 0; parts += threads) {
      const int64_t size = round_up(divide_up(pixels, parts), tile);
      if (size <= shape.pixels) break;
      if (size > fitting ||
          busiest(pixels, size, tile, blocks, threads) > busiest(pixels, shape.pixels, tile, blocks, threads))
        continue;
      shape.pixels = size;
      break;
    }
    // A huge weight crosses memory once a unit.
    for (int64_t parts = threads; rows_as_they_lie && weight_bytes >= kHugeWeightBytes && pixels > 0;
         parts += threads) {
      const int64_t size = round_up(divide_up(pixels, parts), tile);
      if (size > kMostUnitPixels) continue;
      shape.pixels = std::max(size, shape.pixels);
      break;
    }
  } else if (rows_as_they_lie && groups == 1 && divide_up(pixels, shape.pixels) <= 16 * threads) {
    // Phases take turns, each with as many units for every thread.
    const int64_t parts = round_up(divide_up(pixels, shape.pixels), threads);
    shape.pixels = std::max(smallest, round_up(divide_up(pixels, std::max<int64_t>(1, parts)), r.tile.rows));
  } else {
    while (threads > 1 && units() < 4 * threads && shape.pixels > smallest)
      shape.pixels = std::max(smallest, shape.pixels / 2);
  }
  if (threads > 1 && units() < threads)
    shape.panels = divide_up(panels, divide_up(threads, std::max<int64_t>(1, pixel_units())));
  return shape;
}

}  // namespace

void plan_packed_conv(const PlanRequest& r, ConvPlan& plan) {
  plan.zones = repays_zones(r);
  if (plan.zones) plan.zone_parts = zone_parts(r, plan.workers);
  plan.shape = plan.zones ? zone_shape(r, plan.zone_parts) : unit_shape(r, plan.workers);
  plan.channels_inner = r.source_channels_last;
  const int64_t rows = gather_rows(r), groups = r.problem.groups;
  int64_t weight = groups * packed_channels(plan.shape, r.tile, rows) * panel_depth(r) * kernel_taps(r.problem);
  if (plan.shape.reads_weight()) weight = 0;
  plan.shared_bytes = (weight + groups * packed_channels(plan.shape, r.tile, rows)) * r.sum_bytes;
  plan.thread_bytes = ConvWorkspace(plan.shape, r.tile).elements() * r.sum_bytes;
}

}  // namespace convext
