// Max and average pooling on CPU: check, allocate, choose between planes and channels, run.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "../allocate.h"
#include "../pool_contract.h"
#include "engine.h"
#include "parallel.h"
#include "pool_scatter.h"

namespace convext {
namespace {

PoolType pool_type(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return PoolType::kFloat;
    case ScalarType::Double: return PoolType::kDouble;
    case ScalarType::BFloat16: return PoolType::kBFloat16;
    case ScalarType::Half: return PoolType::kHalf;
    case ScalarType::Byte: return PoolType::kUInt8;
    case ScalarType::Char: return PoolType::kInt8;
    case ScalarType::Short: return PoolType::kInt16;
    case ScalarType::Int: return PoolType::kInt32;
    case ScalarType::Long: return PoolType::kInt64;
    default: STD_TORCH_CHECK(false, "convext: pooling is not implemented for ", torch::headeronly::toString(type));
  }
}

bool is_float(ScalarType type) { return pool_type(type) <= PoolType::kHalf; }

Tensor empty_like(const Tensor& image, const IntList& spatial, bool adaptive, bool average,
                  std::optional<ScalarType> type = std::nullopt) {
  return empty_result(image, with_spatial(image, spatial), type.value_or(image.scalar_type()),
                      pool_format(image, spatial, adaptive, average));
}

int64_t work_of(const PoolProblem& p) { return p.planes() * (p.input_pixels() + p.output_pixels()); }

void run_kernel(const PoolKernel& kernel, const PoolJob& job, int64_t count) {
  const int64_t bytes = kernel.workspace_bytes ? kernel.workspace_bytes(job.problem) : 0;
  for_each_part(count, work_of(job.problem), bytes,
                [&](int64_t begin, int64_t end, void* workspace) { kernel.run(job, begin, end, workspace); });
}

// Whether every plane is one run of elements that one window covers.
bool is_whole(const PoolProblem& p, const Strides& image) {
  int64_t run = 1;
  for (int i = kSpatialAxes - 1; i >= 0; --i) {
    const PoolAxis& a = p.axis[i];
    if (a.output != 1 || a.kernel != a.input || a.dilation != 1 || a.lo != 0 || a.hi != 0) return false;
    if (a.input > 1 && image.axis[i] != run) return false;
    run *= a.input;
  }
  return true;
}

void run_forward(const PoolJob& job, ScalarType type) {
  const PoolProblem& p = job.problem;
  if (p.planes() == 0) return;
  const PoolKernels& kernels = active_engine().of(pool_type(type));
  if (job.kind != PoolKind::kRoot && is_whole(p, job.source_strides)) return run_kernel(kernels.whole, job, p.planes());
  const bool channels = job.source_strides.channel == 1 && p.channels > 1 && job.source_strides.axis[2] != 1;
  if (channels) return run_kernel(kernels.channels, job, kernels.channel_units(p));
  if (kernels.takes_windows(job)) return run_kernel(kernels.windows, job, kernels.window_units(p));
  run_kernel(kernels.planes, job, p.planes() * PoolColumns(p.axis[2]).blocks * p.axis[0].output * p.axis[1].output);
}

void run_adjoint(const PoolJob& job, ScalarType type) {
  constexpr int64_t kListed = int64_t{1} << 16;  // readers of a row's columns that the kernel for channels lists
  const PoolProblem& p = job.problem;
  if (p.planes() == 0) return;
  const PoolKernels& kernels = active_engine().of(pool_type(type));
  const auto side_by_side = [&](const Strides& s) { return s.channel == 1 && s.axis[2] != 1; };
  if (job.kind == PoolKind::kSum && is_whole(p, job.result_strides))
    return run_kernel(kernels.whole_adjoint, job, p.planes());
  const bool channels = p.channels > 1 && p.axis[2].output * p.axis[2].kernel <= kListed &&
                        side_by_side(job.source_strides) && side_by_side(job.result_strides) &&
                        (!job.offsets || side_by_side(job.offset_strides)) &&
                        (!job.image || (side_by_side(job.image_strides) && side_by_side(job.output_strides)));
  if (kernels.takes_windows_adjoint(job))
    return run_kernel(kernels.windows_adjoint, job, kernels.window_adjoint_units(p));
  const int64_t rows = p.axis[0].input * p.axis[1].input;
  if (channels) return run_kernel(kernels.channels_adjoint, job, p.batch * rows);
  run_kernel(kernels.planes_adjoint, job, p.planes() * PoolAdjointColumns(p.axis[2]).blocks * rows);
}

PoolJob forward_job(const PoolProblem& problem, PoolKind kind, const Tensor& input, Tensor& output) {
  PoolJob job;
  job.problem = problem;
  job.kind = kind;
  job.source = input.const_data_ptr();
  job.source_strides = strides_of(input);
  job.result = output.mutable_data_ptr();
  job.result_strides = strides_of(output);
  return job;
}

// The sizes of one side of a problem on the axes that an image has.
IntList sizes_of(const PoolProblem& p, const Tensor& image, int64_t PoolAxis::*size) {
  IntList sizes;
  for (int64_t i = kSpatialAxes + 2 - image.dim(); i < kSpatialAxes; ++i) sizes.push_back(p.axis[i].*size);
  return sizes;
}

Tensor empty_output(const PoolProblem& p, const Tensor& image, bool average,
                    std::optional<ScalarType> type = std::nullopt) {
  return empty_like(image, sizes_of(p, image, &PoolAxis::output), p.divides_image, average, type);
}
Tensor empty_input(const PoolProblem& p, const Tensor& image, bool average,
                   std::optional<ScalarType> type = std::nullopt) {
  return empty_like(image, sizes_of(p, image, &PoolAxis::input), p.divides_image, average, type);
}

Tensor max_of(const PoolProblem& p, const Tensor& input, bool minimum) {
  Tensor output = empty_output(p, input, false);
  PoolJob job = forward_job(p, PoolKind::kMax, input, output);
  job.minimum = minimum;
  run_forward(job, input.scalar_type());
  return output;
}

std::tuple<Tensor, Tensor> max_with_offsets_of(const PoolProblem& p, const Tensor& input, bool minimum) {
  Tensor output = empty_output(p, input, false);
  Tensor offsets = empty_output(p, input, false, offset_type(p));
  PoolJob job = forward_job(p, PoolKind::kMaxWithOffsets, input, output);
  job.minimum = minimum;
  job.offsets = offsets.mutable_data_ptr();
  job.offset_bytes = offset_bytes(p);
  job.offset_strides = strides_of(offsets);
  run_forward(job, input.scalar_type());
  return {output, offsets};
}

Tensor max_pool(const Tensor& input, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
                IntList output_size, bool minimum) {
  return max_of(pool_problem(input, {kernel_size, stride, padding, dilation}, output_size), input, minimum);
}

std::tuple<Tensor, Tensor> max_pool_with_offsets(const Tensor& input, IntList kernel_size, IntList stride,
                                                 IntList padding, IntList dilation, IntList output_size, bool minimum) {
  return max_with_offsets_of(pool_problem(input, {kernel_size, stride, padding, dilation}, output_size), input,
                             minimum);
}

Tensor max_pool_coded(const Tensor& input, int64_t kernel_size, int64_t window, int64_t padding, bool ceil_mode,
                      bool minimum) {
  return max_of(pool_problem(input, {kernel_size, window, padding}, ceil_mode), input, minimum);
}

std::tuple<Tensor, Tensor> max_pool_with_offsets_coded(const Tensor& input, int64_t kernel_size, int64_t window,
                                                       int64_t padding, bool ceil_mode, bool minimum) {
  return max_with_offsets_of(pool_problem(input, {kernel_size, window, padding}, ceil_mode), input, minimum);
}

Tensor max_pool_gather(const Tensor& input, const Tensor& offsets, IntList kernel_size, IntList stride, IntList padding,
                       IntList dilation) {
  const IntList output_size = spatial_sizes(offsets);
  const PoolProblem p = pool_problem(input, {kernel_size, stride, padding, dilation}, output_size);
  check_offsets(offsets, input, p);
  pool_type(input.scalar_type());
  const Tensor dense = torch::stable::contiguous(input);
  Tensor output = empty_output(p, input, false);
  const Winners winners{p, offsets.const_data_ptr(), offset_bytes(p), strides_of(offsets)};
  gather_winners(winners, dense.const_data_ptr(), static_cast<int>(input.element_size()), output.mutable_data_ptr(),
                 strides_of(output));
  return output;
}

// Whether the vectorised adjoint, which compares every offset with every tap, costs less than a scatter.
bool gather_pays(const PoolProblem& p) {
  constexpr int64_t kTaps = 64, kColumns = 8;
  if (p.axis[2].output < kColumns) return false;
  for (const PoolAxis& a : p.axis)
    if (a.adaptive || a.kernel > kTaps) return false;
  return p.axis[0].kernel * p.axis[1].kernel * p.axis[2].kernel <= kTaps && PoolAdjointColumns(p.axis[2]).phased;
}

Tensor scatter_of(const PoolProblem& p, const Tensor& grad_output, const Tensor& offsets) {
  check_offsets(offsets, grad_output, p);
  const ScalarType type = grad_output.scalar_type();
  STD_TORCH_CHECK(is_float(type), "convext: expected a gradient of a floating type, got ",
                  torch::headeronly::toString(type));
  Tensor result = empty_input(p, offsets, false, type);
  if (!gather_pays(p)) {
    const Winners winners{p, offsets.const_data_ptr(), offset_bytes(p), strides_of(offsets)};
    const PoolImage grad{const_cast<void*>(grad_output.const_data_ptr()), strides_of(grad_output)};
    scatter_winners(winners, pool_type(type), grad, {result.mutable_data_ptr(), strides_of(result)});
    return result;
  }
  PoolJob job = forward_job(p, PoolKind::kMax, grad_output, result);
  job.offsets = const_cast<void*>(offsets.const_data_ptr());
  job.offset_bytes = offset_bytes(p);
  job.offset_strides = strides_of(offsets);
  run_adjoint(job, type);
  return result;
}

Tensor max_pool_scatter(const Tensor& grad_output, const Tensor& offsets, IntList kernel_size, IntList stride,
                        IntList padding, IntList dilation, IntList input_size) {
  return scatter_of(pool_adjoint_problem(grad_output, {kernel_size, stride, padding, dilation}, input_size),
                    grad_output, offsets);
}

Tensor max_pool_scatter_coded(const Tensor& grad_output, const Tensor& offsets, int64_t kernel_size, int64_t window,
                              int64_t padding, int64_t depth, int64_t height, int64_t width) {
  const int64_t input_size[] = {depth, height, width};
  return scatter_of(pool_adjoint_problem(grad_output, {kernel_size, window, padding}, input_size), grad_output,
                    offsets);
}

Tensor max_pool_indices(const Tensor& offsets, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
                        IntList input_size) {
  const PoolProblem p = pool_adjoint_problem(offsets, {kernel_size, stride, padding, dilation}, input_size);
  check_offsets(offsets, offsets, p);
  Tensor indices = empty_output(p, offsets, false, ScalarType::Long);
  const Winners winners{p, offsets.const_data_ptr(), offset_bytes(p), strides_of(offsets)};
  winner_indices(winners, indices.mutable_data_ptr<int64_t>(), strides_of(indices));
  return indices;
}

Tensor average_of(const PoolProblem& p, const Tensor& input, bool count_include_pad, int64_t divisor) {
  const ScalarType type = input.scalar_type();
  STD_TORCH_CHECK(is_float(type) || type == ScalarType::Long, "convext: average pooling is not implemented for ",
                  torch::headeronly::toString(type));
  // the quotient of the least integer by -1 does not exist, and dividing would end the process
  STD_TORCH_CHECK(is_float(type) || divisor != -1, "convext: expected a divisor of integers other than -1");
  Tensor output = empty_output(p, input, true);
  PoolJob job = forward_job(p, PoolKind::kSum, input, output);
  job.include_pad = count_include_pad;
  job.divisor = divisor;
  run_forward(job, type);
  return output;
}

Tensor avg_pool(const Tensor& input, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
                IntList output_size, bool count_include_pad, int64_t divisor) {
  return average_of(pool_problem(input, {kernel_size, stride, padding, dilation}, output_size), input,
                    count_include_pad, divisor);
}

Tensor avg_pool_coded(const Tensor& input, int64_t kernel_size, int64_t window, int64_t padding, bool ceil_mode,
                      bool count_include_pad, int64_t divisor) {
  return average_of(pool_problem(input, {kernel_size, window, padding}, ceil_mode), input, count_include_pad, divisor);
}

Tensor l2_pool(const Tensor& input, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
               IntList output_size) {
  const PoolProblem p = pool_problem(input, {kernel_size, stride, padding, dilation}, output_size);
  STD_TORCH_CHECK(is_float(input.scalar_type()), "convext: expected an input of a floating type, got ",
                  torch::headeronly::toString(input.scalar_type()));
  STD_TORCH_CHECK(!is_adaptive(kernel_size), "convext: expected a kernel_size, got adaptive windows");
  Tensor output = empty_output(p, input, true);
  run_forward(forward_job(p, PoolKind::kRoot, input, output), input.scalar_type());
  return output;
}

Tensor average_adjoint_of(const PoolProblem& p, const Tensor& grad_output, bool count_include_pad, int64_t divisor) {
  const ScalarType type = grad_output.scalar_type();
  STD_TORCH_CHECK(is_float(type), "convext: expected a gradient of a floating type, got ",
                  torch::headeronly::toString(type));
  Tensor result = empty_input(p, grad_output, true);
  PoolJob job = forward_job(p, PoolKind::kSum, grad_output, result);
  job.include_pad = count_include_pad;
  job.divisor = divisor;
  run_adjoint(job, type);
  return result;
}

Tensor avg_pool_adjoint(const Tensor& grad_output, IntList kernel_size, IntList stride, IntList padding,
                        IntList dilation, IntList input_size, bool count_include_pad, int64_t divisor) {
  return average_adjoint_of(pool_adjoint_problem(grad_output, {kernel_size, stride, padding, dilation}, input_size),
                            grad_output, count_include_pad, divisor);
}

Tensor avg_pool_adjoint_coded(const Tensor& grad_output, int64_t kernel_size, int64_t window, int64_t padding,
                              bool count_include_pad, int64_t divisor, int64_t depth, int64_t height, int64_t width) {
  const int64_t input_size[] = {depth, height, width};
  return average_adjoint_of(pool_adjoint_problem(grad_output, {kernel_size, window, padding}, input_size), grad_output,
                            count_include_pad, divisor);
}

Tensor l2_pool_adjoint(const Tensor& grad_output, const Tensor& output, const Tensor& input, IntList kernel_size,
                       IntList stride, IntList padding, IntList dilation) {
  const IntList input_size = spatial_sizes(input);
  const PoolProblem p = pool_adjoint_problem(grad_output, {kernel_size, stride, padding, dilation}, input_size);
  const ScalarType type = input.scalar_type();
  STD_TORCH_CHECK(is_float(type), "convext: expected an input of a floating type, got ",
                  torch::headeronly::toString(type));
  check_l2_adjoint(grad_output, output, input, kernel_size, p);
  Tensor result = empty_input(p, input, false);
  PoolJob job = forward_job(p, PoolKind::kRoot, grad_output, result);
  job.output = output.const_data_ptr();
  job.output_strides = strides_of(output);
  job.image = input.const_data_ptr();
  job.image_strides = strides_of(input);
  run_adjoint(job, type);
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(convext, CPU, m) {
  m.impl("max_pool", TORCH_BOX(&max_pool));
  m.impl("max_pool_with_offsets", TORCH_BOX(&max_pool_with_offsets));
  m.impl("max_pool.coded", TORCH_BOX(&max_pool_coded));
  m.impl("max_pool_with_offsets.coded", TORCH_BOX(&max_pool_with_offsets_coded));
  m.impl("max_pool_scatter.coded", TORCH_BOX(&max_pool_scatter_coded));
  m.impl("avg_pool.coded", TORCH_BOX(&avg_pool_coded));
  m.impl("avg_pool_adjoint.coded", TORCH_BOX(&avg_pool_adjoint_coded));
  m.impl("max_pool_gather", TORCH_BOX(&max_pool_gather));
  m.impl("max_pool_scatter", TORCH_BOX(&max_pool_scatter));
  m.impl("max_pool_indices", TORCH_BOX(&max_pool_indices));
  m.impl("avg_pool", TORCH_BOX(&avg_pool));
  m.impl("l2_pool", TORCH_BOX(&l2_pool));
  m.impl("l2_pool_adjoint", TORCH_BOX(&l2_pool_adjoint));
  m.impl("avg_pool_adjoint", TORCH_BOX(&avg_pool_adjoint));
}

}  // namespace
}  // namespace convext
