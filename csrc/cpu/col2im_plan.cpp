#include "col2im_plan.h"

namespace convext {
namespace {

// A unit's sums and packed weight stay within an L2 of 1 MiB.
constexpr int64_t kSumBytes = 384 << 10, kMostRows = 256;
// What a unit may need at most: a band of one result channel.
constexpr int64_t kMostUnitBytes = int64_t{3} << 20;
// Source pixels of a unit of several images at most, and to which an image is cut.
constexpr int64_t kMostPixels = 512, kBandPixels = 1024;

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
  const int64_t bands = divide_up(p.axis[shape.cut].input, shape.band), taps = kernel_taps(p);
  const int64_t pixels = shape.whole(p) ? output_pixels(p) : std::min(output_pixels(p), kBandPixels);
  // For each term of the reduction: the products of a vector of pixels and a row of sums take half a cycle, gathering
  // such a vector some, and packing a row of the weight a few for a panel of rows.
  const auto cycles = [&](const Col2imShape& s) {
    constexpr double kProduct = 0.52, kGathered = 4, kPacked = 0.4;
    const auto rows = static_cast<double>(s.channels * taps);
    return static_cast<double>(divide_up(s.images * pixels, r.lanes)) * (rows * kProduct + kGathered) + kPacked * rows;
  };
  const int64_t most = shape.whole(p) ? std::clamp<int64_t>(kMostPixels / pixels, 1, std::max<int64_t>(1, p.batch)) : 1;
  // Larger batches are cut like this one: what is left over counts little there, and the workspace stays the same.
  const int64_t batch =
      std::min(p.batch, std::min<int64_t>(2 * threads, 32) * std::max<int64_t>(1, kMostPixels / pixels));
  Col2imShape best = shape;
  double least = 0;
  for (shape.images = 1; shape.images <= most; ++shape.images) {
    shape.channels = 1;
    const Col2imWorkspace workspace(p, shape, r.tile);
    if (shape.images > 1 && workspace.elements() * r.sum_bytes > kMostUnitBytes) break;
    const int64_t fewest = divide_up(p.in_channels, fitting_channels(r, workspace.pitch));
    for (int64_t parts = fewest; parts <= fewest + 2 * threads; ++parts) {
      shape.channels = divide_up(p.in_channels, parts);
      const int64_t units =
          p.groups * bands * divide_up(batch, shape.images) * divide_up(p.in_channels, shape.channels);
      const double busiest = static_cast<double>(divide_up(units, threads)) * cycles(shape);
      if (least > 0 && busiest >= 0.99 * least) continue;
      best = shape, least = busiest;
    }
  }
  return best;
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
