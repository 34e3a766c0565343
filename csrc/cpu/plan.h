// Which algorithm a convolution gets, and how it is cut: one pure function from a request to a plan.
#pragma once

#include <string>
#include <vector>

#include "col2im_job.h"
#include "depthwise_shifted_job.h"
#include "grouped_job.h"
#include "lane_band.h"
#include "packed.h"
#include "staged_wgrad_shape.h"
#include "winograd_job.h"

namespace convext {

// Candidates in the order they are tried; the last one takes everything.
enum class Algorithm {
  kDepthwiseChannelsLast,
  kDepthwiseShifted,
  kDepthwiseRows,
  kDepthwise,
  kGrouped,
  kInnerProduct,
  kRowCombination,
  kWinograd,
  kCorrelation,
  kOuterProduct,
  kNarrowChannelsLast,
  kCol2im,
  kBanded,
  kPacked,
  kDirect
};
const char* algorithm_name(Algorithm algorithm);

struct PlanRequest {
  ConvOperator op = ConvOperator::kFprop;
  ConvProblem problem;
  bool packed_type = true;            // float32, float64, bfloat16 or float16
  bool source_channels_last = false;  // the gathered image's channels are contiguous
  bool result_channels_last = false;  // the result's channels are contiguous
  bool grad_channels_last = false;    // wgrad: those of grad_output are
  bool weight_channels_last = false;  // input channels under a tap are contiguous in the weight
  Tile tile;                          // of the engine, for the element type
  int lanes = 16;                     // of a vector of the sum type
  int element_bytes = 4;              // of the element type
  int sum_bytes = 4;                  // of the type that sums are kept in
  int kernel_terms = 1;               // most terms of the reduction in an element of a panel
  int64_t threads = 1;
  bool weight_in_order = true;  // the weight's rows are contiguous, taps inside of channels
  bool weight_dense = true;     // and nothing lies between them
  bool winograd = true;         // may be used
  bool operator==(const PlanRequest&) const = default;
};

struct Declined {
  Algorithm algorithm;
  std::string reason;
};

struct ConvPlan {
  Algorithm algorithm = Algorithm::kDirect;
  // Packed fprop and dgrad.
  UnitShape shape;
  bool channels_inner = false;
  bool zones = false;  // of an only region are run apart, each in parts
  int64_t zone_parts = 1;
  WinogradShape winograd;
  WinogradWgradShape winograd_wgrad;
  Col2imShape col2im;
  InnerProductShape inner_product;
  GroupedShape grouped;
  ShiftedShape shifted;
  // Banded.
  int64_t band_rows = 1;
  // Packed wgrad.
  int64_t slices = 1;
  int64_t panels = 1, tiles = 1;
  bool in_place = false, finishes_units = false, channel_major = false;
  bool boxes = false;   // taps are products of their own
  bool staged = false;  // taps share a stage of the source
  StagedWgradShape staged_wgrad;
  // Correlation and outer products.
  WgradShape wgrad;
  // Bytes: shared_bytes once and thread_bytes for each of the workers.
  int64_t shared_bytes = 0, thread_bytes = 0, workers = 1;
  int64_t workspace_bytes() const { return shared_bytes + workers * thread_bytes; }
};

// `declined`: gets the candidates before the plan's algorithm, and why each is not it.
ConvPlan plan_conv(const PlanRequest& request, std::vector<Declined>* declined = nullptr);

// The gathers that make up the operator; wgrad reads its input through fprop's.
std::vector<Region> regions_of(const PlanRequest& request);

// The bands of the depthwise algorithm; the phases of each axis must stay where they are.
struct LanePlan {
  std::vector<GatherAxis> phases[kSpatialAxes];
  LaneBand band;
  explicit LanePlan(const PlanRequest& request);
  LanePlan(const LanePlan&) = delete;
  LanePlan& operator=(const LanePlan&) = delete;
};

// Output channels of a group up to which a filter at a time beats a matrix product.
inline constexpr int64_t kMostMultiplier = 4;

// Share of the columns of whole tiles that n columns fill.
inline double fill(int64_t n, int64_t tile) { return n == 0 ? 1.0 : static_cast<double>(n) / round_up(n, tile); }

// Result and source channels of one group, seen from the operator's gather.
inline int64_t gather_rows(const PlanRequest& r) {
  return r.op == ConvOperator::kDgrad ? r.problem.in_channels : r.problem.out_channels;
}
inline int64_t gather_depth(const PlanRequest& r) {
  return r.op == ConvOperator::kDgrad ? r.problem.out_channels : r.problem.in_channels;
}

// Output phases, which the stride of dgrad makes, each a region of its own.
inline int64_t region_count(const PlanRequest& r) {
  return r.op == ConvOperator::kDgrad ? count_dgrad_regions(r.problem) : 1;
}

// Terms of the reduction that an element of a panel holds. Folded borders are sums, which are not narrowed to be
// paired.
inline int panel_terms(const PlanRequest& r) {
  const bool folded = r.op == ConvOperator::kDgrad && r.problem.mode != PaddingMode::kZeros;
  return folded ? 1 : r.kernel_terms;
}
// Whether elements are widened to the type of the sums before they are multiplied.
inline bool is_widened(const PlanRequest& r) { return r.element_bytes != r.sum_bytes; }
// Whether what is beside the source are zeros: the gradient of a padding mode folds border pixels instead.
inline bool reads_zeros(const PlanRequest& r) {
  return r.op == ConvOperator::kDgrad || r.problem.mode == PaddingMode::kZeros;
}
// Channels of the panels' reduction: of the source, or pairs of them.
inline int64_t panel_depth(const PlanRequest& r) { return divide_up(gather_depth(r), panel_terms(r)); }

}  // namespace convext
