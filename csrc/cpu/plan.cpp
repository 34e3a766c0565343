#include "plan.h"

#include <algorithm>

#include "band.h"
#include "channels_plan.h"
#include "col2im_plan.h"
#include "grouped_plan.h"
#include "inner_product_plan.h"
#include "line_plan.h"
#include "packed_plan.h"
#include "wgrad_plan.h"
#include "winograd_plan.h"

namespace convext {
namespace {

constexpr int64_t kMostRegions = 4096;
// Result channels of a group up to which reading the stage in place beats packing it.
constexpr int64_t kMostBandedRows = 64;
// The same where a pixel is read under so many taps (11 x 11 of stride 4, 96 channels: 0.58 ms against 0.89).
constexpr int64_t kMostRowsOfManyReads = 128, kManyReads = 7;
// The same of a depth under a stride, whose short rows are gathered in pieces (3 x 3 x 3, 64 to 128 channels, 8 images
// of 8 x 28 x 28, one thread: 14.2 ms against 16.7).
constexpr int64_t kManyReadsOfDepth = 3;
// The same on pairs, which multiply at twice the rate and are packed at the same (3 x 3 of stride 2, 28 x 28, Zen 4,
// two threads: 128 to 128 channels alike, 256 to 256 1.03 ms in bands, 0.81 packed), where the weight is not read as it
// lies under a stride of one (9 taps in one dimension, 128 to 128 channels, 400 pixels: 0.46 ms in bands, 0.38 packed).
constexpr int64_t kMostBandedPairRows = 128;
// The same for a single tap, which is staged to read whole rows of many channels rather than a panel's width of each;
// but where it reads pixels as they lie, and the result streams to memory, which takes whole rows faster (64 to 64
// channels on 8 images of 56 x 56, two threads: 1.6 ms in bands, 1.9 packed; a single image, one thread: 0.27 both).
constexpr int64_t kMostRowsOfOneTap = 8;
// The same of pairs on images that two vectors hold, of so many pixels for each lane of a sum, whose panels cost next
// to nothing (64 to 64 channels, 3 x 3 on 8 x 8 under stride 2, one thread: 40 us in bands, 23 packed;
// docs/performance_bfloat16.md).
constexpr int64_t kMostRowsOfSmallImages = 8, kSmallImage = 4;
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

std::string too_many_regions(const PlanRequest& r) {
  return "the stride makes " + std::to_string(region_count(r)) + " output phases, more than " +
         std::to_string(kMostRegions);
}
std::string or_too_many_regions(std::string reason, const PlanRequest& r) {
  return reason.empty() && region_count(r) > kMostRegions ? too_many_regions(r) : reason;
}

void plan_depthwise(const PlanRequest& r, ConvPlan& plan) { plan.thread_bytes = LanePlan(r).band.memory().bytes; }

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
    const BandedRegion banded(region, rows, panel_depth(r), r.sum_bytes, is_widened(r), plan.band_rows, reads_zeros(r));
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
  int64_t strides = 1;
  for (const ConvAxis& a : r.problem.axis) strides *= a.stride;
  if (panel_terms(r) > 1 && may_read_lines(r)) {
    const bool dgrad = r.op == ConvOperator::kDgrad;
    if ((dgrad ? output_pixels(r.problem) : input_pixels(r.problem)) <= kSmallImage * r.lanes)
      return kMostRowsOfSmallImages;
    if (strides == 1) return kMostBandedRows;
  }
  if (panel_terms(r) > 1) return kMostBandedPairRows;
  const int64_t many = r.problem.axis[0].kernel > 1 && strides > 1 ? kManyReadsOfDepth : kManyReads;
  const bool few_reads = r.op == ConvOperator::kDgrad || kernel_taps(r.problem) < many * strides;
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
  if (kernel_taps(p) == 1 && rows > kMostRowsOfOneTap && !(reads_in_order(r) && streams_result(r)))
    return "a single tap has no panels to save";
  const std::vector<Region> regions = regions_of(r);
  const auto has_one_tap = [](const Region& region) { return region.taps() <= 1; };
  if (rows > kMostBandedRows && std::all_of(regions.begin(), regions.end(), has_one_tap))
    return "a single tap a phase has no panels to save";
  for (const Region& region : regions) {
    if (region.taps() > kReductionBlock)
      return "the kernel has " + std::to_string(region.taps()) + " taps, more than " + std::to_string(kReductionBlock);
    const BandedRegion banded(region, rows, panel_depth(r), r.sum_bytes, is_widened(r), r.problem.axis[1].input,
                              reads_zeros(r));
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
