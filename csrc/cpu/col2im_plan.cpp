#include "col2im_plan.h"

namespace convext {
namespace {

// A unit's sums and packed weight stay within an L2 of 1 MiB.
constexpr int64_t kSumBytes = 384 << 10, kMostRows = 256;
// What a unit may need at most: a band of one result channel.
constexpr int64_t kMostUnitBytes = int64_t{3} << 20;
// Source pixels of a unit from which packing its weight is cheap, and to which an image is cut.
constexpr int64_t kEnoughPixels = 128, kBandPixels = 1024;

int64_t fitting_channels(const PlanRequest& r, int64_t pixels) {
  const int64_t taps = kernel_taps(r.problem), sums = kSumBytes / r.sum_bytes / std::max<int64_t>(1, pixels);
  return std::clamp<int64_t>(std::min(sums, kMostRows) / taps, 1, std::max<int64_t>(1, r.problem.in_channels));
}

// The cut of the request, as far as it does not depend on batch or threads: bands, or whole images.
Col2imShape cut_image(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  Col2imShape shape;
  while (shape.cut < kSpatialAxes - 1 && p.axis[shape.cut].output == 1) ++shape.cut;
  const ConvAxis& cut = p.axis[shape.cut];
  const int64_t inner = output_pixels(p) / std::max<int64_t>(1, cut.output);
  const int64_t sources = balanced(cut.output, std::max<int64_t>(1, kBandPixels / std::max<int64_t>(1, inner)));
  shape.band = sources >= cut.output ? std::max<int64_t>(1, cut.input) : sources * cut.stride;
  return shape;
}

Col2imShape col2im_shape(const PlanRequest& r, int64_t threads) {
  const ConvProblem& p = r.problem;
  Col2imShape shape = cut_image(r);
  const int64_t pixels = output_pixels(p), groups = p.groups;
  if (shape.whole(p)) shape.images = std::clamp<int64_t>(kEnoughPixels / pixels, 1, std::max<int64_t>(1, p.batch));
  shape.channels = fitting_channels(r, Col2imWorkspace(p, shape, r.tile).pitch);
  const int64_t bands = divide_up(p.axis[shape.cut].input, shape.band) * divide_up(p.batch, shape.images);
  const auto units = [&] { return groups * bands * divide_up(p.in_channels, shape.channels); };
  // Four panels still repay the gathering of the image for them.
  const int64_t fewest = divide_up(4 * r.tile.rows, kernel_taps(p));
  while (threads > 1 && units() < 4 * threads && shape.channels > fewest)
    shape.channels = std::max(fewest, divide_up(shape.channels, 2));
  return shape;
}

}  // namespace

std::string col2im_refusal(const PlanRequest& r) {
  const ConvProblem& p = r.problem;
  if (!r.packed_type) return "only float32, float64, bfloat16 and float16 have packed kernels";
  if (p.axis[0].stride == 1 && p.axis[1].stride == 1 && p.axis[2].stride == 1) return "the stride is one";
  if (r.source_channels_last || r.result_channels_last) return "the images are channels_last";
  if (p.mode != PaddingMode::kZeros) return "the gradient of a padding mode folds border pixels";
  if (output_pixels(p) == 0 || p.out_channels == 0 || p.in_channels == 0) return "there is nothing to multiply";
  if (p.axis[2].kernel > kMostCol2imTaps || p.axis[0].kernel * p.axis[1].kernel > kMostCol2imTaps)
    return "the kernel has more than " + std::to_string(kMostCol2imTaps) + " taps along a line or across";
  const Col2imShape shape = cut_image(r);
  if (Col2imWorkspace(p, shape, r.tile).elements() * r.sum_bytes > kMostUnitBytes)
    return "a band of one channel with its taps needs more than " + std::to_string(kMostUnitBytes >> 20) + " MiB";
  return "";
}

void plan_col2im(const PlanRequest& r, ConvPlan& plan) {
  plan.col2im = col2im_shape(r, plan.workers);
  const int64_t needed = Col2imWorkspace(r.problem, plan.col2im, r.tile).elements() * r.sum_bytes;
  // A cut image gets the bound, so that the workspace of large images does not depend on how they are cut.
  plan.thread_bytes = plan.col2im.whole(r.problem) ? needed : std::max(needed, kMostUnitBytes);
  plan.shared_bytes = r.problem.groups * gather_rows(r) * r.sum_bytes;
}

}  // namespace convext
