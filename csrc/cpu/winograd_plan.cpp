#include "winograd_plan.h"

#include <atomic>

#include "line_plan.h"

namespace convext {
namespace {

std::atomic<bool> enabled{true};

// Where it wins (measured: docs/performance.md): from so many channels of a group on either side; up to this share of
// the definition's multiplications, which the overhang of the last tiles raises from a quarter (5 x 5: 0.36); and from
// so many pixels or, for wgrad, tiles of a sample, fewer of which do not pay for the transform of the weight or of its
// sums. Where many result channels share the transform of a source that panels would not widen, in planes, up to a
// greater share (5 x 5 on 7 x 7: 0.47; pairs only where kFewPairedPixels does not hold); fewer do for a gradient of
// 5 x 5, whose bands are a quarter padding there (googlenet/5b, 128 to 48, forward and backward, Zen 4: 0.8 of the time
// in bands on one thread, 0.9 on two).
constexpr int64_t kLeastChannels = 24;
// One side may have fewer channels if the other has enough: with a depth, whose taps share the transforms, and in
// planes of so many pixels, unless products are of pairs (Zen 4, two threads, 16 to 32 and 64 to 16 channels: 3 x 3 on
// 64 x 64 1.03 to 1.9 times as fast, on 28 x 28 0.8 to 1.7; 5 x 5 on 30 x 30 1.1 to 1.9). With a depth under 3 x 3 both
// may (16 to 16, 32 x 32 x 32, one thread: 1.7 ms against 2.2 in bands).
constexpr int64_t kFewChannels = 16, kEnoughChannels = 32, kFewChannelsPixels = 3136, kFewChannelsPixelsOf5 = 1024;
// In volumes of so many pixels 8 channels on one side and 12 on the other repay, which must lie along the vectors of
// the products (Zen 4, 5 x 5 x 5 on 24 x 24 x 24, one thread: 8 to 16 channels 3.2 ms against 4.4 in bands, 16 to 8 5.4
// against 4.6, 16 to 16 4.5 against 8.4; 8 to 12 on 10 x 40 x 40 2.2 against 1.9).
constexpr int64_t kLargeVolume = 1536;
constexpr int64_t kLeastColumnsOfVolume = 12, kLeastOthersOfVolume = 8, kLeastChannelsOfVolume = 24;
// Both only where the columns fill so much of their vectors (17 of 32 lanes lose: 5 x 5 x 5, 17 to 17, 0.7 to 1.4) and,
// of volumes, so many depth taps read the image: bands leave out those beside it (16 to 16, 1 x 40 x 40 under 5 x 5 x
// 5, where one tap in five does: 0.58 ms against 0.28; 2 x 28 x 28 under 3 x 3 x 3, two in three: 1.0 to 1.1).
constexpr double kLeastFill = 0.6, kLeastDepthShare = 0.7;
constexpr int64_t kLeastPixels = 49, kLeastWgradTiles = 16;
constexpr double kMostWork = 0.45, kMostWorkOfManyRows = 0.48;
constexpr int64_t kManyRows = 64, kManyRowsOfGradient = 32;

// A level that multiplies pairs of terms does so at twice the rate of these products, which keep float32. There they
// lose with panels of 3 x 3 products emptier than this and, in channels_last, under 5 x 5 with fewer channels than
// these.
constexpr double kFullPairPanels = 0.75;
// Share of the multiplications above which 3 x 3 pairs are better packed: tiles overhang (13 x 13, 2 x 192 to 192
// channels, us, in tiles and packed: fprop 874, 741, dgrad 950, 767, wgrad 850, 710).
constexpr double kMostPairedWork = 0.35;
// Pixels up to which a single image of pairs does not repay transforming a weight that could be read as it lies (512 to
// 512 on 7 x 7, fprop, dgrad, us: 1254, 1567 in tiles, 974, 1211 packed; four images 2891, 3302 and 3123, 3381).
constexpr int64_t kFewPairedPixels = 64;
// Channels up to which that holds of others, too (32 groups of 32, 7 x 7: 0.17 against 0.26 ms in tiles; 160 to 320
// 0.22 against 0.21).
constexpr int64_t kFewPairedChannels = 32;
constexpr int64_t kLeastPairedChannels = 48;

// Columns of interleaved tiles are staged side by side.
constexpr int64_t kMostDilation = kWinogradStageColumns / kWinogradEdge;

// Cycles of transforming a tile of a vector of channels, a vector of the weight, and a tile of results of a vector of
// channels, and of adding a term to the 36 products of the last (docs/performance_winograd.md).
constexpr double kSourceCycles = 250, kWeightCycles = 200, kResultCycles = 180, kTermCycles = 18;

// A thread's block of transformed tiles with its products stays in this much of L2.
constexpr int64_t kBlockBytes = 800 << 10;
constexpr int64_t kShallowPanels = 2;
// Slices of a block: of each, the source has the slices that its depth taps read besides.
constexpr int64_t kShallowSlices = 4, kDeepSlices = 16;
// Transformed weights up to this size are read from the caches; larger ones are not kept. Nor are those above the
// second size where all tiles are one block, so that keeping them saves nothing.
constexpr int64_t kShallowBytes = 6 << 20, kShallowBytesOfABlock = 512 << 10;
constexpr int64_t kWorkerBytes = int64_t{8} << 20;
// Of threads that keep a transformed weight each, what they keep stays in the L3 of their cores: 4 MiB for each core of
// many processors, more where few of them work (not measured: two cores were all there was).
constexpr int64_t kKeptBytes = 3 << 20, kKeptBytesOfAll = 16 << 20;
// Channels that are summed in registers; of up to 48 under several depth taps, up to so many terms: of 8 channels under
// 5 taps each sum is then read and written once, not five times (8 to 16, 5 x 5 x 5 on 24 x 24 x 24, Zen 4: 3.0 ms, tap
// by tap 4.6). It is so in both forms, so that the batch may choose the form. In the deep one 36 points of such a chunk
// of a panel of the weight, 288 to 432 KiB, stay in L2; so do the products of a panel with the most tiles of a block,
// half a megabyte.
constexpr int64_t kChunk = 64, kChunkTerms = 96, kDeepTiles = 112;
// The fewest tiles that pay for transforming a weight.
constexpr int64_t kLeastDeepTiles = 14;

// wgrad: most bytes of a block's channels on either side, and tiles of a chunk. Fewer than so many units are cut into
// slices of enough tiles to pay for the transform of their sums, or into half as many result channels.
constexpr int64_t kWgradBytes = 512, kWgradTiles = 112;
constexpr int64_t kWgradUnits = 8, kLeastSliceTiles = 56, kSliceBytes = int64_t{4} << 20, kLeastWgradRows = 64;

WinogradSizes sizes_of(const PlanRequest& r, const WinogradShape& shape) {
  const ConvProblem& p = r.problem;
  return {shape, r.tile, r.lanes, gather_depth(r), p.axis[0].kernel, p.axis[1].kernel};
}

int64_t panels_of(const PlanRequest& r) { return divide_up(gather_rows(r), r.tile.columns); }

int64_t transformed_bytes(const PlanRequest& r) {
  return kWinogradPoints * r.problem.axis[0].kernel * gather_depth(r) * panels_of(r) * r.tile.columns * r.sum_bytes;
}

// Sets what the arithmetic depends on.
void set_terms(const PlanRequest& r, WinogradShape& shape) {
  shape.chunk = round_up(balanced(gather_depth(r), kChunk), r.lanes);
  shape.summed_taps = balanced(r.problem.axis[0].kernel, std::max<int64_t>(kChunkTerms / shape.chunk, 1));
}

// At most n tiles, in whole groups of interleaved ones.
int64_t whole_groups(int64_t n, const TileGrid& grid) { return n / grid.dx * grid.dx; }

WinogradShape deep_shape(const PlanRequest& r) {
  const TileGrid grid = winograd_grid(r);
  WinogradShape shape;
  shape.deep = true;
  set_terms(r, shape);
  const WinogradSizes sizes = sizes_of(r, shape);
  const int64_t product = kWinogradPoints * kDeepTiles * r.tile.columns;
  const int64_t odd = kWinogradPoints * sizes.source.parts * 2 * odd_lines(1);  // by which planes may grow
  const int64_t own = (product + odd + sizes.elements(shape) - sizes.source.elements()) * r.sum_bytes;
  const int64_t tile = kWinogradPoints * round_up(gather_depth(r), shape.chunk) * r.sum_bytes;
  const int64_t room = (kWorkerBytes - own) / tile;
  shape.slices = balanced(grid.slices, kDeepSlices);
  const int64_t read = shape.slices + r.problem.axis[0].kernel - 1;
  shape.tiles = whole_groups(std::min(kDeepTiles / shape.slices, room / read), grid);
  return shape;
}

WinogradShape shallow_shape(const PlanRequest& r) {
  const TileGrid grid = winograd_grid(r);
  WinogradShape shape;
  shape.panels = std::min(kShallowPanels, panels_of(r));
  set_terms(r, shape);
  shape.slices = balanced(grid.slices, kShallowSlices);
  const int64_t read = shape.slices + r.problem.axis[0].kernel - 1;
  const int64_t tile_bytes =
      kWinogradPoints * r.sum_bytes *
      (round_up(gather_depth(r), shape.chunk) * read + shape.panels * r.tile.columns * shape.slices);
  // Whole tiles of the micro-kernel, from all slices together.
  const int64_t step = divide_up(r.tile.rows, shape.slices);
  const int64_t fitting = std::clamp<int64_t>(kBlockBytes / tile_bytes / step, 1, 4) * step;
  shape.tiles = std::max(grid.dx, whole_groups(fitting, grid));
  return shape;
}

// Whether a part can keep its transformed weight, be it the whole.
bool keeps_weight(const PlanRequest& r) {
  WinogradShape shape = shallow_shape(r);
  shape.part_panels = panels_of(r);
  return transformed_bytes(r) <= kShallowBytes && sizes_of(r, shape).elements(shape) * r.sum_bytes <= kWorkerBytes;
}

// About the cycles of the part with the most work where the work is cut into so many parts.
double part_cycles(const PlanRequest& r, const WinogradShape& shape, int64_t tile_parts, int64_t panel_parts) {
  const TileGrid grid = winograd_grid(r);
  const int64_t taps = r.problem.axis[0].kernel, groups = r.problem.groups, terms = gather_depth(r) * taps;
  const int64_t tiles = divide_up(grid.tiles() * groups, tile_parts), results = tiles * grid.slices;
  const int64_t sources = results + tiles * divide_up(grid.slices, shape.slices) * (taps - 1);
  // A part that is not of whole groups has a bit of one at either end.
  const int64_t met = std::min(groups, groups % tile_parts == 0 ? groups / tile_parts : groups / tile_parts + 2);
  const int64_t weights = shape.deep ? divide_up(results, shape.tiles * shape.slices) : met;
  const int64_t rows = divide_up(panels_of(r), panel_parts) * r.tile.columns / r.lanes;
  const auto product = [](int64_t a, int64_t b) { return static_cast<double>(a) * static_cast<double>(b); };
  return kSourceCycles * product(sources, divide_up(gather_depth(r), r.lanes)) +
         kWeightCycles * product(weights * terms, rows) +
         product(results, rows) * (kResultCycles + kTermCycles * static_cast<double>(terms));
}

// Cuts the work into parts, at most one for each thread.
void cut_into_parts(const PlanRequest& r, int64_t threads, WinogradShape& shape) {
  const int64_t panels = panels_of(r), most = std::min(threads, panels);
  const int64_t panel_bytes = transformed_bytes(r) / panels, kept = std::max(kKeptBytes, kKeptBytesOfAll / threads);
  int64_t fewest = 1;
  while (!shape.deep && fewest < most && divide_up(panels, fewest) * panel_bytes > kept) ++fewest;
  int64_t best = fewest;
  for (int64_t parts = fewest + 1; parts <= most; ++parts)
    if (part_cycles(r, shape, threads / parts, parts) < part_cycles(r, shape, threads / best, best)) best = parts;
  shape.tile_parts = threads / best;
  shape.part_panels = divide_up(panels, best);
  shape.panels = std::min(shape.panels, shape.part_panels);
}

WinogradShape shape_of(const PlanRequest& r, int64_t threads) {
  const TileGrid grid = winograd_grid(r);
  const int64_t total = grid.tiles(), groups = r.problem.groups;
  const bool one_block = transformed_bytes(r) > kShallowBytesOfABlock && total * grid.slices <= kDeepTiles;
  WinogradShape shape;
  if (one_block || !keeps_weight(r)) shape = deep_shape(r);
  if (!shape.deep || shape.tiles < 1) shape = shallow_shape(r);
  cut_into_parts(r, threads, shape);
  // Blocks of one size, as many in every part; of many the last may be smaller.
  constexpr int64_t kMany = 16;
  const int64_t columns = divide_up(grid.slices, shape.slices) * groups;
  const int64_t blocks = round_up(divide_up(total * columns, shape.tiles), shape.tile_parts);
  const int64_t even = round_up(divide_up(total * columns, std::max<int64_t>(blocks, 1)), grid.dx);
  if (blocks < kMany * shape.tile_parts)
    shape.tiles = std::clamp<int64_t>(even, grid.dx, std::min(shape.tiles, std::max(grid.dx, total)));
  shape.tile_parts = std::clamp<int64_t>(divide_up(total, shape.tiles) * columns, 1, shape.tile_parts);
  return shape;
}

WinogradWgradShape wgrad_shape_of(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  WinogradWgradShape shape;
  shape.rows = round_up(balanced(p.out_channels, kWgradBytes / r.sum_bytes), r.lanes);
  shape.columns = round_up(balanced(p.in_channels, kWgradBytes / r.sum_bytes), r.tile.columns);
  const TileGrid grid = winograd_grid(r);
  const int64_t total = grid.tiles();
  const int64_t units =
      p.groups * p.axis[0].kernel * divide_up(p.out_channels, shape.rows) * divide_up(p.in_channels, shape.columns);
  const int64_t result_bytes = weight_elements(p) * r.sum_bytes;
  while (units * shape.slices < kWgradUnits && total >= 2 * shape.slices * kLeastSliceTiles &&
         2 * shape.slices * result_bytes <= kSliceBytes)
    shape.slices *= 2;
  if (units * shape.slices == 1 && shape.rows >= 2 * kLeastWgradRows) shape.rows = round_up(shape.rows / 2, r.lanes);
  const int64_t even = round_up(divide_up(total, shape.slices), grid.dx);
  shape.tiles = std::clamp<int64_t>(even, grid.dx, whole_groups(kWgradTiles, grid));
  return shape;
}

// Why pairs are better multiplied directly; empty if they are not. channels_last is packed for that, tap by tap, which
// only small 5 x 5 layers repay.
std::string pairs_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  const bool wgrad = r.op == ConvOperator::kWgrad, wide = p.axis[1].kernel == 5;
  const int64_t fewer = std::min(p.in_channels, p.out_channels);
  const int64_t columns = wgrad ? p.in_channels : gather_rows(r), panels = round_up(columns, r.tile.columns);
  if (r.source_channels_last || r.result_channels_last) {
    if (wide && !wgrad && fewer < kLeastPairedChannels)
      return "5 x 5 pairs of " + std::to_string(fewer) + " channels are better multiplied directly";
    return "";
  }
  if (!wide && static_cast<double>(columns) < kFullPairPanels * static_cast<double>(panels))
    return std::to_string(columns) + " columns leave panels of " + std::to_string(panels) +
           " emptier than pairs multiplied directly";
  const TileGrid grid = winograd_grid(r);
  if ((wgrad || may_read_lines(r)) && !wide && p.axis[0].kernel == 1) {
    if (static_cast<double>(grid.per_image() * kWinogradPoints) >
        kMostPairedWork * static_cast<double>(grid.height * grid.width * kernel_taps(p)))
      return std::to_string(grid.height) + " x " + std::to_string(grid.width) +
             " pixels leave tiles emptier than pairs multiplied directly";
  }
  const int64_t pixels = grid.height * grid.width * grid.slices * grid.image_slices;
  const bool few_channels = !wide && std::max(p.in_channels, p.out_channels) <= kFewPairedChannels;
  if (!wgrad && (may_read_lines(r) || few_channels) && pixels <= kFewPairedPixels)
    return std::to_string(pixels) + " pixels of pairs do not repay a transform of the weight";
  return "";
}

// Of all pairs of a result slice and a depth tap the share that read the image.
double depth_share(const ConvProblem& p, int64_t slices) {
  const ConvAxis& z = p.axis[0];
  if (p.mode != PaddingMode::kZeros) return 1;
  int64_t pairs = 0;  // those of fprop are the other operators', too
  for (int64_t tap = 0; tap < z.kernel; ++tap)
    pairs += std::max<int64_t>(0, std::min(z.output, z.input + z.lo - tap) - std::max<int64_t>(0, z.lo - tap));
  return static_cast<double>(pairs) / static_cast<double>(std::max<int64_t>(1, slices * z.kernel));
}

// Whether fewer channels on a side than kLeastChannels pay.
bool few_channels_pay(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  const bool depth = p.axis[0].kernel > 1, pairs = r.kernel_terms > 1;
  const TileGrid grid = winograd_grid(r);
  const int64_t pixels = grid.slices * grid.image_slices * grid.height * grid.width;
  const int64_t fewer = std::min(p.in_channels, p.out_channels), more = std::max(p.in_channels, p.out_channels);
  const int64_t enough = depth && p.axis[2].kernel == 3 && !pairs ? kFewChannels : kEnoughChannels;
  const int64_t columns = r.op == ConvOperator::kWgrad ? p.in_channels : gather_rows(r);
  const bool filled = static_cast<double>(columns) >= kLeastFill * static_cast<double>(round_up(columns, r.lanes));
  if (fewer >= kFewChannels && more >= enough)
    return depth ||
           (!pairs && filled && pixels >= (p.axis[2].kernel == 5 ? kFewChannelsPixelsOf5 : kFewChannelsPixels));
  return depth && !pairs && filled && pixels >= kLargeVolume && columns >= kLeastColumnsOfVolume &&
         fewer >= kLeastOthersOfVolume && fewer + more >= kLeastChannelsOfVolume &&
         depth_share(p, grid.slices * grid.image_slices) >= kLeastDepthShare;
}

}  // namespace

bool winograd_enabled() { return enabled.load(std::memory_order_relaxed); }
void set_winograd_enabled(bool value) { enabled.store(value, std::memory_order_relaxed); }

TileGrid winograd_grid(const PlanRequest& r) {
  const auto size = [&](int i) {
    const ConvAxis& axis = r.problem.axis[i];
    return r.op == ConvOperator::kDgrad ? axis.input : axis.output;
  };
  TileGrid grid{winograd_tile(r.problem.axis[1].kernel), size(1), size(2), r.problem.batch};
  grid.dy = r.problem.axis[1].dilation, grid.dx = r.problem.axis[2].dilation;
  const bool apart = r.op == ConvOperator::kWgrad || r.problem.axis[0].kernel == 1;
  (apart ? grid.image_slices : grid.slices) = size(0);
  grid.images *= grid.image_slices;
  return grid;
}

std::string winograd_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  const auto by = [](int64_t a, int64_t b) { return std::to_string(a) + " x " + std::to_string(b); };
  const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
  if (!r.packed_type) return "it computes float32, float64, bfloat16 and float16";
  if (y.kernel != x.kernel || (x.kernel != 3 && x.kernel != 5))
    return "the kernel is " + by(y.kernel, x.kernel) + " in the plane, neither 3 x 3 nor 5 x 5";
  for (const ConvAxis& axis : p.axis)
    if (axis.stride != 1) return "the stride is not one";
  if (z.dilation != 1 && z.kernel != 1) return "the depth is dilated";
  if (x.dilation > kMostDilation)
    return "tiles of pixels " + std::to_string(x.dilation) + " apart do not fit a stage, which takes " +
           std::to_string(kMostDilation);
  if (!r.winograd) return "convext.backends.winograd.enabled is False";
  if (r.op == ConvOperator::kDgrad && p.mode != PaddingMode::kZeros)
    return "the gradient of a padding mode folds border pixels";
  if (std::min(p.in_channels, p.out_channels) < kLeastChannels && !few_channels_pay(r))
    return "a group has " + by(p.in_channels, p.out_channels) + " channels, too few to repay the transforms";
  const TileGrid grid = winograd_grid(r);
  const int64_t slices = grid.slices * grid.image_slices, pixels = grid.height * grid.width;
  if (pixels < 1 || pixels * slices < kLeastPixels || z.input < 1)
    return (z.kernel > 1 || slices > 1 ? std::to_string(slices) + " x " : "") + by(grid.height, grid.width) +
           " pixels of a result are few for a transform of the weight";
  const int64_t tiles = grid.per_image() * slices;
  if (r.op == ConvOperator::kWgrad && tiles < kLeastWgradTiles)
    return std::to_string(tiles) + " tiles of a sample are few for a transform of the weight's gradient";
  if (panel_terms(r) > 1)
    if (std::string reason = pairs_refusal(r); !reason.empty()) return reason;
  const double work = static_cast<double>(grid.per_image() * kWinogradPoints);
  const bool channels_last = r.source_channels_last || r.result_channels_last;  // whose panels cost less
  const int64_t many = r.op == ConvOperator::kDgrad && x.kernel == 5 ? kManyRowsOfGradient : kManyRows;
  const bool many_rows = r.op != ConvOperator::kWgrad && !channels_last && gather_rows(r) >= many &&
                         (panel_terms(r) > 1 ? x.kernel == 5 : !is_widened(r));
  const double most = many_rows ? kMostWorkOfManyRows : kMostWork;
  if (work > most * static_cast<double>(pixels * y.kernel * x.kernel))
    return by(grid.height, grid.width) + " pixels leave too much of their tiles empty";
  if (r.op != ConvOperator::kWgrad && !keeps_weight(r)) {
    const WinogradShape shape = deep_shape(r);
    if (shape.tiles * shape.slices < kLeastDeepTiles)
      return std::to_string(gather_depth(r)) + " channels of few tiles fill the workspace";
  }
  return "";
}

void plan_winograd(const PlanRequest& r, ConvPlan& plan) {
  if (r.op == ConvOperator::kWgrad) {
    plan.winograd_wgrad = wgrad_shape_of(r);
    plan.slices = plan.winograd_wgrad.slices;
    plan.shared_bytes = plan.slices > 1 ? plan.slices * weight_elements(r.problem) * r.sum_bytes : 0;
    plan.thread_bytes =
        WinogradWgradSizes(plan.winograd_wgrad, r.tile, r.lanes, r.problem.axis[1].kernel).elements() * r.sum_bytes;
    return;
  }
  plan.winograd = shape_of(r, plan.workers);
  plan.shape.pixels_are_rows = true;  // tiles are
  const WinogradSizes sizes = sizes_of(r, plan.winograd);
  plan.shared_bytes = r.problem.groups * panels_of(r) * r.tile.columns * r.sum_bytes;  // the bias
  plan.thread_bytes = sizes.elements(plan.winograd) * r.sum_bytes;
  plan.workers = plan.winograd.tile_parts * divide_up(panels_of(r), plan.winograd.part_panels);
}

}  // namespace convext
