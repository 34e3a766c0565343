#include "wgrad_plan.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "band.h"
#include "correlation_shape.h"
#include "outer_lines.h"

namespace convext {
namespace {

// Output and input channels of a group up to which correlation is taken in any layout and of any image.
constexpr int64_t kMostCorrelated = 16, kMostCorrelatedInputs = 8;
// Positions of an image from which the sums over a vector's lanes at the end of a chunk are repaid.
constexpr int64_t kFewestCorrelated = 128;
// The same under a stride, where staging costs more.
constexpr int64_t kFewestCorrelatedStrided = 512;
// Of pairs, which panels multiply as fast once they are packed: filters of a group up to which their rows are not worth
// packing, whatever else; up to which they are not if an image has fewer than so many positions; and under several
// taps.
constexpr int64_t kFewPairedFilters = 16, kMostFiltersOfFewPairs = 64, kFewPairedPositions = 512;
constexpr int64_t kMostPairedFilters = 256;
// The same under a stride; there staging is repaid by taps that read what others have read.
constexpr int64_t kMostStridedFilters = 128, kFewestStridedPositions = 768, kFewestStridedReads = 3;
// Outer products pass over the result once a chunk: of few pixels and results beyond L2, panels were faster (7 x 7
// pixels of 512 x 512 channels under 3 x 3 taps: 0.99 against 1.28 ms).
constexpr int64_t kFewestOuterPixels = 64, kMostOuterResult = int64_t{4} << 20;
// Share of the products from which on taps are multiplied apart, each without the pixels at which it reads padding; and
// the fewest channels of a group on either side, as each gathers the image's and the gradient's anew, and the fewest
// pixels, as the taps' sums are collected in memory.
constexpr double kMostBoxWork = 0.8;
constexpr int64_t kFewestBoxed = 64, kFewestBoxPixels = 256;

// Channels of a group on either side from which on taps share a stage; and pixels of the batch, or taps, that repay
// turning the sums at the end (512 x 512 channels on one map of 7 x 7, 3 x 3 taps: 1.1 ms on panels, 1.7 staged). Long
// rows of 1-D under few taps are gathered as fast.
constexpr int64_t kFewestStagedChannels = 16, kFewestStagedPixels = 128, kManyStagedTaps = 16;
// Panels turn rows of pixels where they lie, if they are long enough: under a single tap from so many channels on of
// either side for images of so few pixels, which leave many sums over lanes, and for those under a stride, which would
// be staged; of larger ones from so many more. The same in 1-D for up to so many taps, which are as many turns, but no
// stage.
constexpr int64_t kFewestTurnedChannels = 48, kMostPixelsOfOneTap = 400, kManyTurnedChannels = 256;
constexpr int64_t kFewestTurnedOf1d = 64, kMostTurnedTapsOf1d = 3;
// Correlation stages anew for every block of filters, under a stride four times as much or more: from so many channels
// on either side it leaves these layers to the shared stage, and also those whose rows are mostly padding. (In 1-D rows
// are long.)
constexpr int64_t kMostStridedCorrelated = 31, kMostStridedCorrelatedOf1d = 63;

// Columns of a row of taps, pixels of an image and bytes of a result for which lines are turned to outer products.
constexpr int64_t kFewestTurnedColumns = 8, kFewestTurnedPixels = 128, kMostTurnedResult = 256 << 10;
// Pixels of an image up to which a shared stage is as good where there are channels enough for one.
constexpr int64_t kMostStagedPixels = 400;

bool repays_boxes(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (p.mode != PaddingMode::kZeros || std::min(p.in_channels, p.out_channels) < kFewestBoxed) return false;
  if (output_pixels(p) < kFewestBoxPixels) return false;
  double share = 1;  // the box of a tap is a product over the axes, and so is the sum over all
  for (const ConvAxis& a : p.axis) {
    if (a.kernel > kReductionBlock || a.output == 0) return false;
    int64_t read = 0;
    for (int64_t t = 0; t < a.kernel; ++t) {
      const int64_t off = t * a.dilation - a.lo;
      const int64_t first = off >= 0 ? 0 : divide_up(-off, a.stride);
      const int64_t last = off >= a.input ? 0 : divide_up(a.input - off, a.stride);
      read += std::max<int64_t>(0, std::min(last, a.output) - first);
    }
    share *= static_cast<double>(read) / static_cast<double>(a.kernel * a.output);
  }
  return share < kMostBoxWork;
}

bool is_1d(const ConvProblem& p) { return p.axis[0].output == 1 && p.axis[1].output == 1; }

// Whether taps share a stage of the source (staged_wgrad.h) where correlation declines.
bool repays_stage(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  const int64_t taps = kernel_taps(p), pixels = p.batch * output_pixels(p);
  if (!r.packed_type || panel_terms(r) > 1 || r.source_channels_last || r.grad_channels_last) return false;
  const int64_t channels = std::min(p.in_channels, p.out_channels);
  if (channels < kFewestStagedChannels || pixels == 0) return false;
  if (taps == 1 || ((pixels < kFewestStagedPixels || is_1d(p)) && taps < kManyStagedTaps)) return false;
  const StagedWgradBands bands(fprop_region(p), p, r.tile, r.sum_bytes);
  return StagedWgradWorkspace(bands, {1, 1}, taps, r.tile).bytes(r.sum_bytes) <= kMostStageBytes;
}

// Whether outer products of lines that are turned first repay that (turned_wgrad.h): images of few channels, so that
// little is staged, under taps enough to fill a tile.
bool repays_turning(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type || r.element_bytes != r.sum_bytes || p.groups != 1 || r.grad_channels_last) return false;
  if (r.source_channels_last && p.in_channels > 1) return false;
  const int64_t run = p.in_channels * p.axis[2].kernel;  // of columns
  if (p.in_channels > kMostTurnedChannels || p.out_channels < r.lanes || run < kFewestTurnedColumns) return false;
  // On small maps a shared stage is as good (16 to 48 channels, 5 x 5 on 14 x 14, batch 8: 0.18 ms, turned 0.20).
  if (p.in_channels >= kFewestStagedChannels && output_pixels(p) <= kMostStagedPixels) return false;
  if (output_pixels(p) < kFewestTurnedPixels || weight_elements(p) * r.sum_bytes > kMostTurnedResult) return false;
  for (const int i : {1, 2})
    if (p.axis[i].kernel > 1 && p.axis[i].dilation > 1) return false;
  const Region region = fprop_region(p);
  const OuterLines lines(region, p.batch);
  return TurnedLines(lines, region, p.in_channels, p.out_channels, r.lanes).elements() * r.sum_bytes <= kMostStageBytes;
}

// Whether rows of pixels are better turned to panels than summed over lanes.
bool repays_turned_panels(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  const int64_t taps = kernel_taps(p), channels = std::min(p.in_channels, p.out_channels);
  const bool strided = std::any_of(p.axis, p.axis + kSpatialAxes, [](const ConvAxis& a) { return a.stride > 1; });
  if (taps == 1) {
    const bool few_pixels = strided || output_pixels(p) <= kMostPixelsOfOneTap;
    return channels >= (few_pixels ? kFewestTurnedChannels : kManyTurnedChannels);
  }
  return is_1d(p) && !strided && taps <= kMostTurnedTapsOf1d && channels >= kFewestTurnedOf1d;
}

StagedElement staged_element(const PlanRequest& r) {
  return {panel_terms(r) > 1 ? r.element_bytes : r.sum_bytes, panel_terms(r)};
}

CorrelationBands correlation_bands(const PlanRequest& r) {
  return CorrelationBands(fprop_region(r.problem), r.problem.batch, staged_element(r));
}

// Why pairs are better packed than correlated; empty if they are not.
std::string packed_pairs_reason(const ConvProblem& p) {
  const int64_t strides = p.axis[0].stride * p.axis[1].stride * p.axis[2].stride;
  const int64_t taps = kernel_taps(p), filters = p.out_channels, positions = output_pixels(p);
  if (filters <= kFewPairedFilters) return "";
  if (strides > 1 && taps < kFewestStridedReads * strides)
    return std::to_string(taps) + " taps under a stride do not repay a stage of pairs";
  if (strides > 1 && positions < kFewestStridedPositions)
    return std::to_string(positions) + " pixels under a stride do not repay a stage of pairs";
  int64_t most = taps > 1 ? kMostPairedFilters : filters;
  if (strides > 1) most = kMostStridedFilters;
  if (positions < kFewPairedPositions) most = kMostFiltersOfFewPairs;
  if (filters <= most) return "";
  return std::to_string(filters) + " filters repay packed pairs, more than " + std::to_string(most);
}

}  // namespace

std::string correlation_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (p.in_channels == 0 || p.out_channels == 0) return "there is nothing to multiply";
  const CorrelationBands bands = correlation_bands(r);
  const StagedElement staged = staged_element(r);
  if (CorrelationWorkspace(bands, {}, kernel_taps(p), staged).bytes(staged) > kMostStageBytes)
    return "a band of the image with its taps needs more than " + std::to_string(kMostStageBytes >> 20) + " MiB";
  if (repays_turning(r)) return "few channels are better turned to vectors of filters than summed over lanes";
  if (p.out_channels <= kMostCorrelated && p.in_channels <= kMostCorrelatedInputs) return "";
  if (r.source_channels_last || r.grad_channels_last) return "the images are channels_last";
  const bool strided = std::any_of(p.axis, p.axis + kSpatialAxes, [](const ConvAxis& a) { return a.stride > 1; });
  const bool pairs = panel_terms(r) > 1;
  const int64_t taps = kernel_taps(p);
  const int64_t fewest = strided && !pairs ? kFewestCorrelatedStrided : kFewestCorrelated;
  if (output_pixels(p) < fewest)
    return std::to_string(output_pixels(p)) + " pixels do not repay the sums over lanes, fewer than " +
           std::to_string(fewest);
  if (bands.band.columns * 5 < bands.band.pitch * 3) return "padding would fill two fifths of the columns";
  if (!pairs) {
    const int64_t most = is_1d(p) ? kMostStridedCorrelatedOf1d : kMostStridedCorrelated;
    if (strided && taps > 1 && std::min(p.in_channels, p.out_channels) > most)
      return "under a stride " + std::to_string(std::min(p.in_channels, p.out_channels)) +
             " channels on either side repay a stage that all filters share, more than " + std::to_string(most);
    if (bands.band.columns * 5 < bands.band.pitch * 4 && repays_stage(r))
      return "padding would fill a fifth of the columns";
    if (repays_turned_panels(r))
      return std::to_string(output_pixels(p)) + " pixels of many channels are better turned than summed over lanes";
  }
  return pairs ? packed_pairs_reason(p) : "";
}

std::string outer_product_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (p.in_channels == 0 || p.out_channels == 0) return "there is nothing to multiply";
  if (r.element_bytes != r.sum_bytes) return "its operands would have to be widened first";
  if (repays_turning(r)) return "";
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

void plan_correlation(const PlanRequest& r, ConvPlan& plan) {
  const ConvProblem& p = r.problem;
  const CorrelationBands bands = correlation_bands(r);
  const int64_t taps = kernel_taps(p);
  const StagedElement staged = staged_element(r);
  WgradShape& shape = plan.wgrad;
  const int64_t fitting = kCorrelationStageBytes / staged.bytes / (bands.in_chunk * bands.channel_size);
  // short chunks leave room for more filters, for which the image is staged once
  shape.filters = std::min(p.out_channels, kCorrelationFilters * staged.chunk() / (bands.in_chunk * bands.length));
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
  plan.thread_bytes = CorrelationWorkspace(bands, shape, taps, staged).bytes(staged);
}

void plan_outer_product(const PlanRequest& r, ConvPlan& plan) {
  const ConvProblem& p = r.problem;
  const OuterLines lines(fprop_region(p), p.batch);
  const int64_t taps = kernel_taps(p), merged = p.groups == 1 && p.axis[2].dilation == 1 ? p.axis[2].kernel : 1;
  const int64_t result_bytes = std::max<int64_t>(1, weight_elements(p) * r.sum_bytes);
  WgradShape& shape = plan.wgrad;
  // Vectors of filters where they are fuller, of results so small that transposing them at the end is nothing.
  constexpr int64_t kSmallResult = 256 << 10, kSliceBytes = int64_t{4} << 20, kUnits = 8, kFewestPixels = 512;
  shape.turns_images = repays_turning(r);
  shape.filters_are_vectors =
      shape.turns_images || (result_bytes <= kSmallResult && p.out_channels >= r.lanes &&
                             fill(p.out_channels, r.lanes) > 1.1 * fill(merged * p.in_channels, r.lanes));
  // A block's chunk of grad stays in L2, and its filters fill whole tiles.
  const int64_t rows = 8 * r.tile.rows;
  shape.filters = shape.filters_are_vectors ? p.out_channels : std::min(p.out_channels, rows);
  const auto blocks = [&] { return p.groups * divide_up(p.out_channels, shape.filters); };
  constexpr int64_t kFewestTurned = 384;  // two slices of 28 x 28, four of 55 x 55, whose results outgrow a cache
  const int64_t pixels = p.batch * output_pixels(p), fewest = shape.turns_images ? kFewestTurned : kFewestPixels;
  const int64_t most = std::min({lines.chunks(p.batch), pixels / fewest, kSliceBytes / result_bytes});
  const int64_t slices = std::clamp<int64_t>(divide_up(kUnits, blocks()), 1, std::max<int64_t>(1, most));
  plan.slices = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(slices)));  // divides evenly among threads
  while (!shape.filters_are_vectors && plan.slices * blocks() < 2 * plan.workers && shape.filters > r.tile.rows)
    shape.filters = divide_up(shape.filters, 2);
  shape.channels = p.in_channels;
  plan.in_place = plan.slices == 1 && !shape.filters_are_vectors && (taps == 1 || r.result_channels_last);
  plan.shared_bytes = plan.in_place ? 0 : plan.slices * result_bytes;
  int64_t elements = lines.workspace_elements(p.in_channels);
  if (shape.turns_images)
    elements = TurnedLines(lines, fprop_region(p), p.in_channels, p.out_channels, r.lanes).elements();
  plan.thread_bytes = elements * r.sum_bytes;
}

// A tap's box at a time: units of all filters if their packed pixels stay in half of L2, as the image is packed for
// each block of them.
void plan_boxes(const PlanRequest& r, ConvPlan& plan) {
  const ConvProblem& p = r.problem;
  constexpr int64_t kMostRows = 512;
  const int64_t panels = divide_up(p.out_channels, r.tile.rows), tiles = divide_up(p.in_channels, r.tile.columns);
  plan.boxes = true;
  plan.panels = balanced(panels, divide_up(kMostRows, r.tile.rows));
  plan.tiles = divide_up(tiles, std::min(tiles, 2 * plan.workers));
  plan.shared_bytes =
      p.groups * p.out_channels * kernel_taps(p) * round_up(p.in_channels, r.tile.columns) * r.sum_bytes;
  plan.thread_bytes = wgrad_workspace(r.tile, plan.panels, 0) * r.sum_bytes;
}

// Filters and channels of a unit, so that the busiest thread has the least to do. In cycles a pixel: a row of a panel
// takes one for each tile and tap, a tile of one vector somewhat more than half; what is packed or staged, about half a
// cycle an element. Panels are as high as the tile allows, or as much lower as gives every thread as many (64 filters,
// two threads: six of 11 instead of five of 13).
void plan_stage(const PlanRequest& r, ConvPlan& plan) {
  constexpr int64_t kMostRows = 256, kMostSumBytes = 384 << 10;
  constexpr double kMoved = 0.5, kVectorTile = 0.57, kLowestPanel = 0.75;
  const ConvProblem& p = r.problem;
  const StagedWgradBands bands(fprop_region(p), p, r.tile, r.sum_bytes);
  const int64_t taps = kernel_taps(p), tiles = divide_up(p.in_channels, r.tile.columns);
  const bool ends_with_vector = p.in_channels - (tiles - 1) * r.tile.columns <= r.lanes;
  const double all_tiles = static_cast<double>(tiles) - (ends_with_vector ? 1 - kVectorTile : 0);
  const double places = static_cast<double>(bands.band.vectors()) / static_cast<double>(bands.pixels());
  const auto unit_cost = [&](int64_t rows, double of_tiles, int64_t units) {
    const double filters = static_cast<double>(rows), tile = static_cast<double>(r.tile.columns);
    return of_tiles * (filters * static_cast<double>(taps) + kMoved * places * tile) +
           static_cast<double>(units) * kMoved * filters;
  };
  double least = 0;
  const auto consider = [&](int64_t height) {
    const int64_t panels = divide_up(p.out_channels, height);
    for (int64_t t = 1; t <= bands.most_tiles; ++t)
      for (int64_t n = 1; n <= std::min(panels, divide_up(kMostRows, r.tile.rows)); ++n) {
        const int64_t rows = std::min(n * height, p.out_channels);
        if (n > 1 && rows * t * taps * r.tile.columns * r.sum_bytes > kMostSumBytes) break;
        // units of all channels of some filters follow each other
        const int64_t columns = divide_up(tiles, t),
                      rounds = divide_up(p.groups * divide_up(panels, n) * columns, plan.workers);
        const double cost = static_cast<double>(rounds / columns) * unit_cost(rows, all_tiles, columns) +
                            static_cast<double>(rounds % columns) * unit_cost(rows, static_cast<double>(t), 1);
        if (least > 0 && cost >= least) continue;
        least = cost;
        plan.staged_wgrad = {n, t, height};
      }
  };
  const int64_t fewest = std::max<int64_t>(1, divide_up(p.out_channels, r.tile.rows));
  consider(std::max<int64_t>(1, divide_up(p.out_channels, fewest)));
  const int64_t even = divide_up(p.out_channels, round_up(fewest, plan.workers));
  if (static_cast<double>(even) >= kLowestPanel * static_cast<double>(r.tile.rows)) consider(even);
  plan.staged = true;
  plan.thread_bytes = StagedWgradWorkspace(bands, plan.staged_wgrad, taps, r.tile).bytes(r.sum_bytes);
  // A cut image gets what any cut may need, so that the workspace of large images does not depend on how they are cut.
  constexpr int64_t kCutBytes = int64_t{3} << 19;
  if (bands.band.bands() > 1) plan.thread_bytes = std::max(plan.thread_bytes, kCutBytes);
}

// Panels of filters and tiles of columns of a unit, so that the busiest thread has the least to do. In cycles a pixel:
// a row of a panel takes one for each tile; what is packed, about half a cycle an element.
void cut_product(const PlanRequest& r, int64_t panels, int64_t tiles, ConvPlan& plan) {
  // Half of L2 for the packed gradient; a quarter where the unit's sums are beside it.
  const int64_t bytes = r.element_bytes == r.sum_bytes ? 512 << 10 : 256 << 10;
  const int64_t most_panels = divide_up(bytes, kReductionBlock * r.sum_bytes * r.tile.rows);
  constexpr double kMoved = 0.5;
  constexpr int64_t kMostCuts = 32;
  const int64_t fewest = divide_up(panels, most_panels), more = std::min(2 * plan.workers, kMostCuts);
  double least = 0;
  for (int64_t across = 1; across <= std::min(tiles, more); ++across)
    for (int64_t down = fewest; down <= std::min(panels, fewest + more); ++down) {
      const int64_t unit_panels = divide_up(panels, down), unit_tiles = divide_up(tiles, across);
      const int64_t units =
          plan.slices * r.problem.groups * divide_up(panels, unit_panels) * divide_up(tiles, unit_tiles);
      const auto rows = static_cast<double>(unit_panels * divide_up(r.problem.out_channels, panels));
      const auto columns = static_cast<double>(unit_tiles);
      const double cost = static_cast<double>(divide_up(units, plan.workers)) *
                          (rows * columns + kMoved * (rows + columns * static_cast<double>(r.tile.columns)));
      if (least > 0 && cost >= least) continue;
      least = cost;
      plan.panels = unit_panels, plan.tiles = unit_tiles;
    }
}

// The factor of cuts that gives every thread as many of so many units.
int64_t cuts_for_all(int64_t units, int64_t threads) { return threads / std::gcd(units, threads); }

// The same for pairs, whose products take half as long.
void cut_pairs(const PlanRequest& r, int64_t panels, int64_t tiles, ConvPlan& plan) {
  const int64_t threads = plan.workers;
  // 256 rows of packed grad fill a quarter of a megabyte. Each block of rows gathers the image anew.
  plan.panels = balanced(panels, divide_up(256, r.tile.rows));
  plan.tiles = tiles;
  const int64_t units = plan.slices * r.problem.groups * divide_up(panels, plan.panels);
  if (threads == 1 || units >= 4 * threads) return;
  plan.tiles = std::max<int64_t>(1, divide_up(tiles, cuts_for_all(units, threads)));
  const int64_t cut = units * divide_up(tiles, plan.tiles);
  if (cut < threads) plan.panels = divide_up(plan.panels, divide_up(threads, cut));
}

void plan_packed_wgrad(const PlanRequest& r, ConvPlan& plan) {
  const ConvProblem& p = r.problem;
  if (repays_boxes(r)) return plan_boxes(r, plan);
  if (repays_stage(r)) return plan_stage(r, plan);
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
  const int64_t panels = std::max<int64_t>(1, divide_up(p.out_channels, r.tile.rows));
  const int64_t tiles = std::max<int64_t>(1, divide_up(columns, r.tile.columns));
  if (panel_terms(r) > 1) {
    cut_pairs(r, panels, tiles, plan);
  } else {
    cut_product(r, panels, tiles, plan);
  }
  plan.in_place = plan.slices == 1 && r.element_bytes == r.sum_bytes;
  plan.finishes_units = plan.slices == 1 && !plan.in_place;
  constexpr int64_t kUnitTiles = 16;  // with 256 rows their sums take half a megabyte
  if (plan.finishes_units && plan.tiles > kUnitTiles) {
    const int64_t units = plan.slices * p.groups * divide_up(panels, plan.panels);
    plan.tiles = divide_up(tiles, round_up(divide_up(tiles, kUnitTiles), cuts_for_all(units, plan.workers)));
  }
  plan.channel_major = plan.slices == 1 && !r.result_channels_last && kernel_taps(p) > 1;
  plan.shared_bytes = plan.slices == 1 ? 0 : plan.slices * result_bytes;
  plan.thread_bytes = wgrad_workspace(r.tile, plan.panels, plan.finishes_units ? plan.tiles : 0) * r.sum_bytes;
}

}  // namespace convext
