// Max, min, average and L2 pooling on CUDA: check, allocate, run.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "../pool_contract.h"
#include "pool_call.cuh"

namespace convext::cuda {
namespace {

Tensor empty_image(const Tensor& image, const IntList& spatial, const IntList& kernel_size, bool average,
                   std::optional<ScalarType> type = std::nullopt) {
  return allocate(image, with_spatial(image, spatial), type.value_or(image.scalar_type()),
                  pool_format(image, spatial, is_adaptive(kernel_size), average));
}

bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
         type == ScalarType::Half;
}
void check_floating(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(is_floating(t.scalar_type()), "convext: expected ", name, " of a floating type, got ",
                  torch::headeronly::toString(t.scalar_type()));
}

void run_largest(const PoolCall& call) {
  const DeviceScope device(call.source);
  with_poolable_type(call.source.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    with_pool_lanes<T>(call,
                       [&]<class Offset, int Lanes>(const PoolJob<T, Offset>& job, std::integral_constant<int, Lanes>) {
                         device.launch(largest<T, Offset, Lanes>, shape_of(job), job);
                       });
  });
}

template <PoolKind Kind>
void run_average(const PoolCall& call) {
  const DeviceScope device(call.source);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    with_pool_lanes<T>(call,
                       [&]<class Offset, int Lanes>(const PoolJob<T, Offset>& job, std::integral_constant<int, Lanes>) {
                         device.launch(average<T, Offset, Kind, Lanes>, shape_of(job), job);
                       });
  };
  if constexpr (Kind == PoolKind::kSum) {
    if (call.source.scalar_type() == ScalarType::Long) return run(int64_t{});
  }
  with_floating_type(call.source.scalar_type(), run);
}

template <PoolKind Kind>
void run_adjoint(const PoolCall& call) {
  const DeviceScope device(call.source);
  with_floating_type(call.source.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    with_pool_lanes<T>(call,
                       [&]<class Offset, int Lanes>(const PoolJob<T, Offset>& job, std::integral_constant<int, Lanes>) {
                         device.launch(adjoint<T, Offset, Kind, Lanes>, shape_of(job), job);
                       });
  });
}

void check_poolable(const Tensor& t) {
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(is_floating(type) || type == ScalarType::Byte || type == ScalarType::Char ||
                      type == ScalarType::Short || type == ScalarType::Int || type == ScalarType::Long,
                  "convext: pooling is not implemented for ", torch::headeronly::toString(type));
}

Tensor max_pool(const Tensor& input, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
                IntList output_size, bool minimum) {
  const PoolProblem p = pool_problem(input, {kernel_size, stride, padding, dilation}, output_size);
  check_poolable(input);
  Tensor output = empty_image(input, output_size, kernel_size, false);
  run_largest({.problem = p, .source = input, .result = output, .minimum = minimum});
  return output;
}

std::tuple<Tensor, Tensor> max_pool_with_offsets(const Tensor& input, IntList kernel_size, IntList stride,
                                                 IntList padding, IntList dilation, IntList output_size, bool minimum) {
  const PoolProblem p = pool_problem(input, {kernel_size, stride, padding, dilation}, output_size);
  check_poolable(input);
  Tensor output = empty_image(input, output_size, kernel_size, false);
  Tensor offsets = empty_image(input, output_size, kernel_size, false, offset_type(p));
  run_largest({.problem = p, .source = input, .result = output, .offsets = &offsets, .minimum = minimum});
  return {output, offsets};
}

Tensor max_pool_gather(const Tensor& input, const Tensor& offsets, IntList kernel_size, IntList stride, IntList padding,
                       IntList dilation) {
  const IntList output_size = spatial_sizes(offsets);
  const PoolProblem p = pool_problem(input, {kernel_size, stride, padding, dilation}, output_size);
  check_offsets(offsets, input, p);
  check_poolable(input);
  const DeviceScope device(input);
  const Tensor dense = torch::stable::contiguous(input);
  Tensor output = empty_image(input, output_size, kernel_size, false);
  const PoolCall call{.problem = p, .source = dense, .result = output, .offsets = &offsets};
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    with_pool_job<T>(call, [&]<class Offset>(const PoolJob<T, Offset>& job) {
      device.launch(gather<T, Offset>, shape_of(job), job);
    });
  };
  switch (input.element_size()) {
    case 1: run(int8_t{}); break;
    case 2: run(int16_t{}); break;
    case 4: run(int32_t{}); break;
    default: run(int64_t{}); break;
  }
  return output;
}

Tensor max_pool_scatter(const Tensor& grad_output, const Tensor& offsets, IntList kernel_size, IntList stride,
                        IntList padding, IntList dilation, IntList input_size) {
  const PoolProblem p = pool_adjoint_problem(grad_output, {kernel_size, stride, padding, dilation}, input_size);
  check_offsets(offsets, grad_output, p);
  check_floating(grad_output, "a gradient");
  Tensor result = empty_image(offsets, input_size, kernel_size, false, grad_output.scalar_type());
  run_adjoint<PoolKind::kLargest>(
      {.problem = p, .source = grad_output, .result = result, .offsets = &offsets, .results_are_inputs = true});
  return result;
}

Tensor max_pool_indices(const Tensor& offsets, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
                        IntList input_size) {
  const PoolProblem p = pool_adjoint_problem(offsets, {kernel_size, stride, padding, dilation}, input_size);
  check_offsets(offsets, offsets, p);
  Tensor result = empty_image(offsets, spatial_sizes(offsets), kernel_size, false, ScalarType::Long);
  const DeviceScope device(offsets);
  with_pool_job<int64_t>(
      {.problem = p, .source = result, .result = result, .offsets = &offsets},
      [&]<class Offset>(const PoolJob<int64_t, Offset>& job) { device.launch(indices<Offset>, shape_of(job), job); });
  return result;
}

Tensor avg_pool(const Tensor& input, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
                IntList output_size, bool count_include_pad, int64_t divisor) {
  const PoolProblem p = pool_problem(input, {kernel_size, stride, padding, dilation}, output_size);
  const ScalarType type = input.scalar_type();
  STD_TORCH_CHECK(is_floating(type) || type == ScalarType::Long, "convext: average pooling is not implemented for ",
                  torch::headeronly::toString(type));
  // the quotient of the least integer by -1 does not exist
  STD_TORCH_CHECK(is_floating(type) || divisor != -1, "convext: expected a divisor of integers other than -1");
  Tensor output = empty_image(input, output_size, kernel_size, true);
  run_average<PoolKind::kSum>(
      {.problem = p, .source = input, .result = output, .include_pad = count_include_pad, .divisor = divisor});
  return output;
}

Tensor l2_pool(const Tensor& input, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
               IntList output_size) {
  const PoolProblem p = pool_problem(input, {kernel_size, stride, padding, dilation}, output_size);
  check_floating(input, "an input");
  STD_TORCH_CHECK(!is_adaptive(kernel_size), "convext: expected a kernel_size, got adaptive windows");
  Tensor output = empty_image(input, output_size, kernel_size, true);
  run_average<PoolKind::kRoot>({.problem = p, .source = input, .result = output});
  return output;
}

Tensor avg_pool_adjoint(const Tensor& grad_output, IntList kernel_size, IntList stride, IntList padding,
                        IntList dilation, IntList input_size, bool count_include_pad, int64_t divisor) {
  const PoolProblem p = pool_adjoint_problem(grad_output, {kernel_size, stride, padding, dilation}, input_size);
  check_floating(grad_output, "a gradient");
  Tensor result = empty_image(grad_output, input_size, kernel_size, true);
  run_adjoint<PoolKind::kSum>({.problem = p,
                               .source = grad_output,
                               .result = result,
                               .results_are_inputs = true,
                               .include_pad = count_include_pad,
                               .divisor = divisor});
  return result;
}

Tensor l2_pool_adjoint(const Tensor& grad_output, const Tensor& output, const Tensor& input, IntList kernel_size,
                       IntList stride, IntList padding, IntList dilation) {
  const IntList input_size = spatial_sizes(input);
  const PoolProblem p = pool_adjoint_problem(grad_output, {kernel_size, stride, padding, dilation}, input_size);
  check_l2_adjoint(grad_output, output, input, kernel_size, p);
  check_floating(input, "an input");
  Tensor result = empty_image(input, input_size, kernel_size, false);
  const PoolCall call{.problem = p, .source = grad_output, .result = result, .results_are_inputs = true};
  const DeviceScope device(input);
  with_floating_type(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    with_pool_job<T>(call, [&]<class Offset>(const PoolJob<T, Offset>& pool) {
      const RootAdjointJob<T, Offset> job{pool, reading<T>(output), reading<T>(input),
                                          PoolStrides<Offset>(strides_of(output)),
                                          PoolStrides<Offset>(strides_of(input))};
      device.launch(root_adjoint<T, Offset>, shape_of(pool), job);
    });
  });
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(convext, CONVEXT_DEVICE_KEY, m) {
  m.impl("max_pool", TORCH_BOX(&max_pool));
  m.impl("max_pool_with_offsets", TORCH_BOX(&max_pool_with_offsets));
  m.impl("max_pool_gather", TORCH_BOX(&max_pool_gather));
  m.impl("max_pool_scatter", TORCH_BOX(&max_pool_scatter));
  m.impl("max_pool_indices", TORCH_BOX(&max_pool_indices));
  m.impl("avg_pool", TORCH_BOX(&avg_pool));
  m.impl("l2_pool", TORCH_BOX(&l2_pool));
  m.impl("l2_pool_adjoint", TORCH_BOX(&l2_pool_adjoint));
  m.impl("avg_pool_adjoint", TORCH_BOX(&avg_pool_adjoint));
}

}  // namespace
}  // namespace convext::cuda
