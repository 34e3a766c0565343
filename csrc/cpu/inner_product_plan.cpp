#include "inner_product_plan.h"

#include <algorithm>

namespace convext {
namespace {

// Inner products repay adding their lanes up from so many terms on where the results are so few that panels are mostly
// padding; of more results, which panels multiply faster once there are many samples, from so many bytes of a row in
// the type of the sums (float32, 64 samples of 256 terms by 256: 34 us against 29; one: 8 against 10; float64, one of
// 400 by 120: 14 against 42).
constexpr int64_t kFewestInnerTerms = 64, kInnerBytesOfMany = 2048, kFewInnerResults = 16;

// Weights that L2 does not hold, which packing would read and write once more; smaller ones panels take as fast.
constexpr int64_t kFewestCombinedBytes = 256 << 10;

bool is_one_pixel(const ConvProblem& p) {
  if (input_pixels(p) != 1 || kernel_taps(p) != 1 || output_pixels(p) != 1) return false;
  // of a padded image under a stride the window may read the padding instead
  return std::all_of(p.axis, p.axis + kSpatialAxes, [](const ConvAxis& a) { return a.lo == 0; });
}

}  // namespace

std::string inner_product_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (!is_one_pixel(p)) return "the image is not a single pixel";
  if (!r.source_channels_last || !r.weight_channels_last) return "the terms of a sum are not contiguous";
  const int64_t fewest = p.out_channels <= kFewInnerResults ? kFewestInnerTerms : kInnerBytesOfMany / r.sum_bytes;
  if (p.in_channels < fewest)
    return "a sum has " + std::to_string(p.in_channels) + " terms, fewer than " + std::to_string(fewest);
  return "";
}

void plan_inner_product(const PlanRequest& r, ConvPlan& plan) {
  const InnerProductShape& shape = plan.inner_product =
      InnerProductShape::of(r.element_bytes == r.sum_bytes || r.kernel_terms > 1);
  plan.thread_bytes = (shape.samples + shape.filters) * shape.copied * r.lanes * r.sum_bytes;
  plan.shared_bytes = r.problem.groups * r.problem.out_channels * r.sum_bytes;  // the bias
}

std::string row_combination_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (r.element_bytes != r.sum_bytes) return "its operands would have to be widened first";
  if (!is_one_pixel(p)) return "the image is not a single pixel";
  if (!r.weight_channels_last) return "the weight's rows are not contiguous";
  if (weight_elements(p) * r.sum_bytes < kFewestCombinedBytes)
    return "the weight has " + std::to_string(weight_elements(p) * r.sum_bytes >> 10) + " KiB, less than " +
           std::to_string(kFewestCombinedBytes >> 10);
  return "";
}

void plan_row_combination(const PlanRequest& r, ConvPlan& plan) {
  plan.shared_bytes = r.problem.groups * gather_rows(r) * r.sum_bytes;  // the bias
}

}  // namespace convext
