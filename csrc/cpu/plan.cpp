#include "plan.h"

#include <algorithm>

#include "band.h"
#include "channels_plan.h"
#include "col2im_plan.h"
#include "grouped_plan.h"
#include "inner_product_plan.h"
#include "line_plan.h"
#include "wgrad_plan.h"
#include "winograd_plan.h"

namespace convext {
namespace {

constexpr int64_t kMostRegions = 4096;
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
constexpr int64_t kZoneEdge = 8, kLeastZoneDepth = 64, kMostZoneTaps = 256;
// Most pixels and panels of a unit of zones: their sums, a block of the weight and the pixels of a zone fill half of
// L2.
constexpr int64_t kMostZonePixels = 400, kMostZonePanels = 8;
// Pixels times tiles of a unit that packs its own weight: 512 KiB of float sums.
constexpr int64_t kOwnWeightSums = 4096;
// Result channels of a group up to which reading the stage in place beats packing it.
constexpr int64_t kMostBandedRows = 64;
// The same where a pixel is read under so many taps (11 x 11 of stride 4, 96 channels: 0.58 ms against 0.89).
constexpr int64_t kMostRowsOfManyReads = 128, kManyReads = 7;
// The same on pairs, which multiply at twice the rate and are packed at the same.
constexpr int64_t kMostBandedPairRows = 256;
// The same for a single tap, which is staged to read whole rows of many channels rather than a panel's width of each.
constexpr int64_t kMostRowsOfOneTap = 8;
// Channels of a first layer's source.
constexpr int64_t kFewDepth = 4;
// Pixels times channels of a unit of more than 128 pixels: 256 KiB of float sums.
constexpr int64_t kUnitSums = 1 << 16;
// Below this many multiply-adds a second thread costs more to wake than it saves.
constexpr int64_t kWorkPerThread = 1 << 16;
// The same of packed products, which do as much in half a microsecond.
constexpr int64_t kPackedWorkPerThread = 1 << 17;

// Multiply-adds, saturating; an upper bound is all that the thread count needs.
int64_t multiply_adds(const ConvProblem& p) {
  const __int128 work = static_cast<__int128>(p.batch) * output_pixels(p) * weight_elements(p);
  return static_cast<int64_t>(std::min<__int128>(work, int64_t{1} << 62));
}

int64_t useful_threads(const PlanRequest& r, Algorithm algorithm) {
  const bool packed = algorithm == Algorithm::kPacked || algorithm == Algorithm::kCol2im;
  const int64_t of_thread = packed ? kPackedWorkPerThread : kWorkPerThread;
  return std::clamp<int64_t>(multiply_adds(r.problem) / of_thread, 1, std::max<int64_t>(r.threads, 1));
}

// Result pixels of the region that has the most of them.
int64_t largest_region(const PlanRequest& r) {
  int64_t pixels = r.problem.batch;
  for (const ConvAxis& a : r.problem.axis)
    pixels *= r.op == ConvOperator::kDgrad ? divide_up(a.input, a.stride) : a.output;
  return pixels;
}

int64_t region_count(const PlanRequest& r) { return r.op == ConvOperator::kDgrad ? count_dgrad_regions(r.problem) : 1; }

// Whether most taps of many positions read padding: large dilations on small images.
bool repays_zones(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (p.mode != PaddingMode::kZeros || panel_terms(r) > 1 || r.source_channels_last || r.result_channels_last)
    return false;
  if (gather_depth(r) < kLeastZoneDepth || 2 * gather_rows(r) < r.tile.columns || region_count(r) != 1) return false;
  const Region region = regions_of(r).front();
  if (region.taps() == 1 || region.taps() > kMostZoneTaps) return false;
  int64_t work = 0;
  for (const Region& zone : zones_of(region)) work += (zone.positions() + kZoneEdge) * zone.taps();
  return static_cast<double>(work) < kMostZoneWork * static_cast<double>(region.positions() * region.taps());
}

std::string too_many_regions(const PlanRequest& r) {
  return "the stride makes " + std::to_string(region_count(r)) + " output phases, more than " +
         std::to_string(kMostRegions);
}
std::string or_too_many_regions(std::string reason, const PlanRequest& r) {
  return reason.empty() && region_count(r) > kMostRegions ? too_many_regions(r) : reason;
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
  const bool lines = may_read_lines(r);  // and multiply half of a tile alone
  const double as_columns = fill(pixels, lines ? r.lanes : r.tile.columns), as_rows = fill(rows, r.tile.columns);
  UnitShape shape;
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
  if (lines && !shape.pixels_are_rows) return line_shape(r, threads);
  const int64_t width = shape.pixels_are_rows ? r.tile.columns : r.tile.rows;
  const int64_t panels = std::max<int64_t>(1, divide_up(rows, width));
  const int64_t weight_bytes = weight_elements(r.problem) * r.sum_bytes / panel_terms(r);
  // Pixels that fill vectors too are gathered for all channels at once, which saves more than the weight's passes cost.
  const bool few_pixels = pixels <= kFewPixels || as_rows > fuller * as_columns || weight_bytes >= kHugeWeightBytes;
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
  } else {
    while (threads > 1 && units() < 4 * threads && shape.pixels > smallest)
      shape.pixels = std::max(smallest, shape.pixels / 2);
  }
  if (threads > 1 && units() < threads)
    shape.panels = divide_up(panels, divide_up(threads, std::max<int64_t>(1, pixel_units())));
  return shape;
}

void plan_depthwise(const PlanRequest& r, ConvPlan& plan) { plan.thread_bytes = LanePlan(r).band.memory().bytes; }

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

void plan_banded(const PlanRequest& r, ConvPlan& plan) {
  const int64_t threads = plan.workers, rows = gather_rows(r), groups = r.problem.groups;
  const std::vector<Region> regions = regions_of(r);
  // Enough bands for the threads, but not so short that they stage mostly what their neighbours staged.
  int64_t total = 0;
  for (const Region& region : regions) total += r.problem.batch * groups * region.axis[0].count * region.axis[1].count;
  const int64_t fewest = std::clamp<int64_t>(divide_up(total, threads), 2, 8);
  plan.band_rows = std::clamp<int64_t>(divide_up(total, 4 * threads), fewest, 64);
  // As many for each thread, if the rows of a single image are all there are.
  if (const int64_t rows_left = total % plan.band_rows; regions.size() == 1 && rows_left > 0 && threads > 1) {
    const int64_t bands = round_up(divide_up(total, plan.band_rows), threads);
    if (total == regions.front().axis[1].count && total >= 4 * bands) plan.band_rows = divide_up(total, bands);
  }
  int64_t elements = 0;
  for (const Region& region : regions) {
    const BandedRegion banded(region, rows, panel_depth(r), r.sum_bytes, plan.band_rows, reads_zeros(r));
    elements = std::max(elements, banded.workspace_elements(rows, r.sum_bytes));
  }
  plan.thread_bytes = kReductionBlock * static_cast<int64_t>(sizeof(int64_t)) + elements * r.sum_bytes;
  const int64_t weight = groups * rows * panel_depth(r) * kernel_taps(r.problem);
  plan.shared_bytes = (weight + groups * rows) * r.sum_bytes;
}

std::string depthwise_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (p.in_channels != 1) return "a group has " + std::to_string(p.in_channels) + " input channels, not one";
  if (p.out_channels > kMostMultiplier)
    return "a group has " + std::to_string(p.out_channels) + " output channels, more than " +
           std::to_string(kMostMultiplier);
  const int64_t planes = p.groups * (r.op == ConvOperator::kWgrad ? p.out_channels : gather_rows(r));
  if (2 * planes < r.lanes)
    return std::to_string(planes) + " planes fill less than half of a vector of " + std::to_string(r.lanes);
  if (r.op == ConvOperator::kDgrad && p.mode != PaddingMode::kZeros)
    return "the gradient of a padding mode folds border pixels";
  if (region_count(r) > kMostRegions) return too_many_regions(r);
  if (LanePlan(r).band.memory().bytes > kMostStageBytes)
    return "a band of the image with its taps needs more than " + std::to_string(kMostStageBytes >> 20) + " MiB";
  return "";
}

// Pixels that many taps read repay being staged for more channels.
int64_t most_banded_rows(const PlanRequest& r) {
  if (panel_terms(r) > 1) return kMostBandedPairRows;
  int64_t strides = 1;
  for (const ConvAxis& a : r.problem.axis) strides *= a.stride;
  const bool few_reads = r.op == ConvOperator::kDgrad || kernel_taps(r.problem) < kManyReads * strides;
  const ConvAxis& w = r.problem.axis[2];
  const int64_t beside = (kernel_extent(w) - 1) / w.stride;  // columns of a band that are no results
  return few_reads || w.output < 4 * beside ? kMostBandedRows : kMostRowsOfManyReads;
}

std::string banded_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  const int64_t rows = gather_rows(r);
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (r.source_channels_last || r.result_channels_last) return "the images are channels_last";
  if (r.op == ConvOperator::kDgrad && p.mode != PaddingMode::kZeros)
    return "the gradient of a padding mode folds border pixels";
  if (region_count(r) > kMostRegions) return too_many_regions(r);
  const int64_t most = most_banded_rows(r);
  if (rows > most)
    return std::to_string(rows) + " result channels repay packed panels, more than " + std::to_string(most);
  if (kernel_taps(p) == 1 && rows > kMostRowsOfOneTap) return "a single tap has no panels to save";
  const std::vector<Region> regions = regions_of(r);
  const auto has_one_tap = [](const Region& region) { return region.taps() <= 1; };
  if (rows > kMostBandedRows && std::all_of(regions.begin(), regions.end(), has_one_tap))
    return "a single tap a phase has no panels to save";
  for (const Region& region : regions) {
    if (region.taps() > kReductionBlock)
      return "the kernel has " + std::to_string(region.taps()) + " taps, more than " + std::to_string(kReductionBlock);
    const BandedRegion banded(region, rows, panel_depth(r), r.sum_bytes, r.problem.axis[1].input, reads_zeros(r));
    if (banded.band.columns * 5 < (banded.band.pitch + banded.band.shared) * 3)
      return "padding would fill two fifths of the columns";
    const Band& band = banded.band;
    if (region.taps() == 2 && rows > kMostRowsOfOneTap && panel_terms(r) == 1 &&
        5 * band.channel_size > 6 * band.rows * band.columns)
      return "its two taps lie so far apart that a stage would save few panels";
    if (banded.stage_elements() * r.sum_bytes > kMostStageBytes) return "a row of the band is too long to stage";
  }
  return "";
}

// Whether an algorithm is one for this operator at all: if not, it is no candidate, and has nothing to decline.
bool is_of_operator(Algorithm algorithm, ConvOperator op) {
  switch (algorithm) {
    case Algorithm::kCorrelation:
    case Algorithm::kOuterProduct: return op == ConvOperator::kWgrad;
    case Algorithm::kCol2im: return op == ConvOperator::kDgrad;
    case Algorithm::kInnerProduct: return op == ConvOperator::kFprop;
    case Algorithm::kRowCombination: return op == ConvOperator::kDgrad;
    case Algorithm::kNarrowChannelsLast:
    case Algorithm::kBanded: return op != ConvOperator::kWgrad;
    default: return true;
  }
}

// Why an algorithm cannot take the request; empty if it can.
std::string refusal(Algorithm algorithm, const PlanRequest& r) {
  switch (algorithm) {
    case Algorithm::kDepthwiseChannelsLast: return or_too_many_regions(depthwise_channels_refusal(r), r);
    case Algorithm::kDepthwiseShifted: return depthwise_shifted_refusal(r);
    case Algorithm::kDepthwiseRows: return depthwise_rows_refusal(r);
    case Algorithm::kDepthwise: return depthwise_refusal(r);
    case Algorithm::kCorrelation: return correlation_refusal(r);
    case Algorithm::kWinograd: return winograd_refusal(r);
    case Algorithm::kInnerProduct: return inner_product_refusal(r);
    case Algorithm::kRowCombination: return row_combination_refusal(r);
    case Algorithm::kGrouped: return grouped_refusal(r);
    case Algorithm::kNarrowChannelsLast: return or_too_many_regions(narrow_channels_refusal(r), r);
    case Algorithm::kCol2im: return col2im_refusal(r);
    case Algorithm::kOuterProduct: return outer_product_refusal(r);
    case Algorithm::kBanded: return banded_refusal(r);
    case Algorithm::kPacked:
      if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
      return region_count(r) > kMostRegions ? too_many_regions(r) : "";
    case Algorithm::kDirect: return "";
  }
  return "";
}

}  // namespace

const char* algorithm_name(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kDepthwiseChannelsLast: return "depthwise_channels_last";
    case Algorithm::kDepthwiseShifted: return "depthwise_shifted";
    case Algorithm::kDepthwiseRows: return "depthwise_rows";
    case Algorithm::kDepthwise: return "depthwise";
    case Algorithm::kCorrelation: return "correlation";
    case Algorithm::kInnerProduct: return "inner_product";
    case Algorithm::kRowCombination: return "row_combination";
    case Algorithm::kWinograd: return "winograd";
    case Algorithm::kGrouped: return "grouped";
    case Algorithm::kCol2im: return "col2im";
    case Algorithm::kOuterProduct: return "outer_product";
    case Algorithm::kNarrowChannelsLast: return "narrow_channels_last";
    case Algorithm::kBanded: return "banded";
    case Algorithm::kPacked: return "packed";
    case Algorithm::kDirect: return "direct";
  }
  return "";
}

std::vector<Region> regions_of(const PlanRequest& request) {
  if (request.op == ConvOperator::kDgrad) return dgrad_regions(request.problem);
  return {fprop_region(request.problem)};
}

LanePlan::LanePlan(const PlanRequest& request) {
  const Region region = fprop_region(request.problem);
  for (int i = 0; i < kSpatialAxes; ++i)
    phases[i] = request.op == ConvOperator::kDgrad ? dgrad_axes(request.problem.mode, request.problem.axis[i])
                                                   : std::vector<GatherAxis>{region.axis[i]};
  const int64_t depth = request.op == ConvOperator::kDgrad ? request.problem.out_channels : 1;
  band = LaneBand(phases, depth, kernel_taps(request.problem), request.lanes * request.sum_bytes);
}

ConvPlan plan_conv(const PlanRequest& request, std::vector<Declined>* declined) {
  ConvPlan plan;
  for (const Algorithm candidate :
       {Algorithm::kDepthwiseChannelsLast, Algorithm::kDepthwiseShifted, Algorithm::kDepthwiseRows,
        Algorithm::kDepthwise, Algorithm::kGrouped, Algorithm::kInnerProduct, Algorithm::kRowCombination,
        Algorithm::kWinograd, Algorithm::kCorrelation, Algorithm::kOuterProduct, Algorithm::kNarrowChannelsLast,
        Algorithm::kCol2im, Algorithm::kBanded, Algorithm::kPacked, Algorithm::kDirect}) {
    if (!is_of_operator(candidate, request.op)) continue;
    plan.algorithm = candidate;
    std::string reason = refusal(candidate, request);
    if (reason.empty()) break;
    if (declined) declined->push_back({candidate, std::move(reason)});
  }
  plan.workers = useful_threads(request, plan.algorithm);
  switch (plan.algorithm) {
    case Algorithm::kDepthwiseChannelsLast:
    case Algorithm::kNarrowChannelsLast: plan_channels(request, plan); break;
    case Algorithm::kDepthwiseShifted: plan_depthwise_shifted(request, plan); break;
    case Algorithm::kDepthwiseRows: plan_depthwise_rows(request, plan); break;
    case Algorithm::kDepthwise: plan_depthwise(request, plan); break;
    case Algorithm::kCorrelation: plan_correlation(request, plan); break;
    case Algorithm::kWinograd: plan_winograd(request, plan); break;
    case Algorithm::kInnerProduct: plan_inner_product(request, plan); break;
    case Algorithm::kRowCombination: plan_row_combination(request, plan); break;
    case Algorithm::kGrouped: plan_grouped(request, plan); break;
    case Algorithm::kCol2im: plan_col2im(request, plan); break;
    case Algorithm::kOuterProduct: plan_outer_product(request, plan); break;
    case Algorithm::kBanded: plan_banded(request, plan); break;
    case Algorithm::kPacked:
      (request.op == ConvOperator::kWgrad ? plan_packed_wgrad : plan_packed_conv)(request, plan);
      break;
    case Algorithm::kDirect: break;
  }
  return plan;
}

}  // namespace convext
