#include "conv_plan.h"

#include <algorithm>
#include <optional>

namespace convext::cuda {
namespace {

// Launches of dgrad, one for each phase and border; more than that are slower than one direct kernel.
constexpr int64_t kMostRegions = 64;
// Products of a group's channels up to which a tile would be mostly empty.
constexpr int64_t kFewProducts = 16;
// Blocks that fill a large GPU twice (once with square tiles, which have twice the sums), and the least depth that is
// worth a block of its own.
constexpr int64_t kEnoughBlocks = 264, kEnoughSquares = 132, kLeastDepth = 512;

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

const int* size_of(GemmTile tile) {
  switch (tile) {
    case GemmTile::kSquare: return kSquareTile;
    case GemmTile::kLarge: return kLargeTile;
    case GemmTile::kSmall: return kSmallTile;
  }
  return kSmallTile;
}

int64_t count_tiles(const ConvRequest& r, const GemmShape& shape, GemmTile tile) {
  const int* size = size_of(tile);
  return r.problem.groups * divide_up(shape.rows, size[0]) * divide_up(shape.columns, size[1]);
}

// Whether the pixels of the image that neighbouring pixels of the result meet are neighbours too, and all inside.
bool same_pixels(const ConvAxis& a) { return a.kernel == 1 && a.stride == 1 && a.lo == 0 && a.hi == 0; }

DepthwiseKernel choose_depthwise(const ConvRequest& r) {
  constexpr int64_t kMostTaps = 64;        // in one chain of additions, and with the weights in shared memory
  constexpr int64_t kMostWeightTaps = 25;  // whose sums a thread has in registers
  const ConvProblem& p = r.problem;
  if (!is_depthwise(p) || r.wide_offsets || kernel_taps(p) > kMostTaps) return DepthwiseKernel::kElements;
  if (r.op == ConvOperator::kWgrad) {
    if (kernel_taps(p) > kMostWeightTaps) return DepthwiseKernel::kElements;
    if (r.image.channels && r.weight.channels) return DepthwiseKernel::kChannels;
    return r.planes ? DepthwiseKernel::kPlanes : DepthwiseKernel::kElements;
  }
  if (r.image.channels && r.result.channels) return DepthwiseKernel::kChannels;
  int64_t bytes = r.sum_bytes;
  for (int i = 1; i < kSpatialAxes; ++i) bytes *= (kPlaneTile[i - 1] - 1) * p.axis[i].stride + kernel_extent(p.axis[i]);
  const ConvAxis& depth = p.axis[0];
  const bool plane = depth.input == 1 && depth.output == 1 && depth.kernel == 1 && depth.lo == 0;
  return r.planes && plane && bytes <= kPlaneBytes ? DepthwiseKernel::kPlanes : DepthwiseKernel::kElements;
}

// Both factors by runs, or neither: as a matrix A has the rows and B the columns that gemm_job.h lists.
void plan_copies(const ConvRequest& r, ConvPlan& plan) {
  if (plan.arithmetic != Arithmetic::kTensorCores || r.element_bytes > 4 || r.wide_offsets) return;
  const bool pixels = same_pixels(r.problem.axis[kSpatialAxes - 1]);
  Copies a = Copies::kElements, b = Copies::kElements;
  switch (r.op) {
    case ConvOperator::kFprop:
    case ConvOperator::kDgrad:
      if (r.weight.channels) a = r.op == ConvOperator::kFprop ? Copies::kAlongDepth : Copies::kAlongRows;
      if (r.image.pixels && pixels) b = Copies::kAlongRows;
      if (r.image.channels) b = Copies::kAlongDepth;
      break;
    case ConvOperator::kWgrad:
      if (r.weight.channels && r.image.channels) a = b = Copies::kAlongRows;
      if (r.weight.pixels && r.image.pixels && pixels) a = b = Copies::kAlongDepth;
  }
  if (a == Copies::kElements || b == Copies::kElements) return;
  plan.a = a, plan.b = b;
  if (r.op == ConvOperator::kWgrad) return;  // mostly in slices, and the smallest of the three
  if (r.result.pixels && pixels) plan.c = Stores::kAlongColumns;
  if (r.result.channels) plan.c = Stores::kAlongRows;
}

GemmTile choose_tile(const ConvRequest& r, const GemmShape& shape, const ConvPlan& plan) {
  if (plan.by_runs()) {
    // wgrad fills the GPU with slices
    const bool enough = r.op == ConvOperator::kWgrad || count_tiles(r, shape, GemmTile::kSquare) >= kEnoughSquares;
    return shape.rows > kLargeTile[0] && enough ? GemmTile::kSquare : GemmTile::kLarge;
  }
  // 64-bit offsets and sums come with the small tile alone: with the large one they do not fit into the registers
  const bool small =
      r.wide_offsets || r.sum_bytes == 8 || shape.rows <= kSmallTile[0] || shape.columns <= kSmallTile[1];
  return small ? GemmTile::kSmall : GemmTile::kLarge;
}

// Pieces of the pixels for a block each, as the slices of a product are.
void plan_depthwise_slices(const ConvRequest& r, ConvPlan& plan) {
  constexpr int64_t kChannelsOfBlock = 32, kManyBlocks = 4 * kEnoughBlocks, kLeastPixels = 2048;
  const ConvProblem& p = r.problem;
  const int64_t pixels = std::max<int64_t>(p.batch * output_pixels(p), 1);
  plan.slice_depth = pixels;
  if (r.op != ConvOperator::kWgrad || plan.depthwise == DepthwiseKernel::kElements) return;
  const int64_t blocks =
      plan.depthwise == DepthwiseKernel::kChannels ? divide_up(p.groups, kChannelsOfBlock) : p.groups;
  const int64_t wanted = std::min(kManyBlocks / blocks, pixels / kLeastPixels);
  if (wanted <= 1) return;
  plan.slice_depth = divide_up(pixels, wanted);
  plan.slices = divide_up(pixels, plan.slice_depth);
  if (plan.slices > 1) plan.workspace_bytes = plan.slices * weight_elements(p) * r.sum_bytes;
}

// wgrad sums over all pixels of a batch, which few blocks would take long for.
void plan_slices(const ConvRequest& r, const GemmShape& shape, ConvPlan& plan) {
  constexpr int64_t kDepthOfTiles = 32;  // slices are whole tiles of every type
  plan.slice_depth = std::max<int64_t>(shape.depth, 1);
  if (r.op != ConvOperator::kWgrad) return;
  const int64_t enough = plan.tile == GemmTile::kSquare ? kEnoughSquares : kEnoughBlocks;
  const int64_t wanted = std::min(enough / count_tiles(r, shape, plan.tile), shape.depth / kLeastDepth);
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

Runs runs_of(uint64_t address, int element_bytes, const Strides& strides, const int64_t (&size)[5]) {
  const int64_t run = 16 / element_bytes;
  const int64_t stride[5] = {strides.outer, strides.channel, strides.axis[0], strides.axis[1], strides.axis[2]};
  const auto along = [&](int axis) {
    if (address % 16 != 0 || stride[axis] != 1 || size[axis] % run != 0) return false;
    for (int i = 0; i < 5; ++i)  // there may be more channels than those of one group
      if (i != axis && (size[i] > 1 || i == 1) && stride[i] % run != 0) return false;
    return true;
  };
  return {along(1), along(4)};
}

bool merge_pixels(ConvOperator op, ConvProblem& p, ConvStrides& strides) {
  Strides& image = strides.image;
  Strides& other = op == ConvOperator::kWgrad ? strides.weight : strides.result;
  int64_t pixels = 1;
  for (int i = kSpatialAxes - 1; i >= 0; --i) {
    const ConvAxis& a = p.axis[i];
    if (!same_pixels(a)) return false;
    for (const Strides* s : {&image, &other})
      if (a.input > 1 && pixels > 1 && s->axis[i] != s->axis[kSpatialAxes - 1] * pixels) return false;
    // where the innermost axes have one element, the first that has more of them sets the step
    if (a.input > 1 && pixels == 1)
      for (Strides* s : {&image, &other}) s->axis[kSpatialAxes - 1] = s->axis[i];
    pixels *= a.input;
  }
  for (ConvAxis& a : p.axis) a = {};
  p.axis[kSpatialAxes - 1].input = p.axis[kSpatialAxes - 1].output = pixels;
  return true;
}

ConvPlan plan_conv(const ConvRequest& r) {
  ConvPlan plan;
  const auto declines = [&](ConvAlgorithm algorithm, const Reason& reason) {
    if (reason) plan.declined.push_back({algorithm, *reason});
    return reason.has_value();
  };
  if (!declines(ConvAlgorithm::kDepthwise, why_not_depthwise(r))) {
    plan.algorithm = ConvAlgorithm::kDepthwise;
    plan.depthwise = choose_depthwise(r);
    plan_depthwise_slices(r, plan);
    return plan;
  }
  if (declines(ConvAlgorithm::kGemm, why_direct(r))) return plan;
  plan.algorithm = ConvAlgorithm::kGemm;
  const GemmShape shape = gemm_shape(r.op, r.problem);
  plan.arithmetic = r.element_bytes == 4 && !r.tf32 ? Arithmetic::kMultiplyAdd : Arithmetic::kTensorCores;
  plan_copies(r, plan);
  plan.tile = choose_tile(r, shape, plan);
  plan_slices(r, shape, plan);
  return plan;
}

}  // namespace convext::cuda
