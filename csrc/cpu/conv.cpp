// The convolution operators on CPU: check, allocate, plan, run.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>

#include "../allocate.h"
#include "../contract.h"
#include "../element_types.h"
#include "direct.h"
#include "grouped_plan.h"
#include "plan_cache.h"
#include "run.h"

namespace convext {
namespace {
using torch::stable::parallel_for;

Tensor allocate(const Tensor& a, const Tensor& b, const ConvProblem& p, int64_t outer, int64_t channels,
                int64_t ConvAxis::*size) {
  const int rank = static_cast<int>(a.dim()) - 2;
  int64_t sizes[2 + kSpatialAxes] = {outer, channels};
  for (int i = 0; i < rank; ++i) sizes[2 + i] = p.axis[kSpatialAxes - rank + i].*size;
  return empty_result(a, std::span(sizes).first(2 + rank), a.scalar_type(), result_format(a, b));
}

// The data are only read where an operator reads them: ConvOperands has one type for both.
Operand reading(const Tensor& t) { return {const_cast<void*>(t.const_data_ptr()), strides_of(t)}; }
Operand writing(Tensor& t) { return {t.mutable_data_ptr(), strides_of(t)}; }

const void* data_of(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

std::optional<FloatType> float_type(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return FloatType::kFloat;
    case ScalarType::Double: return FloatType::kDouble;
    case ScalarType::BFloat16: return FloatType::kBFloat16;
    case ScalarType::Half: return FloatType::kHalf;
    default: return std::nullopt;
  }
}

void run_direct(ConvOperator op, const ConvProblem& p, ScalarType type, const ConvOperands& operands) {
  with_element_type(type, [&](auto zero) {
    using T = decltype(zero);
    const auto in = [](const Operand& o) { return direct::Image<const T>{static_cast<const T*>(o.data), o.strides}; };
    const direct::Image<const T> image = in(operands.image), weight = in(operands.weight);
    const direct::Image<T> result{static_cast<T*>(operands.result.data), operands.result.strides};
    const Epilogue& epilogue = operands.epilogue;
    const auto for_each = [](int64_t count, auto body) {
      parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) body(i);
      });
    };
    switch (op) {
      case ConvOperator::kFprop:
        return for_each(p.batch * p.groups * p.out_channels,
                        [&](int64_t i) { direct::fprop_plane<T>(p, i, image, weight, epilogue, result); });
      case ConvOperator::kDgrad:
        return for_each(p.batch * p.groups * p.in_channels,
                        [&](int64_t i) { direct::dgrad_plane<T>(p, i, image, weight, epilogue, result); });
      case ConvOperator::kWgrad:
        return for_each(p.groups * p.out_channels * p.in_channels,
                        [&](int64_t i) { direct::wgrad_slice<T>(p, i, weight, image, result); });
    }
  });
}

// Whether the taps (or pixels) of each channel are dense and the channels follow each other.
bool is_dense(const Strides& s, const ConvAxis (&axis)[kSpatialAxes], int64_t channels) {
  int64_t distance = 1;
  for (int i = kSpatialAxes; i-- > 0; distance *= axis[i].kernel)
    if (axis[i].kernel > 1 && s.axis[i] != distance) return false;
  return channels == 1 || s.channel == distance;
}

// Turns a problem whose kernel is the image into one of single pixels, where the operands' layouts allow it.
void merge_taps(ConvOperator op, ConvProblem& p, ConvOperands& operands) {
  if (!kernel_is_image(p)) return;
  Operand& image = op == ConvOperator::kDgrad ? operands.result : operands.image;
  Operand& weight = op == ConvOperator::kWgrad ? operands.result : operands.weight;
  if (!is_dense(image.strides, p.axis, p.groups * p.in_channels)) return;
  if (!is_dense(weight.strides, p.axis, p.in_channels)) return;
  if (op == ConvOperator::kDgrad) operands.epilogue.bias_repeats = kernel_taps(p);
  p = taps_as_channels(p);
  for (Operand* o : {&image, &weight}) o->strides = {o->strides.outer, 1, {}};
}

// Makes the images' rows as long as their layouts allow. Those of widened types are never multiplied where they lie.
void join_axes(ConvOperator op, ConvProblem& p, ConvOperands& operands, FloatType type) {
  const Operand& other = op == ConvOperator::kWgrad ? operands.weight : operands.result;
  const auto continues = [&](int i) {
    const auto in = [&](const Strides& s) { return s.axis[i] == s.axis[i + 1] * p.axis[i + 1].input; };
    return in(operands.image.strides) && in(other.strides);
  };
  join_pointwise_axes(op, p, continues, [&](int i) {
    for (Operand* o : {&operands.image, &operands.weight, &operands.result}) remove_axis(o->strides.axis, i);
  });
  const bool widened = type != FloatType::kFloat && type != FloatType::kDouble;
  if (widened || !column_to_depth(op, p, kReductionBlock)) return;
  for (Operand* o : {&operands.image, &operands.weight, &operands.result})
    std::swap(o->strides.axis[0], o->strides.axis[1]);
}

// What is asked of the planner, with the operands' layouts; makes problem and operands what the kernels see.
PlanRequest request_of(ConvOperator op, ConvProblem& p, ConvOperands& operands, const Engine& engine, FloatType type) {
  merge_taps(op, p, operands);
  join_axes(op, p, operands, type);
  PlanRequest request = make_request(op, p, engine, type, torch::stable::get_num_threads());
  // Images of one pixel are channels_last whatever their strides say.
  const auto channels_last = [](const Operand& o, int64_t pixels) {
    return o.strides.channel == 1 && (o.strides.axis[2] != 1 || pixels == 1);
  };
  const bool dgrad = op == ConvOperator::kDgrad;
  const int64_t inputs = input_pixels(p), outputs = output_pixels(p);
  request.source_channels_last = channels_last(operands.image, dgrad ? outputs : inputs);
  request.result_channels_last = channels_last(operands.result, dgrad                        ? inputs
                                                                : op == ConvOperator::kFprop ? outputs
                                                                                             : kernel_taps(p));
  request.grad_channels_last = op == ConvOperator::kWgrad && channels_last(operands.weight, outputs);
  if (op != ConvOperator::kWgrad) {
    const Strides& weight = operands.weight.strides;
    request.weight_in_order = is_dense(weight, p.axis, p.in_channels);
    request.weight_dense = request.weight_in_order && weight.outer == p.in_channels * kernel_taps(p);
  }
  request.weight_channels_last = operands.weight.strides.channel == 1;
  return request;
}

void run(ConvOperator op, const ConvProblem& whole, ScalarType type, const ConvOperands& given) {
  const std::optional<FloatType> packed = float_type(type);
  if (!packed) return run_direct(op, whole, type, given);
  ConvProblem p = whole;
  ConvOperands operands = given;
  const Engine& engine = active_engine();
  const PlanRequest request = request_of(op, p, operands, engine, *packed);
  const ConvPlan& plan = remembered_plan(request);
  if (plan.algorithm == Algorithm::kDirect) return run_direct(op, whole, type, given);
  run_plan(request, plan, engine, *packed, operands);
}

// Both gradients in one pass, where their plans allow that: neither's bits change. False if nothing was done.
bool run_both(const ConvProblem& whole, ScalarType type, const ConvOperands& dgrad, const ConvOperands& wgrad) {
  const std::optional<FloatType> packed = float_type(type);
  if (!packed || whole.in_channels != 1 || whole.out_channels != 1) return false;
  const Engine& engine = active_engine();
  ConvProblem p = whole, of_image = whole;
  ConvOperands operands = wgrad, image = dgrad;
  const PlanRequest of_dgrad = request_of(ConvOperator::kDgrad, of_image, image, engine, *packed);
  if (remembered_plan(of_dgrad).algorithm != Algorithm::kDepthwiseShifted) return false;
  const PlanRequest request = request_of(ConvOperator::kWgrad, p, operands, engine, *packed);
  if (p != of_image) return false;  // layouts that let only one of them join its axes
  const ConvPlan& plan = remembered_plan(request);
  if (plan.algorithm != Algorithm::kDepthwiseShifted || !gives_both_gradients(request, plan)) return false;
  operands.filters = image.weight, operands.image_grad = image.result;
  run_plan(request, plan, engine, *packed, operands);
  return true;
}

Tensor fprop(const ConvProblem& p, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  const int64_t channels = p.groups * p.out_channels;
  const std::optional<Tensor> dense = dense_bias(bias, input, channels);
  Tensor output = allocate(input, weight, p, p.batch, channels, &ConvAxis::output);
  run(ConvOperator::kFprop, p, input.scalar_type(),
      {reading(input), reading(weight), writing(output), {.bias = data_of(dense)}});
  return output;
}

Tensor empty_image(const ConvProblem& p, const Tensor& grad_output, const Tensor& weight) {
  return allocate(grad_output, weight, p, p.batch, p.groups * p.in_channels, &ConvAxis::input);
}
Tensor empty_weight(const ConvProblem& p, const Tensor& grad_output, const Tensor& input) {
  return allocate(grad_output, input, p, p.groups * p.out_channels, p.in_channels, &ConvAxis::kernel);
}

Tensor dgrad(const ConvProblem& p, const Tensor& grad_output, const Tensor& weight, const std::optional<Tensor>& bias) {
  const std::optional<Tensor> dense = dense_bias(bias, grad_output, p.groups * p.in_channels);
  Tensor result = empty_image(p, grad_output, weight);
  run(ConvOperator::kDgrad, p, grad_output.scalar_type(),
      {reading(grad_output), reading(weight), writing(result), {.bias = data_of(dense)}});
  return result;
}

Tensor wgrad(const ConvProblem& p, const Tensor& grad_output, const Tensor& input) {
  Tensor result = empty_weight(p, grad_output, input);
  run(ConvOperator::kWgrad, p, grad_output.scalar_type(), {reading(input), reading(grad_output), writing(result), {}});
  return result;
}

Tensor conv_fprop(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntList stride,
                  IntList padding, IntList dilation, int64_t groups, int64_t padding_mode) {
  return fprop(fprop_problem(input, weight, ConvGeometry{stride, padding, dilation, groups, padding_mode}), input,
               weight, bias);
}

Tensor conv_dgrad(const Tensor& grad_output, const Tensor& weight, const std::optional<Tensor>& bias, IntList stride,
                  IntList padding, IntList dilation, int64_t groups, int64_t padding_mode) {
  return dgrad(dgrad_problem(grad_output, weight, ConvGeometry{stride, padding, dilation, groups, padding_mode}),
               grad_output, weight, bias);
}

Tensor conv_wgrad(const Tensor& grad_output, const Tensor& input, IntList kernel_size, IntList stride, IntList padding,
                  IntList dilation, int64_t groups, int64_t padding_mode) {
  return wgrad(
      wgrad_problem(grad_output, input, kernel_size, ConvGeometry{stride, padding, dilation, groups, padding_mode}),
      grad_output, input);
}

// Nothing to compute, of which the functions of Python know more, is none of the coded operators' cases.
void check_elements(const Tensor& image, const Tensor& weight) {
  STD_TORCH_CHECK(image.numel() > 0 && weight.numel() > 0, "convext: expected operands with elements");
}

Tensor conv_fprop_coded(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, int64_t window,
                        int64_t padding, int64_t groups) {
  check_elements(input, weight);
  return fprop(fprop_problem(input, weight, CodedGeometry{window, padding, groups}), input, weight, bias);
}

Tensor conv_dgrad_coded(const Tensor& grad_output, const Tensor& weight, const std::optional<Tensor>& bias,
                        int64_t window, int64_t padding, int64_t groups) {
  check_elements(grad_output, weight);
  return dgrad(dgrad_problem(grad_output, weight, CodedGeometry{window, padding, groups}), grad_output, weight, bias);
}

Tensor conv_wgrad_coded(const Tensor& grad_output, const Tensor& input, int64_t kernel_size, int64_t window,
                        int64_t padding, int64_t groups) {
  return wgrad(wgrad_problem(grad_output, input, kernel_size, CodedGeometry{window, padding, groups}), grad_output,
               input);
}

std::tuple<Tensor, Tensor> conv_fprop_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                                               int64_t window, int64_t padding, int64_t groups) {
  ConvProblem p = fprop_problem(input, weight, CodedGeometry{window, padding, groups});
  check_gradient(grad_output, input, p.batch, p.groups * p.out_channels, p, &ConvAxis::output);
  for (ConvAxis& a : p.axis) a.hi -= static_cast<int64_t>(a.input - transposed_size(a));  // less what no window reaches
  Tensor by_image = empty_image(p, grad_output, weight), by_weight = empty_weight(p, grad_output, input);
  const ScalarType type = grad_output.scalar_type();
  const ConvOperands dgrad{reading(grad_output), reading(weight), writing(by_image), {}};
  const ConvOperands wgrad{reading(input), reading(grad_output), writing(by_weight), {}};
  if (!run_both(p, type, dgrad, wgrad)) {
    run(ConvOperator::kDgrad, p, type, dgrad);
    run(ConvOperator::kWgrad, p, type, wgrad);
  }
  return {std::move(by_image), std::move(by_weight)};
}

std::tuple<Tensor, Tensor> conv_dgrad_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                                               int64_t window, int64_t padding, int64_t groups) {
  const ConvProblem p = dgrad_problem(input, weight, CodedGeometry{window, padding, groups});
  check_gradient(grad_output, input, p.batch, p.groups * p.in_channels, p, &ConvAxis::input);
  return {fprop(p, grad_output, weight, std::nullopt), wgrad(p, input, grad_output)};
}

Tensor conv_fused(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                  const std::optional<Tensor>& residual, IntList stride, IntList padding, IntList dilation,
                  int64_t groups, int64_t padding_mode, int64_t activation, double slope, bool transposed) {
  const ConvGeometry geometry{stride, padding, dilation, groups, padding_mode};
  const ScalarType type = input.scalar_type();
  STD_TORCH_CHECK(float_type(type), "convext: expected a floating-point type, got ", torch::headeronly::toString(type));
  STD_TORCH_CHECK(activation >= 0 && activation < kActivations, "convext: expected activation 0 to ", kActivations - 1,
                  ", got ", activation);
  const ConvProblem p = transposed ? dgrad_problem(input, weight, geometry) : fprop_problem(input, weight, geometry);
  const int64_t channels = p.groups * (transposed ? p.in_channels : p.out_channels);
  const std::optional<Tensor> dense = dense_bias(bias, input, channels);
  Tensor result = allocate(input, weight, p, p.batch, channels, transposed ? &ConvAxis::input : &ConvAxis::output);
  const std::optional<Tensor> aligned = aligned_residual(residual, result, result_format(input, weight));
  const Epilogue epilogue{.bias = data_of(dense),
                          .residual = data_of(aligned),
                          .activation = static_cast<Activation>(activation),
                          .slope = slope};
  run(transposed ? ConvOperator::kDgrad : ConvOperator::kFprop, p, type,
      {reading(input), reading(weight), writing(result), epilogue});
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(convext, CPU, m) {
  m.impl("conv_fprop", TORCH_BOX(&conv_fprop));
  m.impl("conv_dgrad", TORCH_BOX(&conv_dgrad));
  m.impl("conv_wgrad", TORCH_BOX(&conv_wgrad));
  m.impl("conv_fprop.coded", TORCH_BOX(&conv_fprop_coded));
  m.impl("conv_dgrad.coded", TORCH_BOX(&conv_dgrad_coded));
  m.impl("conv_wgrad.coded", TORCH_BOX(&conv_wgrad_coded));
  m.impl("conv_fprop_backward", TORCH_BOX(&conv_fprop_backward));
  m.impl("conv_dgrad_backward", TORCH_BOX(&conv_dgrad_backward));
  m.impl("conv_fused", TORCH_BOX(&conv_fused));
}

}  // namespace
}  // namespace convext
