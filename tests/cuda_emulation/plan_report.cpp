// The plan of a convolution in words, for the tests, through ctypes.
#include <algorithm>
#include <string>

#include "../../csrc/cuda/conv_plan.h"

namespace {

const char* words_of(convext::cuda::Copies copies) {
  using convext::cuda::Copies;
  return copies == Copies::kElements ? "elements" : copies == Copies::kAlongDepth ? "along depth" : "along rows";
}

}  // namespace

// Bit 0: runs along the channels, bit 1: along the pixels. `sizes` and `strides`: outer, channels, three axes.
extern "C" __attribute__((visibility("default"))) int convext_cuda_runs(int64_t address, int element_bytes,
                                                                        const int64_t* sizes, const int64_t* strides) {
  int64_t size[5];
  std::copy(sizes, sizes + 5, size);
  const convext::Strides s{strides[0], strides[1], {strides[2], strides[3], strides[4]}};
  const convext::cuda::Runs runs = convext::cuda::runs_of(static_cast<uint64_t>(address), element_bytes, s, size);
  return runs.channels + 2 * runs.pixels;
}

// `axes`: for each of the three, input, kernel, stride, dilation, lo, hi. `runs`: of image, weight and result, as
// above. `planes`: their rows are contiguous.
extern "C" __attribute__((visibility("default"))) const char* convext_cuda_plan(
    int op, int floating, int wide_offsets, int64_t batch, int64_t groups, int64_t in_channels, int64_t out_channels,
    int mode, const int64_t* axes, int element_bytes, int tf32, const int* runs, int planes) {
  using namespace convext;
  cuda::ConvRequest request;
  request.op = static_cast<ConvOperator>(op);
  request.floating = floating != 0;
  request.wide_offsets = wide_offsets != 0;
  request.element_bytes = element_bytes;
  request.sum_bytes = std::max(element_bytes, 4);
  request.tf32 = tf32 != 0;
  request.image = {(runs[0] & 1) != 0, (runs[0] & 2) != 0};
  request.weight = {(runs[1] & 1) != 0, (runs[1] & 2) != 0};
  request.result = {(runs[2] & 1) != 0, (runs[2] & 2) != 0};
  request.planes = planes != 0;
  ConvProblem& p = request.problem;
  p.batch = batch, p.groups = groups, p.in_channels = in_channels, p.out_channels = out_channels;
  p.mode = static_cast<PaddingMode>(mode);
  for (int i = 0; i < kSpatialAxes; ++i, axes += 6) {
    p.axis[i] = {axes[0], axes[1], 1, axes[2], axes[3], axes[4], axes[5]};
    p.axis[i].output = output_size(p.axis[i]);
  }
  const cuda::ConvPlan plan = cuda::plan_conv(request);
  static std::string text;
  text = cuda::algorithm_name(plan.algorithm);
  constexpr const char* kDepthwise[] = {" by elements", " along channels", " by planes"};
  if (plan.algorithm == cuda::ConvAlgorithm::kDepthwise) text += kDepthwise[static_cast<int>(plan.depthwise)];
  constexpr const char* kTiles[] = {" square", " large", " small"};
  if (plan.algorithm == cuda::ConvAlgorithm::kGemm) text += kTiles[static_cast<int>(plan.tile)];
  text += " slices " + std::to_string(plan.slices) + " of " + std::to_string(plan.slice_depth) + " workspace " +
          std::to_string(plan.workspace_bytes);
  if (plan.algorithm == cuda::ConvAlgorithm::kGemm)
    text += std::string("; by ") +
            (plan.arithmetic == cuda::Arithmetic::kMultiplyAdd ? "multiply-adds" : "tensor cores") + "; a " +
            words_of(plan.a) + ", b " + words_of(plan.b) +
            (plan.c == cuda::Stores::kElements    ? ", c elements"
             : plan.c == cuda::Stores::kAlongRows ? ", c along rows"
                                                  : ", c along columns");
  for (const cuda::Declined& d : plan.declined)
    text += std::string("; not ") + cuda::algorithm_name(d.algorithm) + ": " + d.reason;
  return text.c_str();
}
