#include "conv_plan.h"

#include <algorithm>
#include <optional>

namespace convext::cuda {
namespace {

// Launches of dgrad, one for each phase and border; more than that are slower than one direct kernel.
constexpr int64_t kMostRegions = 64;
// Products of a group's channels up to which a tile would be mostly empty.
constexpr int64_t kFewProducts = 16;
// Blocks that fill a large GPU twice, and the least depth that is worth a block of its own.
constexpr int64_t kEnoughBlocks = 264, kLeastDepth = 512;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

using Reason = std::optional<std::string>;

// What both algorithms below ask for.
Reason why_direct(const ConvRequest& r) {
  if (!r.floating) return "integers and complex numbers are summed one by one";
  if (r.op == ConvOperator::kDgrad && count_dgrad_regions(r.problem) > kMostRegions)
    return "dgrad has more than " + std::to_string(kMostRegions) + " phases and borders";
  return std::nullopt;
}

Reason why_not_depthwise(const ConvRequest& r) {
  const ConvProblem& p = r.problem;
  if (p.groups == 1) return "there is one group";
  if (p.in_channels * p.out_channels > kFewProducts)
    return "groups of " + std::to_string(p.in_channels) + " x " + std::to_string(p.out_channels) +
           " channels fill tiles";
  return why_direct(r);
}

// wgrad sums over all pixels of a batch, which few blocks would take long for.
void plan_slices(const ConvRequest& r, const GemmShape& shape, ConvPlan& plan) {
  constexpr int64_t kDepthOfTiles = 32;  // slices are whole tiles of every type
  plan.slice_depth = std::max<int64_t>(shape.depth, 1);
  if (r.op != ConvOperator::kWgrad) return;
  const int* tile = plan.tile == GemmTile::kLarge ? kLargeTile : kSmallTile;
  const int64_t tiles = r.problem.groups * divide_up(shape.rows, tile[0]) * divide_up(shape.columns, tile[1]);
  const int64_t wanted = std::min(kEnoughBlocks / tiles, shape.depth / kLeastDepth);
  if (wanted <= 1) return;
  plan.slice_depth = divide_up(divide_up(shape.depth, wanted), kDepthOfTiles) * kDepthOfTiles;
  plan.slices = divide_up(shape.depth, plan.slice_depth);
  if (plan.slices > 1) plan.workspace_bytes = plan.slices * r.problem.groups * shape.rows * shape.columns * r.sum_bytes;
}

}  // namespace

const char* algorithm_name(ConvAlgorithm algorithm) {
  switch (algorithm) {
    case ConvAlgorithm::kDepthwise: return "depthwise";
    case ConvAlgorithm::kGemm: return "gemm";
    case ConvAlgorithm::kDirect: return "direct";
  }
  return "";
}

GemmShape gemm_shape(ConvOperator op, const ConvProblem& p) {
  switch (op) {
    case ConvOperator::kFprop: return {p.out_channels, p.batch * output_pixels(p), p.in_channels * kernel_taps(p)};
    case ConvOperator::kDgrad: return {p.in_channels, p.batch * input_pixels(p), p.out_channels * kernel_taps(p)};
    case ConvOperator::kWgrad: return {p.out_channels, p.in_channels * kernel_taps(p), p.batch * output_pixels(p)};
  }
  return {};
}

ConvPlan plan_conv(const ConvRequest& r) {
  ConvPlan plan;
  const auto declines = [&](ConvAlgorithm algorithm, const Reason& reason) {
    if (reason) plan.declined.push_back({algorithm, *reason});
    return reason.has_value();
  };
  if (!declines(ConvAlgorithm::kDepthwise, why_not_depthwise(r))) {
    plan.algorithm = ConvAlgorithm::kDepthwise;
    return plan;
  }
  if (declines(ConvAlgorithm::kGemm, why_direct(r))) return plan;
  plan.algorithm = ConvAlgorithm::kGemm;
  const GemmShape shape = gemm_shape(r.op, r.problem);
  // 64-bit offsets and sums come with the small tile alone: with the large one they do not fit into the registers
  const bool small =
      r.wide_offsets || r.sum_bytes == 8 || shape.rows <= kSmallTile[0] || shape.columns <= kSmallTile[1];
  plan.tile = small ? GemmTile::kSmall : GemmTile::kLarge;
  plan_slices(r, shape, plan);
  return plan;
}

}  // namespace convext::cuda
