#include "plan.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "band.h"
#include "col2im_plan.h"
#include "correlation_shape.h"
#include "outer_lines.h"
#include "winograd_plan.h"

namespace convext {
namespace {

constexpr int64_t kMostRegions = 4096;
// Weights from this size on fall out of L2 between packing and use.
constexpr int64_t kOwnWeightBytes = 512 << 10;
// Pixels up to which a weight of that size is packed by its readers even where pixels fill vectors as well as channels
// do.
constexpr int64_t kFewPixels = 128;
// Weights from this size on cross memory once, however many the pixels (8 MiB, 256 pixels: 4.5 against 10 ms).
constexpr int64_t kHugeWeightBytes = int64_t{4} << 20;
// Pixels times tiles of a unit that packs its own weight: 512 KiB of float sums.
constexpr int64_t kOwnWeightSums = 4096;
// Output and input channels of a group up to which correlation is taken in any layout and of any image.
constexpr int64_t kMostCorrelated = 16, kMostCorrelatedInputs = 8;
// Positions of an image from which the sums over a vector's lanes at the end of a chunk are repaid.
constexpr int64_t kFewestCorrelated = 128;
// The same under a stride, where staging costs more.
constexpr int64_t kFewestCorrelatedStrided = 512;
// Outer products pass over the result once a chunk: of few pixels and results beyond L2, panels were faster (7 x 7
// pixels of 512 x 512 channels under 3 x 3 taps: 0.99 against 1.28 ms).
constexpr int64_t kFewestOuterPixels = 64, kMostOuterResult = int64_t{4} << 20;
// Result channels of a group up to which reading the stage in place beats packing it.
constexpr int64_t kMostBandedRows = 64;
// The same on pairs, which multiply at twice the rate and are packed at the same.
constexpr int64_t kMostBandedPairRows = 256;
// The same for a single tap, which is staged to read whole rows of many channels rather than a panel's width of each.
constexpr int64_t kMostRowsOfOneTap = 8;
// Output channels of a group up to which a filter at a time beats a matrix product.
constexpr int64_t kMostMultiplier = 4;
// Channels of a group up to which a vector of several groups is filtered lane by lane; from twice as many on they fill
// the vectors of a product of their own.
constexpr int64_t kMostGroupedLanes = 8;
// Below this many multiply-adds a second thread costs more to wake than it saves.
constexpr int64_t kWorkPerThread = 1 << 16;

// Multiply-adds, saturating; an upper bound is all that the thread count needs.
int64_t multiply_adds(const ConvProblem& p) {
  const __int128 work = static_cast<__int128>(p.batch) * output_pixels(p) * weight_elements(p);
  return static_cast<int64_t>(std::min<__int128>(work, int64_t{1} << 62));
}

int64_t useful_threads(const PlanRequest& r) {
  return std::clamp<int64_t>(multiply_adds(r.problem) / kWorkPerThread, 1, std::max<int64_t>(r.threads, 1));
}

// Share of the columns of whole tiles that n columns fill.
double fill(int64_t n, int64_t tile) { return n == 0 ? 1.0 : static_cast<double>(n) / round_up(n, tile); }

// Result pixels of the region that has the most of them.
int64_t largest_region(const PlanRequest& r) {
  int64_t pixels = r.problem.batch;
  for (const ConvAxis& a : r.problem.axis)
    pixels *= r.op == ConvOperator::kDgrad ? divide_up(a.input, a.stride) : a.output;
  return pixels;
}

int64_t region_count(const PlanRequest& r) { return r.op == ConvOperator::kDgrad ? count_dgrad_regions(r.problem) : 1; }

std::string too_many_regions(const PlanRequest& r) {
  return "the stride makes " + std::to_string(region_count(r)) + " output phases, more than " +
         std::to_string(kMostRegions);
}

CorrelationBands correlation_bands(const PlanRequest& r) {
  return CorrelationBands(fprop_region(r.problem), r.problem.batch, r.sum_bytes);
}

UnitShape unit_shape(const PlanRequest& r, int64_t threads) {
  const int64_t rows = gather_rows(r), pixels = largest_region(r), groups = r.problem.groups;
  const double as_columns = fill(pixels, r.tile.columns), as_rows = fill(rows, r.tile.columns);
  UnitShape shape;
  // A result whose channels are contiguous is written in place only with channels along the vector; otherwise that
  // orientation has to transpose its result, which must be paid for by fuller vectors.
  shape.pixels_are_rows = r.result_channels_last ? as_rows >= 0.6 * as_columns : as_rows > 1.1 * as_columns;
  if (as_rows < 0.5) shape.pixels_are_rows = false;  // the packed weight would be mostly padding
  // Rows of terms as they lie need no transposition (pixel_rows.h), which repays even a vector that is half empty.
  if (panel_terms(r) == 1 && r.result_channels_last && (r.source_channels_last || gather_depth(r) == 1))
    shape.pixels_are_rows = true;
  const int64_t width = shape.pixels_are_rows ? r.tile.columns : r.tile.rows;
  const int64_t panels = std::max<int64_t>(1, divide_up(rows, width));
  const int64_t weight_bytes = weight_elements(r.problem) * r.sum_bytes / panel_terms(r);
  // Pixels that fill vectors too are gathered for all channels at once, which saves more than the weight's passes cost.
  const bool few_pixels = pixels <= kFewPixels || as_rows > 1.1 * as_columns || weight_bytes >= kHugeWeightBytes;
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
  shape.pixels = shape.pixels_are_rows ? 128 / r.tile.rows * r.tile.rows : 4 * r.tile.columns;
  // 512 channels by 128 pixels of partial sums stay within a quarter of a megabyte.
  shape.panels = std::clamp<int64_t>(512 / width, 1, panels);
  const auto pixel_units = [&] { return region_count(r) * groups * divide_up(pixels, shape.pixels); };
  const auto units = [&] { return pixel_units() * divide_up(panels, shape.panels); };
  while (threads > 1 && units() < 4 * threads && shape.pixels > smallest)
    shape.pixels = std::max(smallest, shape.pixels / 2);
  if (threads > 1 && units() < threads)
    shape.panels = divide_up(panels, divide_up(threads, std::max<int64_t>(1, pixel_units())));
  return shape;
}

void plan_depthwise_channels(const PlanRequest& r, ConvPlan& plan) {
  const int64_t taps = kernel_taps(r.problem), pointer = sizeof(void*);
  if (r.op == ConvOperator::kWgrad) {
    plan.thread_bytes = taps * (pointer + 2 * r.problem.in_channels * r.lanes * r.sum_bytes);
  } else {
    plan.thread_bytes = 5 * taps * pointer;
    plan.shared_bytes = r.problem.groups * taps * gather_rows(r) * gather_depth(r) * r.sum_bytes;
  }
}

void plan_depthwise(const PlanRequest& r, ConvPlan& plan) { plan.thread_bytes = LanePlan(r).band.memory().bytes; }

void plan_correlation(const PlanRequest& r, ConvPlan& plan) {
  const ConvProblem& p = r.problem;
  const CorrelationBands bands = correlation_bands(r);
  const int64_t taps = kernel_taps(p);
  WgradShape& shape = plan.wgrad;
  const int64_t fitting = kCorrelationStageBytes / r.sum_bytes / (bands.in_chunk * bands.channel_size);
  // short chunks leave room for more filters, for which the image is staged once
  shape.filters = std::min(p.out_channels, kCorrelationFilters * kChunkPositions / (bands.in_chunk * bands.length));
  shape.channels = std::clamp<int64_t>(fitting, 1, std::min(p.in_channels, kCorrelationChannels));
  const auto blocks = [&] {
    return p.groups * divide_up(p.out_channels, shape.filters) * divide_up(p.in_channels, shape.channels);
  };
  // Slices where there are fewer than eight blocks, within four megabytes of partial results.
  constexpr int64_t kUnits = 8, kSliceBytes = int64_t{4} << 20;
  const int64_t result_bytes = weight_elements(p) * r.sum_bytes;
  const int64_t most = std::min(bands.chunks(p.batch), kSliceBytes / std::max<int64_t>(1, result_bytes));
  plan.slices = std::clamp<int64_t>(divide_up(kUnits, blocks()), 1, std::max<int64_t>(1, most));
  // Blocks are free to follow the threads.
  constexpr int64_t kFewestFilters = 16, kFewestChannels = 8;
  while (plan.workers > 1 && plan.slices * blocks() < 4 * plan.workers) {
    if (shape.filters >= 2 * kFewestFilters) {
      shape.filters = divide_up(shape.filters, 2);
    } else if (shape.channels >= 2 * kFewestChannels) {
      shape.channels = divide_up(shape.channels, 2);
    } else {
      break;
    }
  }
  plan.in_place = plan.slices == 1 && r.element_bytes == r.sum_bytes && (taps == 1 || !r.result_channels_last);
  plan.shared_bytes = plan.in_place ? 0 : plan.slices * result_bytes;
  plan.thread_bytes = CorrelationWorkspace(bands, shape, taps, r.sum_bytes).bytes(r.sum_bytes);
}

void plan_outer_product(const PlanRequest& r, ConvPlan& plan) {
  const ConvProblem& p = r.problem;
  const OuterLines lines(fprop_region(p), p.batch);
  const int64_t taps = kernel_taps(p), merged = p.groups == 1 && p.axis[2].dilation == 1 ? p.axis[2].kernel : 1;
  const int64_t result_bytes = std::max<int64_t>(1, weight_elements(p) * r.sum_bytes);
  WgradShape& shape = plan.wgrad;
  // Vectors of filters where they are fuller, of results so small that transposing them at the end is nothing.
  constexpr int64_t kSmallResult = 256 << 10, kSliceBytes = int64_t{4} << 20, kUnits = 8, kFewestPixels = 512;
  shape.filters_are_vectors = result_bytes <= kSmallResult && p.out_channels >= r.lanes &&
                              fill(p.out_channels, r.lanes) > 1.1 * fill(merged * p.in_channels, r.lanes);
  // A block's chunk of grad stays in L2, and its filters fill whole tiles.
  const int64_t rows = 8 * r.tile.rows;
  shape.filters = shape.filters_are_vectors ? p.out_channels : std::min(p.out_channels, rows);
  const auto blocks = [&] { return p.groups * divide_up(p.out_channels, shape.filters); };
  const int64_t pixels = p.batch * output_pixels(p);
  const int64_t most = std::min({lines.chunks(p.batch), pixels / kFewestPixels, kSliceBytes / result_bytes});
  plan.slices = std::clamp<int64_t>(divide_up(kUnits, blocks()), 1, std::max<int64_t>(1, most));
  while (!shape.filters_are_vectors && plan.slices * blocks() < 2 * plan.workers && shape.filters > r.tile.rows)
    shape.filters = divide_up(shape.filters, 2);
  shape.channels = p.in_channels;
  plan.in_place = plan.slices == 1 && !shape.filters_are_vectors && (taps == 1 || r.result_channels_last);
  plan.shared_bytes = plan.in_place ? 0 : plan.slices * result_bytes;
  plan.thread_bytes = lines.workspace_elements(p.in_channels) * r.sum_bytes;
}

void plan_packed_conv(const PlanRequest& r, ConvPlan& plan) {
  plan.shape = unit_shape(r, plan.workers);
  plan.channels_inner = r.source_channels_last;
  const int64_t rows = gather_rows(r), groups = r.problem.groups;
  int64_t weight = groups * packed_channels(plan.shape, r.tile, rows) * panel_depth(r) * kernel_taps(r.problem);
  if (plan.shape.packs_own_weight) weight = 0;
  plan.shared_bytes = (weight + groups * packed_channels(plan.shape, r.tile, rows)) * r.sum_bytes;
  plan.thread_bytes = ConvWorkspace(plan.shape, r.tile).elements() * r.sum_bytes;
}

void plan_banded(const PlanRequest& r, ConvPlan& plan) {
  const int64_t threads = plan.workers, rows = gather_rows(r), groups = r.problem.groups;
  const std::vector<Region> regions = regions_of(r);
  // Enough bands for the threads, but not so short that they stage mostly what their neighbours staged.
  int64_t total = 0;
  for (const Region& region : regions) total += r.problem.batch * groups * region.axis[0].count * region.axis[1].count;
  plan.band_rows = std::clamp<int64_t>(divide_up(total, 4 * threads), 8, 64);
  int64_t elements = 0;
  for (const Region& region : regions) {
    const BandedRegion banded(region, rows, panel_depth(r), r.sum_bytes, plan.band_rows);
    elements = std::max(elements, banded.workspace_elements(rows, r.sum_bytes));
  }
  plan.thread_bytes = kReductionBlock * static_cast<int64_t>(sizeof(int64_t)) + elements * r.sum_bytes;
  const int64_t weight = groups * rows * panel_depth(r) * kernel_taps(r.problem);
  plan.shared_bytes = (weight + groups * rows) * r.sum_bytes;
}

void plan_packed_wgrad(const PlanRequest& r, ConvPlan& plan) {
  const ConvProblem& p = r.problem;
  const int64_t pixels = p.batch * output_pixels(p), columns = p.in_channels * kernel_taps(p);
  const int64_t result_bytes =
      std::max<int64_t>(1, p.groups * p.out_channels * round_up(columns, r.tile.columns) * r.sum_bytes);
  // Slices are where parallelism is free of repeated packing; four megabytes of partial results bound them. A small
  // result is cut from fewer pixels on: it would make too few units.
  constexpr int64_t kPixelsPerSlice = 4096, kSliceBytes = int64_t{4} << 20;
  constexpr int64_t kFewestPixels = 1024, kSmallResult = 128 << 10;
  const int64_t of_pixels = pixels / (result_bytes <= kSmallResult ? kFewestPixels : kPixelsPerSlice);
  const int64_t most = std::clamp<int64_t>(std::min(of_pixels, kSliceBytes / result_bytes), 1, 16);
  plan.slices = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(most)));  // divides evenly among threads
  const int64_t threads = plan.workers;
  const int64_t panels = std::max<int64_t>(1, divide_up(p.out_channels, r.tile.rows));
  const int64_t tiles = std::max<int64_t>(1, divide_up(columns, r.tile.columns));
  // 256 rows of packed grad fill a quarter of a megabyte.
  plan.panels = balanced(panels, std::max<int64_t>(1, 256 / r.tile.rows));
  plan.tiles = tiles;
  const int64_t units = plan.slices * p.groups * divide_up(panels, plan.panels);
  if (threads > 1 && units < 4 * threads) {
    plan.tiles = std::max<int64_t>(1, divide_up(tiles, threads / std::gcd(units, threads)));
    const int64_t cut = units * divide_up(tiles, plan.tiles);
    if (cut < threads) plan.panels = divide_up(plan.panels, divide_up(threads, cut));
  }
  plan.in_place = plan.slices == 1 && r.element_bytes == r.sum_bytes;
  plan.finishes_units = plan.slices == 1 && !plan.in_place;
  constexpr int64_t kUnitTiles = 16;  // with 256 rows their sums take half a megabyte
  if (plan.finishes_units) plan.tiles = std::min(plan.tiles, kUnitTiles);
  plan.channel_major = plan.slices == 1 && !r.result_channels_last && kernel_taps(p) > 1;
  plan.shared_bytes = plan.slices == 1 ? 0 : plan.slices * result_bytes;
  plan.thread_bytes = wgrad_workspace(r.tile, plan.panels, plan.finishes_units ? plan.tiles : 0) * r.sum_bytes;
}

std::string depthwise_channels_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  const bool alike = p.in_channels == p.out_channels && p.in_channels > 0;
  if (!alike || p.in_channels > kMostGroupedLanes || !std::has_single_bit(static_cast<uint64_t>(p.in_channels)))
    return "a group has not 1, 2, 4 or 8 channels on both sides";
  if (p.in_channels > r.lanes)
    return "a group of " + std::to_string(p.in_channels) + " channels does not fit a vector of " +
           std::to_string(r.lanes);
  if (!r.source_channels_last || !(r.op == ConvOperator::kWgrad ? r.grad_channels_last : r.result_channels_last))
    return "the images are not channels_last";
  if (p.groups * p.in_channels < r.lanes)
    return std::to_string(p.groups * p.in_channels) + " channels do not fill a vector of " + std::to_string(r.lanes);
  if (r.op == ConvOperator::kDgrad && p.mode != PaddingMode::kZeros)
    return "the gradient of a padding mode folds border pixels";
  if (region_count(r) > kMostRegions) return too_many_regions(r);
  if (kernel_taps(p) * p.in_channels > kReductionBlock)  // longer sums are cut into blocks
    return "a sum has " + std::to_string(kernel_taps(p) * p.in_channels) + " terms, more than " +
           std::to_string(kReductionBlock);
  return "";
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

std::string correlation_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (r.op != ConvOperator::kWgrad) return "it computes wgrad";
  const CorrelationBands bands = correlation_bands(r);
  if (CorrelationWorkspace(bands, {}, kernel_taps(p), r.sum_bytes).bytes(r.sum_bytes) > kMostStageBytes)
    return "a band of the image with its taps needs more than " + std::to_string(kMostStageBytes >> 20) + " MiB";
  if (p.out_channels <= kMostCorrelated && p.in_channels <= kMostCorrelatedInputs) return "";
  if (r.source_channels_last || r.grad_channels_last) return "the images are channels_last";
  const bool strided = std::any_of(p.axis, p.axis + kSpatialAxes, [](const ConvAxis& a) { return a.stride > 1; });
  const int64_t fewest = strided ? kFewestCorrelatedStrided : kFewestCorrelated;
  if (output_pixels(p) < fewest)
    return std::to_string(output_pixels(p)) + " pixels do not repay the sums over lanes, fewer than " +
           std::to_string(fewest);
  if (bands.band.columns * 5 < bands.band.pitch * 3) return "padding would fill two fifths of the columns";
  return "";
}

std::string outer_product_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (r.op != ConvOperator::kWgrad) return "it computes wgrad";
  if (r.element_bytes != r.sum_bytes) return "its operands would have to be widened first";
  const bool one_channel = p.groups * p.in_channels == 1;  // which has no layout
  if (!(r.source_channels_last || one_channel) || !r.grad_channels_last) return "the images are not channels_last";
  if (p.groups > 1 && kernel_taps(p) > 1) return "groups interrupt the runs of taps and channels";
  if (kernel_taps(p) > 1 && output_pixels(p) < kFewestOuterPixels &&
      weight_elements(p) * r.sum_bytes > kMostOuterResult)
    return std::to_string(output_pixels(p)) + " pixels do not repay passing over the result, fewer than " +
           std::to_string(kFewestOuterPixels);
  const OuterLines lines(fprop_region(p), p.batch);
  if (lines.workspace_elements(p.in_channels) * r.sum_bytes > kMostStageBytes)
    return "a chunk of the image needs more than " + std::to_string(kMostStageBytes >> 20) + " MiB";
  return "";
}

std::string banded_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  const int64_t rows = gather_rows(r);
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (r.op == ConvOperator::kWgrad) return "wgrad reduces over pixels";
  if (r.source_channels_last || r.result_channels_last) return "the images are channels_last";
  if (r.op == ConvOperator::kDgrad && p.mode != PaddingMode::kZeros)
    return "the gradient of a padding mode folds border pixels";
  if (region_count(r) > kMostRegions) return too_many_regions(r);
  if (rows > (panel_terms(r) == 1 ? kMostBandedRows : kMostBandedPairRows))
    return std::to_string(rows) + " result channels repay packed panels, more than " + std::to_string(kMostBandedRows);
  if (kernel_taps(p) == 1 && rows > kMostRowsOfOneTap) return "a single tap has no panels to save";
  const std::vector<Region> regions = regions_of(r);
  const auto has_one_tap = [](const Region& region) { return region.taps() <= 1; };
  if (rows > kMostBandedRows && std::all_of(regions.begin(), regions.end(), has_one_tap))
    return "a single tap a phase has no panels to save";
  for (const Region& region : regions) {
    if (region.taps() > kReductionBlock)
      return "the kernel has " + std::to_string(region.taps()) + " taps, more than " + std::to_string(kReductionBlock);
    const BandedRegion banded(region, rows, panel_depth(r), r.sum_bytes, r.problem.axis[1].input);
    if (banded.band.columns * 5 < banded.band.pitch * 3) return "padding would fill two fifths of the columns";
    if (banded.stage_elements() * r.sum_bytes > kMostStageBytes) return "a row of the band is too long to stage";
  }
  return "";
}

// Why an algorithm cannot take the request; empty if it can.
std::string refusal(Algorithm algorithm, const PlanRequest& r) {
  switch (algorithm) {
    case Algorithm::kDepthwiseChannelsLast: return depthwise_channels_refusal(r);
    case Algorithm::kDepthwise: return depthwise_refusal(r);
    case Algorithm::kCorrelation: return correlation_refusal(r);
    case Algorithm::kWinograd: return winograd_refusal(r);
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
    case Algorithm::kDepthwise: return "depthwise";
    case Algorithm::kCorrelation: return "correlation";
    case Algorithm::kWinograd: return "winograd";
    case Algorithm::kCol2im: return "col2im";
    case Algorithm::kOuterProduct: return "outer_product";
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

ConvPlan plan_conv(const PlanRequest& request) {
  ConvPlan plan;
  for (const Algorithm candidate :
       {Algorithm::kDepthwiseChannelsLast, Algorithm::kDepthwise, Algorithm::kWinograd, Algorithm::kCorrelation,
        Algorithm::kOuterProduct, Algorithm::kCol2im, Algorithm::kBanded, Algorithm::kPacked, Algorithm::kDirect}) {
    plan.algorithm = candidate;
    std::string reason = refusal(candidate, request);
    if (reason.empty()) break;
    plan.declined.push_back({candidate, std::move(reason)});
  }
  plan.workers = useful_threads(request);
  switch (plan.algorithm) {
    case Algorithm::kDepthwiseChannelsLast: plan_depthwise_channels(request, plan); break;
    case Algorithm::kDepthwise: plan_depthwise(request, plan); break;
    case Algorithm::kCorrelation: plan_correlation(request, plan); break;
    case Algorithm::kWinograd: plan_winograd(request, plan); break;
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
