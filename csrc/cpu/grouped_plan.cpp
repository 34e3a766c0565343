#include "grouped_plan.h"

#include "line_plan.h"
#include "winograd_plan.h"

namespace convext {
namespace {

// Units are groups, whose number must feed the threads whatever the batch.
constexpr int64_t kFewestGroups = 8;
// The stage of an image and the sums of its result stay in an L2 of 1 MiB.
constexpr int64_t kMostImageBytes = 256 << 10;
// Share of the lanes that channels must fill.
constexpr double kLeastFill = 0.75;
// The same of a strided dgrad, which the others have to fold (8 channels, 56 x 56: 0.61 against 0.66 to 0.73 ms).
constexpr double kLeastFillFolded = 0.5;
// Taps up to which wgrad by rows keeps all sums in registers (5 x 5 on 28 x 28: 0.128 against 0.104 ms by planes).
constexpr int64_t kMostTapsByRows = 9;
// Result pixels up to which transforming the weight costs more than Winograd's algorithm saves.
constexpr int64_t kFewPixels = 64;
// Taps from which an image of so few pixels is better widened than multiplied in pairs (48 channels of a group, 49
// pixels, fprop: 128 taps 3.4 against 3.0 ms, 96 taps 2.6 against 2.3, 64 taps 1.46 against 1.47).
constexpr int64_t kManyTaps = 96;
// Strides of rows that are shifted in registers: two vectors hold what one vector of positions reads.
constexpr int64_t kMostShiftedStride = 2;
// Rows between the first and the last of a kernel: neighbouring taps are looked for in all of them, once a thread.
constexpr int64_t kMostShiftedExtent = 1024;
// Taps up to which planes that share vectors are worth it: under more of them, most rows of taps read padding (7 x 7 of
// 7 x 7 pixels, 768 channels: 73 against 60 us).
constexpr int64_t kMostTapsOfPairs = 9;
// The same of wgrad where a row is one vector.
constexpr int64_t kMostTapsOfShortRows = 25;
// Rows of a result from which tiles of rows share what they load.
constexpr int64_t kFewestRows = 4;

GroupedShape grouped_shape(const PlanRequest& r) {
  return GroupedShape(r.problem, r.op, regions_of(r), r.lanes, r.sum_bytes);
}

// What none of these algorithms can take.
std::string common_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (p.axis[0].input != 1 || p.axis[0].output != 1 || p.axis[0].kernel != 1) return "the images have a depth";
  if (r.op == ConvOperator::kDgrad && p.mode != PaddingMode::kZeros)
    return "the gradient of a padding mode folds border pixels";
  if (output_pixels(p) == 0 || input_pixels(p) == 0 || p.in_channels == 0 || p.out_channels == 0)
    return "there is nothing to multiply";
  if (p.axis[1].stride * p.axis[2].stride > kReductionBlock)
    return "the stride has more than " + std::to_string(kReductionBlock) + " phases";
  return "";
}

// Whether the result has phases, which other algorithms interleave or, of NCHW, fold.
bool is_folded(const PlanRequest& r) {
  return r.op == ConvOperator::kDgrad && (r.problem.axis[1].stride > 1 || r.problem.axis[2].stride > 1);
}

// What depthwise layers by planes cannot take.
std::string plane_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (p.in_channels != 1) return "a group has " + std::to_string(p.in_channels) + " input channels, not one";
  if (p.out_channels > kMostMultiplier)
    return "a group has " + std::to_string(p.out_channels) + " output channels, more than " +
           std::to_string(kMostMultiplier);
  if (r.source_channels_last || (r.op == ConvOperator::kWgrad ? r.grad_channels_last : r.result_channels_last))
    return "the images are channels_last";
  return common_refusal(r);
}

// Why channels_last images are better packed than turned: panels have no use for that. Two threads of a Zen 4, packed
// and turned: 32 groups of 16 on 14 x 14 198 and 194 us, wgrad 234 and 172; under a stride of 2 225 and 246, dgrad 257
// and 219, wgrad 275 and 220; two vectors, 32 groups of 32 under a stride of 2, 244 and 263, wgrad 205 and 261.
std::string turned_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.source_channels_last) return "";
  if (p.mode != PaddingMode::kZeros) return "borders would be turned pixel by pixel";
  if (gather_rows(r) > r.lanes)
    return std::to_string(gather_rows(r)) + " channels_last channels of a group are more than a vector of " +
           std::to_string(r.lanes);
  if (r.op == ConvOperator::kFprop && (p.axis[1].stride > 1 || p.axis[2].stride > 1))
    return "more channels_last pixels would be turned than there are results";
  return "";
}

// Whether groups of a level that multiplies pairs are better widened, and multiplied at half the rate: NCHW images of
// few pixels, gradients that the others fold, and those to the weights of so few channels that pairs are correlated
// (docs/performance_bfloat16.md).
bool repays_widening(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (r.source_channels_last) return false;
  const bool few = output_pixels(p) <= kFewPixels, many_taps = kernel_taps(p) >= kManyTaps;
  switch (r.op) {
    case ConvOperator::kFprop: return few && many_taps;
    case ConvOperator::kDgrad: return is_folded(r) || (few && !reads_tap_lines(r));
    case ConvOperator::kWgrad: return (few && many_taps) || p.in_channels <= r.lanes;
  }
  return false;
}

}  // namespace

std::string grouped_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (p.groups < kFewestGroups) return "fewer than " + std::to_string(kFewestGroups) + " groups make too few units";
  const int64_t rows = gather_rows(r);
  if (rows > kMostGroupedChannels ||
      fill(rows, r.lanes) < (is_folded(r) && !r.result_channels_last ? kLeastFillFolded : kLeastFill))
    return std::to_string(rows) + " result channels of a group do not fill vectors of " + std::to_string(r.lanes) +
           ", or are more than " + std::to_string(kMostGroupedChannels);
  if (std::string reason = common_refusal(r); !reason.empty()) return reason;
  if (panel_terms(r) > 1 && !repays_widening(r)) return "products of pairs run at twice its rate";
  if (kernel_taps(p) == 1) return "a single tap has nothing to stage";
  if (std::string reason = turned_refusal(r); !reason.empty()) return reason;
  if (kernel_taps(p) > kReductionBlock)
    return "the kernel has " + std::to_string(kernel_taps(p)) + " taps, more than " + std::to_string(kReductionBlock);
  if (output_pixels(p) > kFewPixels && winograd_refusal(r).empty()) return "Winograd's algorithm multiplies less";
  const GroupedShape shape = grouped_shape(r);
  if (std::max(shape.stage_elements(), shape.sum_elements(r.lanes)) * r.sum_bytes > kMostImageBytes)
    return "an image of one group needs more than " + std::to_string(kMostImageBytes >> 10) + " KiB";
  return "";
}

void plan_grouped(const PlanRequest& r, ConvPlan& plan) {
  plan.grouped = grouped_shape(r);
  if (r.op == ConvOperator::kWgrad) {
    plan.thread_bytes = GroupedWgradWorkspace(plan.grouped, r.lanes, r.sum_bytes).bytes;
  } else {
    plan.thread_bytes = GroupedWorkspace(plan.grouped, r.lanes, r.sum_bytes).bytes;
    plan.shared_bytes = r.problem.groups * gather_rows(r) * r.sum_bytes;  // the bias
  }
}

std::string depthwise_shifted_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  const ConvAxis &h = p.axis[1], &w = p.axis[2];
  if (std::string reason = plane_refusal(r); !reason.empty()) return reason;
  if (r.lanes * r.sum_bytes != kShiftedVectorBytes)
    return "vectors have fewer than " + std::to_string(kShiftedVectorBytes) + " bytes";
  if (p.mode != PaddingMode::kZeros) return "borders are no zeros";
  if (w.stride > kMostShiftedStride || (r.op == ConvOperator::kDgrad && h.stride > kMostShiftedStride))
    return "the stride is more than " + std::to_string(kMostShiftedStride);
  if (kernel_extent(h) > kMostShiftedExtent)
    return "the kernel covers " + std::to_string(kernel_extent(h)) + " rows, more than " +
           std::to_string(kMostShiftedExtent);
  const ShiftedShape shape(p, r.op, r.lanes, std::max<int64_t>(1, r.threads));
  const bool pairs = shape.planes > 1;
  if (shape.height < kFewestRows || (pairs ? 8 : 2) * shape.positions < (pairs ? 3 : 1) * r.lanes)
    return "an image of " + std::to_string(shape.height) + " x " + std::to_string(shape.width) + " leaves vectors of " +
           std::to_string(r.lanes) + " or tiles of rows empty";
  // bfloat16, 576 channels of 14 x 14: 75 us, against 32 by planes, which widen a vector once for all taps.
  if (r.element_bytes != r.sum_bytes && shape.width < r.lanes)
    return "rows of " + std::to_string(shape.width) + " are widened too often in parts of vectors";
  if (shape.depth * shape.taps > kReductionBlock)
    return "a sum has " + std::to_string(shape.depth * shape.taps) + " terms, more than " +
           std::to_string(kReductionBlock);
  if (pairs && shape.taps > kMostTapsOfPairs)
    return "the kernel has " + std::to_string(shape.taps) + " taps, more than " + std::to_string(kMostTapsOfPairs) +
           ", for rows of " + std::to_string(shape.width);
  if (pairs && shape.column_phases > 1) return "the phases of so short rows are not worth interleaving";
  if (r.op == ConvOperator::kWgrad && (pairs || (shape.vectors == 1 && shape.taps > kMostTapsOfShortRows)))
    return "rows of " + std::to_string(shape.width) + " are too few products for the sums over lanes";
  const int64_t elements = std::max(shape.source_elements(r.lanes), shape.grad_elements(r.lanes));
  if (elements * r.sum_bytes > kMostImageBytes)
    return "the planes of a vector need more than " + std::to_string(kMostImageBytes >> 10) + " KiB";
  return "";
}

void plan_depthwise_shifted(const PlanRequest& r, ConvPlan& plan) {
  plan.shifted = ShiftedShape(r.problem, r.op, r.lanes, plan.workers);
  plan.thread_bytes = r.op == ConvOperator::kWgrad ? ShiftedWgradWorkspace(plan.shifted, r.lanes, r.sum_bytes).bytes
                                                   : ShiftedWorkspace(plan.shifted, r.lanes, r.sum_bytes).bytes;
}

bool gives_both_gradients(const PlanRequest& r, const ConvPlan& plan) {
  const int64_t units = divide_up(r.problem.groups * r.problem.out_channels, plan.shifted.filters);
  return plan.shifted.adjoint && r.element_bytes == r.sum_bytes && units >= plan.workers;
}

std::string depthwise_rows_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (std::string reason = plane_refusal(r); !reason.empty()) return reason;
  if (r.element_bytes != r.sum_bytes) return "its operands would have to be widened first";
  if (is_folded(r)) return "the phases of the result interleave";
  if (r.op == ConvOperator::kWgrad && kernel_taps(p) > kMostTapsByRows)
    return "the kernel has " + std::to_string(kernel_taps(p)) + " taps, more than " + std::to_string(kMostTapsByRows);
  const bool dgrad = r.op == ConvOperator::kDgrad;
  const int64_t width = dgrad ? p.axis[2].input : p.axis[2].output, height = dgrad ? p.axis[1].input : p.axis[1].output;
  if (width < r.lanes || height < kFewestRows)
    return "an image of " + std::to_string(height) + " x " + std::to_string(width) + " leaves vectors of " +
           std::to_string(r.lanes) + " or tiles of rows empty";
  const GroupedShape shape = grouped_shape(r);
  if (shape.depth * shape.taps > kReductionBlock)
    return "a sum has " + std::to_string(shape.depth * shape.taps) + " terms, more than " +
           std::to_string(kReductionBlock);
  if (shape.stage_elements() * r.sum_bytes > kMostImageBytes)
    return "a plane needs more than " + std::to_string(kMostImageBytes >> 10) + " KiB";
  return "";
}

void plan_depthwise_rows(const PlanRequest& r, ConvPlan& plan) {
  plan.grouped = grouped_shape(r);
  plan.thread_bytes = DepthwiseRowsWorkspace(plan.grouped, r.op == ConvOperator::kWgrad, r.lanes, r.sum_bytes).bytes;
}

}  // namespace convext
