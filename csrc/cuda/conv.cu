// The convolution operators on CUDA: check, allocate, plan, run.
#include "conv.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdlib>

#include "launch.cuh"
#include "tf32.h"

namespace convext::cuda {
namespace {

Tensor allocate_result(const Tensor& a, const Tensor& b, const ConvProblem& p, int64_t outer, int64_t channels,
                       int64_t ConvAxis::*size) {
  const int rank = static_cast<int>(a.dim()) - 2;
  IntList sizes{outer, channels};
  for (int i = 0; i < rank; ++i) sizes.push_back(p.axis[kSpatialAxes - rank + i].*size);
  return allocate(a, sizes, a.scalar_type(), result_format(a, b));
}

// Whether offsets, coordinates and counts of this problem are below `narrow_offsets`.
bool needs_wide_offsets(const ConvProblem& p, const ConvOperands& operands) {
  __int128 largest = 0;
  const auto meet = [&](__int128 size) { largest = std::max(largest, size); };
  for (const Tensor* t : {&operands.image, &operands.weight, static_cast<const Tensor*>(&operands.result)})
    meet(extent_of(*t));
  for (const ConvOperator op : {ConvOperator::kFprop, ConvOperator::kDgrad, ConvOperator::kWgrad}) {
    const GemmShape shape = gemm_shape(op, p);
    meet(__int128{shape.rows} + kLargeTile[0]), meet(__int128{shape.columns} + kLargeTile[1]), meet(shape.depth);
  }
  for (const ConvAxis& a : p.axis)  // windows may begin that far before, and end that far behind the image
    meet(__int128{a.input} + a.output * a.stride + kernel_extent(a) + std::abs(a.lo) + std::abs(a.hi));
  return largest >= narrow_offsets();
}

template <class T>
void run_gemm_of(const DeviceScope& device, const ConvRequest& request, const ConvPlan& plan,
                 const ConvStrides& strides, const ConvOperands& operands) {
  if constexpr (sizeof(T) <= 4)
    if (plan.by_runs()) return run_gemm_by_runs<T>(device, request, plan, strides, operands);
  if constexpr (sizeof(T) == 4)
    if (plan.arithmetic == Arithmetic::kMultiplyAdd)
      return run_gemm_by_elements<T, Arithmetic::kMultiplyAdd>(device, request, plan, strides, operands);
  run_gemm_by_elements<T, Arithmetic::kTensorCores>(device, request, plan, strides, operands);
}

void run_gemm(const DeviceScope& device, const ConvRequest& request, const ConvPlan& plan, const ConvStrides& strides,
              const ConvOperands& operands) {
  switch (operands.image.scalar_type()) {
    case ScalarType::Float: return run_gemm_of<float>(device, request, plan, strides, operands);
    case ScalarType::Double: return run_gemm_of<double>(device, request, plan, strides, operands);
    case ScalarType::BFloat16: return run_gemm_of<BFloat16>(device, request, plan, strides, operands);
    default: return run_gemm_of<Half>(device, request, plan, strides, operands);
  }
}

bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
         type == ScalarType::Half;
}

// Where tensors can be read, and written, 16 bytes at a time.
void find_runs(const ConvOperands& operands, const ConvStrides& strides, ConvRequest& request) {
  const ConvProblem& p = request.problem;
  const bool depthwise = is_depthwise(p);  // then neighbouring channels are of other groups
  const auto address = [](const Tensor& t) { return reinterpret_cast<uint64_t>(t.const_data_ptr()); };
  const auto image_sizes = [&](int64_t channels, int64_t ConvAxis::*size, int64_t(&to)[5]) {
    to[0] = p.batch, to[1] = depthwise ? p.groups : channels;
    for (int i = 0; i < kSpatialAxes; ++i) to[2 + i] = p.axis[i].*size;
  };
  int64_t image[5], weight[5], result[5];
  const bool dgrad = request.op == ConvOperator::kDgrad;
  image_sizes(dgrad ? p.out_channels : p.in_channels, dgrad ? &ConvAxis::output : &ConvAxis::input, image);
  image_sizes(p.out_channels, &ConvAxis::output, weight);  // wgrad's is an image, grad_output
  if (request.op != ConvOperator::kWgrad) {
    weight[0] = p.groups * p.out_channels, weight[1] = p.in_channels;
    for (int i = 0; i < kSpatialAxes; ++i) weight[2 + i] = p.axis[i].kernel;
  }
  image_sizes(dgrad ? p.in_channels : p.out_channels, dgrad ? &ConvAxis::input : &ConvAxis::output, result);
  if (request.op != ConvOperator::kWgrad)
    request.result = runs_of(address(operands.result), request.element_bytes, strides.result, result);
  request.image = runs_of(address(operands.image), request.element_bytes, strides.image, image);
  request.weight = runs_of(address(operands.weight), request.element_bytes, strides.weight, weight);
}

void run(const DeviceScope& device, ConvOperator op, const ConvProblem& p, const ConvOperands& operands) {
  if (operands.result.numel() == 0) return;
  const ScalarType type = operands.image.scalar_type();
  ConvRequest request;
  request.op = op;
  request.problem = p;
  request.floating = is_floating(type);
  request.wide_offsets = needs_wide_offsets(p, operands);
  request.element_bytes = static_cast<int>(operands.image.element_size());
  request.sum_bytes = type == ScalarType::Double ? 8 : 4;
  request.tf32 = type == ScalarType::Float && tf32_allowed();
  const ConvStrides whole{strides_of(operands.image), strides_of(operands.weight), strides_of(operands.result)};
  ConvStrides strides = whole;
  ConvRequest merged = request;
  if (!merge_pixels(op, merged.problem, strides)) merged = request, strides = whole;
  find_runs(operands, strides, merged);
  merged.planes =
      strides.image.axis[2] == 1 && (op == ConvOperator::kWgrad ? strides.weight : strides.result).axis[2] == 1;
  const ConvPlan plan = plan_conv(merged);
  switch (plan.algorithm) {
    case ConvAlgorithm::kDepthwise: return run_depthwise(device, request, plan, operands);
    case ConvAlgorithm::kGemm: return run_gemm(device, merged, plan, strides, operands);
    case ConvAlgorithm::kDirect: return run_direct(device, op, p, operands);
  }
}

Tensor conv_fprop(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntList stride,
                  IntList padding, IntList dilation, int64_t groups, int64_t padding_mode) {
  const ConvProblem p = fprop_problem(input, weight, {stride, padding, dilation, groups, padding_mode});
  const DeviceScope device(input);
  const int64_t channels = p.groups * p.out_channels;
  const std::optional<Tensor> dense = dense_bias(bias, input, channels);
  Tensor output = allocate_result(input, weight, p, p.batch, channels, &ConvAxis::output);
  run(device, ConvOperator::kFprop, p, {input, weight, output, dense});
  return output;
}

Tensor conv_dgrad(const Tensor& grad_output, const Tensor& weight, const std::optional<Tensor>& bias, IntList stride,
                  IntList padding, IntList dilation, int64_t groups, int64_t padding_mode) {
  const ConvProblem p = dgrad_problem(grad_output, weight, {stride, padding, dilation, groups, padding_mode});
  const DeviceScope device(grad_output);
  const int64_t channels = p.groups * p.in_channels;
  const std::optional<Tensor> dense = dense_bias(bias, grad_output, channels);
  Tensor result = allocate_result(grad_output, weight, p, p.batch, channels, &ConvAxis::input);
  run(device, ConvOperator::kDgrad, p, {grad_output, weight, result, dense});
  return result;
}

Tensor conv_wgrad(const Tensor& grad_output, const Tensor& input, IntList kernel_size, IntList stride, IntList padding,
                  IntList dilation, int64_t groups, int64_t padding_mode) {
  const ConvProblem p =
      wgrad_problem(grad_output, input, kernel_size, {stride, padding, dilation, groups, padding_mode});
  const DeviceScope device(grad_output);
  Tensor result = allocate_result(grad_output, input, p, p.groups * p.out_channels, p.in_channels, &ConvAxis::kernel);
  run(device, ConvOperator::kWgrad, p, {input, grad_output, result, std::nullopt});
  return result;
}

Tensor conv_fused(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                  const std::optional<Tensor>& residual, IntList stride, IntList padding, IntList dilation,
                  int64_t groups, int64_t padding_mode, int64_t activation, double slope, bool transposed) {
  const ConvGeometry geometry{stride, padding, dilation, groups, padding_mode};
  STD_TORCH_CHECK(is_floating(input.scalar_type()), "convext: expected a floating-point type, got ",
                  torch::headeronly::toString(input.scalar_type()));
  STD_TORCH_CHECK(activation >= 0 && activation < kActivations, "convext: expected activation 0 to ", kActivations - 1,
                  ", got ", activation);
  const ConvProblem p = transposed ? dgrad_problem(input, weight, geometry) : fprop_problem(input, weight, geometry);
  const DeviceScope device(input);
  const int64_t channels = p.groups * (transposed ? p.in_channels : p.out_channels);
  const std::optional<Tensor> dense = dense_bias(bias, input, channels);
  Tensor result =
      allocate_result(input, weight, p, p.batch, channels, transposed ? &ConvAxis::input : &ConvAxis::output);
  const std::optional<Tensor> aligned = aligned_residual(residual, result, result_format(input, weight));
  run(device, transposed ? ConvOperator::kDgrad : ConvOperator::kFprop, p,
      {input, weight, result, dense, aligned, static_cast<Activation>(activation), slope});
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(convext, CONVEXT_DEVICE_KEY, m) {
  m.impl("conv_fprop", TORCH_BOX(&conv_fprop));
  m.impl("conv_dgrad", TORCH_BOX(&conv_dgrad));
  m.impl("conv_wgrad", TORCH_BOX(&conv_wgrad));
  m.impl("conv_fused", TORCH_BOX(&conv_fused));
}

}  // namespace
}  // namespace convext::cuda
