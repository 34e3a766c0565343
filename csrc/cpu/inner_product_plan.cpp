#include "inner_product_plan.h"

namespace convext {
namespace {

// Terms from which inner products repay adding their lanes up: of so few results that panels are mostly padding, and of
// more, which panels multiply faster once there are many samples (64 samples of 256 terms by 256: 34 us against 29;
// one: 8 against 10).
constexpr int64_t kFewestInnerTerms = 64, kInnerTermsOfMany = 512, kFewInnerResults = 16;

}  // namespace

std::string inner_product_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (input_pixels(p) != 1 || kernel_taps(p) != 1 || output_pixels(p) != 1) return "the image is not a single pixel";
  if (!r.source_channels_last || !r.weight_channels_last) return "the terms of a sum are not contiguous";
  const int64_t fewest = p.out_channels <= kFewInnerResults ? kFewestInnerTerms : kInnerTermsOfMany;
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

}  // namespace convext
