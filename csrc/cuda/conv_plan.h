// Which algorithm a convolution gets on CUDA, and how it is cut: one pure function from a request to a plan.
#pragma once

#include <string>
#include <vector>

#include "../problem.h"
#include "../region.h"

namespace convext::cuda {

// Candidates in the order they are tried; the last one takes everything.
enum class ConvAlgorithm { kDepthwise, kGemm, kDirect };
const char* algorithm_name(ConvAlgorithm algorithm);

// What a block of the implicit GEMM computes, rows x columns of C.
enum class GemmTile { kLarge, kSmall };
inline constexpr int kLargeTile[2] = {64, 128}, kSmallTile[2] = {32, 64};

struct ConvRequest {
  ConvOperator op = ConvOperator::kFprop;
  ConvProblem problem;
  bool floating = true;       // float32, float64, bfloat16 or float16
  bool wide_offsets = false;  // some tensor, or its padding, needs 64-bit offsets
  int sum_bytes = 4;          // of the type that sums are kept in
};

struct Declined {
  ConvAlgorithm algorithm;
  std::string reason;
};

struct ConvPlan {
  ConvAlgorithm algorithm = ConvAlgorithm::kDirect;
  std::vector<Declined> declined;
  GemmTile tile = GemmTile::kLarge;
  // wgrad: pieces of the sum over pixels, which a second kernel adds up in order.
  int64_t slices = 1, slice_depth = 0;
  int64_t workspace_bytes = 0;
};

ConvPlan plan_conv(const ConvRequest& request);

// Rows, columns and depth of the product, of one group and, for dgrad, over all phases.
struct GemmShape {
  int64_t rows, columns, depth;
};
GemmShape gemm_shape(ConvOperator op, const ConvProblem& p);

}  // namespace convext::cuda
