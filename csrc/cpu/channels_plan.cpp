#include "channels_plan.h"

#include <algorithm>
#include <bit>

namespace convext {
namespace {

// Result channels up to which lanes hold terms of a sum instead of channels.
constexpr int64_t kMostNarrowChannels = 4;

// Channels of a group up to which a vector of several groups is filtered lane by lane; from twice as many on they fill
// the vectors of a product of their own.
constexpr int64_t kMostGroupedLanes = 8;

}  // namespace

std::string depthwise_channels_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  const bool alike = p.in_channels == p.out_channels && p.in_channels > 0;
  const bool multiplied = p.in_channels == 1 && (p.out_channels == 2 || p.out_channels == 4);
  if (!multiplied &&
      (!alike || p.in_channels > kMostGroupedLanes || !std::has_single_bit(static_cast<uint64_t>(p.in_channels))))
    return "a group has not 1, 2, 4 or 8 channels on both sides, nor one with 2 or 4 filters";
  if (p.in_channels > r.lanes)
    return "a group of " + std::to_string(p.in_channels) + " channels does not fit a vector of " +
           std::to_string(r.lanes);
  if (!r.source_channels_last || !(r.op == ConvOperator::kWgrad ? r.grad_channels_last : r.result_channels_last))
    return "the images are not channels_last";
  if (p.groups * p.in_channels < r.lanes)
    return std::to_string(p.groups * p.in_channels) + " channels do not fill a vector of " + std::to_string(r.lanes);
  if (r.op == ConvOperator::kDgrad && p.mode != PaddingMode::kZeros)
    return "the gradient of a padding mode folds border pixels";
  const int64_t terms = kernel_taps(p) * (r.op == ConvOperator::kDgrad ? p.out_channels : p.in_channels);
  if (terms > kReductionBlock)  // longer sums are cut into blocks
    return "a sum has " + std::to_string(terms) + " terms, more than " + std::to_string(kReductionBlock);
  return "";
}

std::string narrow_channels_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  const int64_t rows = gather_rows(r), depth = gather_depth(r);
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (!r.source_channels_last || !(r.result_channels_last || rows == 1)) return "the images are not channels_last";
  if (p.groups > 1) return "it has groups";
  const int64_t most = std::min<int64_t>(kMostNarrowChannels, r.lanes);
  if (rows > most)
    return std::to_string(rows) + " result channels repay vectors of them, more than " + std::to_string(most);
  if (depth == 0 || depth % r.lanes != 0)
    return std::to_string(depth) + " channels do not fill vectors of " + std::to_string(r.lanes);
  if (panel_terms(r) > 1) return "pairs are multiplied in panels";
  if (r.op == ConvOperator::kDgrad && p.mode != PaddingMode::kZeros)
    return "the gradient of a padding mode folds border pixels";
  if (kernel_taps(p) * depth > kReductionBlock * r.lanes)
    return "a sum has " + std::to_string(kernel_taps(p) * depth) + " terms, more than " +
           std::to_string(kReductionBlock * r.lanes);
  return "";
}

void plan_channels(const PlanRequest& r, ConvPlan& plan) {
  const int64_t taps = kernel_taps(r.problem), pointer = sizeof(void*);
  if (r.op == ConvOperator::kWgrad) {
    const int64_t products = std::max(r.problem.in_channels, r.problem.out_channels);  // of a tap and a lane
    plan.thread_bytes = taps * (pointer + 2 * products * r.lanes * r.sum_bytes);
  } else {
    plan.thread_bytes = 5 * taps * pointer;
    // the packed weight, and the bias
    plan.shared_bytes = r.problem.groups * gather_rows(r) * (taps * gather_depth(r) + 1) * r.sum_bytes;
  }
}

}  // namespace convext
