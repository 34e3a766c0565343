#include "winograd_plan.h"

#include <atomic>

namespace convext {
namespace {

std::atomic<bool> enabled{true};

// A thread's block of transformed tiles with its products stays in this much of L2.
constexpr int64_t kBlockBytes = 800 << 10;
// Transformed weights up to this size are read from the caches; larger ones are not kept.
constexpr int64_t kShallowBytes = 6 << 20;
constexpr int64_t kWorkerBytes = int64_t{8} << 20;
// Most tiles of the deep form's block: their products with a panel, half a megabyte, stay in L2.
constexpr int64_t kMostDeepTiles = 112;
constexpr int64_t kLeastDeepTiles = 14;
// Channels of a chunk in the deep form: 36 points of a panel of the weight, 288 KiB, stay in L2.
constexpr int64_t kDeepChunk = 64, kShallowChunk = 128;

// wgrad: most channels of a block on either side, tiles of a chunk; as few units as eight are cut into slices.
constexpr int64_t kWgradChannels = 128, kWgradTiles = 112;
constexpr int64_t kWgradUnits = 8, kLeastSliceTiles = 28, kSliceBytes = 4 << 20;

WinogradSizes sizes_of(const PlanRequest& r, const WinogradShape& shape) {
  return {shape, r.tile, r.lanes, gather_depth(r)};
}

int64_t panels_of(const PlanRequest& r) { return divide_up(gather_rows(r), r.tile.columns); }

int64_t deep_tiles(const PlanRequest& r, WinogradShape shape) {
  shape.tiles = kMostDeepTiles;
  const int64_t own = sizes_of(r, shape).own(shape) * r.sum_bytes;
  const int64_t tile = kWinogradPoints * round_up(gather_depth(r), shape.chunk) * r.sum_bytes;
  return std::min(kMostDeepTiles, r.threads * (kWorkerBytes - own) / tile);
}

WinogradShape shape_of(const PlanRequest& r) {
  WinogradShape shape;
  const int64_t depth = gather_depth(r), panels = panels_of(r);
  const int64_t total = r.problem.batch * winograd_grid(r).per_image();
  shape.deep = kWinogradPoints * depth * panels * r.tile.columns * r.sum_bytes > kShallowBytes;
  if (shape.deep) {
    shape.panels = 1;
    shape.chunk = round_up(balanced(depth, kDeepChunk), r.lanes);
    shape.tiles = std::max<int64_t>(1, std::min(total, deep_tiles(r, shape)));
    return shape;
  }
  shape.panels = std::min<int64_t>(2, panels);
  shape.chunk = round_up(balanced(depth, kShallowChunk), r.lanes);
  const int64_t tile_bytes = kWinogradPoints * (depth + shape.panels * r.tile.columns) * r.sum_bytes;
  const int64_t most = std::clamp<int64_t>(kBlockBytes / tile_bytes / r.tile.rows, 1, 4) * r.tile.rows;
  const int64_t units = round_up(divide_up(total * r.problem.groups, most), r.threads);
  shape.tiles = std::clamp<int64_t>(divide_up(total * r.problem.groups, std::max<int64_t>(units, 1)), 1, most);
  return shape;
}

WinogradWgradShape wgrad_shape_of(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  WinogradWgradShape shape;
  shape.rows = round_up(balanced(p.out_channels, kWgradChannels), r.lanes);
  shape.columns = round_up(balanced(p.in_channels, kWgradChannels), r.tile.columns);
  const int64_t total = p.batch * winograd_grid(r).per_image();
  const int64_t units = p.groups * divide_up(p.out_channels, shape.rows) * divide_up(p.in_channels, shape.columns);
  const int64_t result_bytes = weight_elements(p) * r.sum_bytes;
  while (units * shape.slices < kWgradUnits && total >= 2 * shape.slices * kLeastSliceTiles &&
         2 * shape.slices * result_bytes <= kSliceBytes)
    shape.slices *= 2;
  shape.tiles = balanced(std::max<int64_t>(1, divide_up(total, shape.slices)), kWgradTiles);
  return shape;
}

}  // namespace

bool winograd_enabled() { return enabled.load(std::memory_order_relaxed); }
void set_winograd_enabled(bool value) { enabled.store(value, std::memory_order_relaxed); }

TileGrid winograd_grid(const PlanRequest& request) {
  const bool dgrad = request.op == ConvOperator::kDgrad;
  const ConvAxis *y = &request.problem.axis[1], *x = y + 1;
  return {dgrad ? y->input : y->output, dgrad ? x->input : x->output};
}

std::string winograd_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  const auto number = [](int64_t n) { return std::to_string(n); };
  if (!r.packed_type || r.element_bytes != 4) return "it computes float32";
  const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
  if (y.kernel != kWinogradKernel || x.kernel != kWinogradKernel || z.kernel != 1)
    return "the kernel is not 3 x 3 in a plane";
  if (y.stride != 1 || x.stride != 1 || y.dilation != 1 || x.dilation != 1) return "stride or dilation is not one";
  if (z.input != 1 || z.output != 1 || z.lo != 0 || z.hi != 0) return "the image has a depth";
  if (!r.winograd) return "convext.backends.winograd.enabled is False";
  if (r.op == ConvOperator::kDgrad && p.mode != PaddingMode::kZeros)
    return "the gradient of a padding mode folds border pixels";
  const TileGrid grid = winograd_grid(r);
  if (grid.height < 8 || grid.width < 8)
    return "the result has " + number(grid.height) + " x " + number(grid.width) + " pixels";
  if (gather_rows(r) < 16 || gather_depth(r) < 16) return "few channels";
  return "";
}

void plan_winograd(const PlanRequest& r, ConvPlan& plan) {
  if (r.op == ConvOperator::kWgrad) {
    plan.winograd_wgrad = wgrad_shape_of(r);
    plan.slices = plan.winograd_wgrad.slices;
    plan.shared_bytes = plan.slices > 1 ? plan.slices * weight_elements(r.problem) * r.sum_bytes : 0;
    plan.thread_bytes = WinogradWgradSizes(plan.winograd_wgrad, r.tile, r.lanes).elements() * r.sum_bytes;
    return;
  }
  PlanRequest request = r;
  request.threads = plan.workers;
  plan.winograd = shape_of(request);
  plan.shape.pixels_are_rows = true;  // tiles are
  const WinogradSizes sizes = sizes_of(r, plan.winograd);
  const int64_t groups = r.problem.groups, panels = groups * panels_of(r);
  const int64_t shared = plan.winograd.deep ? sizes.source.elements() : panels * sizes.weight_panel();
  plan.shared_bytes = (shared + panels * r.tile.columns) * r.sum_bytes;
  plan.thread_bytes = sizes.own(plan.winograd) * r.sum_bytes;
}

}  // namespace convext
