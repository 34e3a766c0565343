// The plan of a convolution in words, for the tests, through ctypes.
#include <string>

#include "../../csrc/cuda/conv_plan.h"

// `axes`: for each of the three, input, kernel, stride, dilation, lo, hi.
extern "C" __attribute__((visibility("default"))) const char* convext_cuda_plan(int op, int floating, int wide_offsets,
                                                                                int64_t batch, int64_t groups,
                                                                                int64_t in_channels,
                                                                                int64_t out_channels, int mode,
                                                                                const int64_t* axes) {
  using namespace convext;
  cuda::ConvRequest request;
  request.op = static_cast<ConvOperator>(op);
  request.floating = floating != 0;
  request.wide_offsets = wide_offsets != 0;
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
  if (plan.algorithm == cuda::ConvAlgorithm::kGemm) text += plan.tile == cuda::GemmTile::kLarge ? " large" : " small";
  text += " slices " + std::to_string(plan.slices) + " of " + std::to_string(plan.slice_depth) + " workspace " +
          std::to_string(plan.workspace_bytes);
  for (const cuda::Declined& d : plan.declined)
    text += std::string("; not ") + cuda::algorithm_name(d.algorithm) + ": " + d.reason;
  return text.c_str();
}
