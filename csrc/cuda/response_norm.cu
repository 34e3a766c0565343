// Local response normalisation on CUDA: a thread for each element, forward and backward.
//
//   r_c = k + scale * sum of x_j^2 over the window of c, from c - before to c + after      scale = alpha / size
//   y_c = x_c / r_c^beta
//   dx_c = g_c / r_c^beta - 2 scale beta x_c * sum of g_j x_j / (r_j^beta r_j) over the j whose window holds c
//
// The tensor is dense: outer x channels x inner elements, whatever the order of its axes. The backward computes r_j
// anew for every j: size^2 reads, which the caches serve, and no workspace.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>

#include "../contract.h"
#include "divisor.h"
#include "launch.cuh"
#include "tile_product.cuh"

namespace convext::cuda {
namespace {

constexpr int kThreads = 128;

template <class T, class Offset>
struct NormJob {
  Buffer<const T> grad, input;
  Buffer<T> result;
  Divisor<Offset> channels, inner;
  Offset results, before, after;
  double scale, beta, k;
};

template <class T, class Offset>
__device__ Sum_t<T> base(const NormJob<T, Offset>& job, Offset at, Offset channel) {
  const Offset last = std::min(channel + job.after, job.channels.value() - 1);
  Sum_t<T> sum = 0;
  for (Offset j = std::max(channel - job.before, Offset{0}); j <= last; ++j) {
    const Sum_t<T> x = widen_from(job.input[at + (j - channel) * job.inner.value()]);
    sum += x * x;
  }
  return static_cast<Sum_t<T>>(job.k) + static_cast<Sum_t<T>>(job.scale) * sum;
}

template <class A>
__device__ A power(A r, double beta) {
  if (beta == 0.75) return std::sqrt(r) * std::sqrt(std::sqrt(r));  // AlexNet's
  if (beta == 0.5) return std::sqrt(r);
  if (beta == 1) return r;
  // float32's own power is off by 4 units in the last place, and beta rounded to it by more where r is far from 1
  return static_cast<A>(std::pow(static_cast<double>(r), beta));
}

template <class T, class Offset>
__device__ bool find_element(const NormJob<T, Offset>& job, Offset& at, Offset& channel) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= job.results) return false;
  at = static_cast<Offset>(index);
  const Offset row = job.inner.quotient(at);
  channel = row - job.channels.quotient(row) * job.channels.value();
  return true;
}

template <class T, class Offset>
__global__ void __launch_bounds__(kThreads) normalize(const __grid_constant__ NormJob<T, Offset> job) {
  Offset at, channel;
  if (!find_element(job, at, channel)) return;
  job.result[at] = narrow_to(widen_from(job.input[at]) / power(base(job, at, channel), job.beta), T{});
}

template <class T, class Offset>
__global__ void __launch_bounds__(kThreads) normalize_backward(const __grid_constant__ NormJob<T, Offset> job) {
  Offset at, channel;
  if (!find_element(job, at, channel)) return;
  using A = Sum_t<T>;
  A direct = 0, sum = 0;
  const Offset last = std::min(channel + job.before, job.channels.value() - 1);
  for (Offset j = std::max(channel - job.after, Offset{0}); j <= last; ++j) {
    const Offset there = at + (j - channel) * job.inner.value();
    const A r = base(job, there, j), share = widen_from(job.grad[there]) / power(r, job.beta);
    if (j == channel) direct = share;
    sum += share * widen_from(job.input[there]) / r;
  }
  const A factor = static_cast<A>(2 * job.scale * job.beta);
  job.result[at] = narrow_to(direct - factor * widen_from(job.input[at]) * sum, T{});
}

// --- host ------------------------------------------------------------------------------------------------------------

bool same_layout(const Tensor& a, const Tensor& b) {
  return std::equal(a.strides().begin(), a.strides().end(), b.strides().begin(), b.strides().end());
}

// t in the layout of `like`, copied where it is in another.
Tensor in_layout_of(const Tensor& like, const Tensor& t) {
  if (same_layout(like, t)) return t;
  Tensor copy = torch::stable::empty_like(like);
  torch::stable::copy_(copy, t);
  return copy;
}

struct NormArguments {
  int64_t size;
  double alpha, beta, k;
};

template <class T, class Offset>
void run_with(const Tensor* grad, const Tensor& x, Tensor& result, const NormArguments& arguments) {
  const DeviceScope device(x);
  NormJob<T, Offset> job{};
  if (grad) job.grad = reading<T>(*grad);
  job.input = reading<T>(x);
  job.result = writing<T>(result);
  int64_t inner = 1;
  for (int64_t i = 0; i < x.dim(); ++i)  // in a dense tensor the axes of a smaller stride lie inside of the channels
    if (i != 1 && x.size(i) != 1 && x.stride(i) < x.stride(1)) inner *= x.size(i);
  job.inner = Divisor<Offset>(x.size(1) == 1 ? x.numel() : inner);
  job.channels = Divisor<Offset>(x.size(1));
  job.results = static_cast<Offset>(x.numel());
  job.before = static_cast<Offset>(std::min(arguments.size / 2, x.size(1)));
  job.after = static_cast<Offset>(std::min((arguments.size - 1) / 2, x.size(1)));
  job.scale = arguments.alpha / static_cast<double>(arguments.size);
  job.beta = arguments.beta, job.k = arguments.k;
  const LaunchShape shape{(x.numel() + kThreads - 1) / kThreads, kThreads};
  if (grad) {
    device.launch(normalize_backward<T, Offset>, shape, job);
  } else {
    device.launch(normalize<T, Offset>, shape, job);
  }
}

template <class T>
void run_of(const Tensor* grad, const Tensor& x, Tensor& result, const NormArguments& arguments) {
  if (x.numel() >= narrow_offsets()) return run_with<T, int64_t>(grad, x, result, arguments);
  run_with<T, int32_t>(grad, x, result, arguments);
}

Tensor run(const Tensor* grad, const Tensor& input, const NormArguments& arguments) {
  STD_TORCH_CHECK(input.dim() >= 2, "convext: expected input of 2 dimensions or more, got ", input.dim());
  STD_TORCH_CHECK(arguments.size >= 1, "convext: expected size of 1 or more, got ", arguments.size);
  Tensor result = allocate_like(input);
  const Tensor x = in_layout_of(result, input);
  std::optional<Tensor> g;
  if (grad) g = in_layout_of(result, *grad);
  if (result.numel() == 0) return result;
  switch (input.scalar_type()) {
    case ScalarType::Float: run_of<float>(g ? &*g : nullptr, x, result, arguments); break;
    case ScalarType::Double: run_of<double>(g ? &*g : nullptr, x, result, arguments); break;
    case ScalarType::BFloat16: run_of<BFloat16>(g ? &*g : nullptr, x, result, arguments); break;
    case ScalarType::Half: run_of<Half>(g ? &*g : nullptr, x, result, arguments); break;
    default: STD_TORCH_CHECK(false, "convext: not implemented for ", torch::headeronly::toString(input.scalar_type()));
  }
  return result;
}

Tensor local_response_norm(const Tensor& input, int64_t size, double alpha, double beta, double k) {
  return run(nullptr, input, {size, alpha, beta, k});
}

Tensor local_response_norm_backward(const Tensor& grad, const Tensor& input, int64_t size, double alpha, double beta,
                                    double k) {
  STD_TORCH_CHECK(grad.scalar_type() == input.scalar_type(), "convext: expected a gradient of the input's type");
  STD_TORCH_CHECK(std::equal(grad.sizes().begin(), grad.sizes().end(), input.sizes().begin(), input.sizes().end()),
                  "convext: expected a gradient of the input's size");
  return run(&grad, input, {size, alpha, beta, k});
}

STABLE_TORCH_LIBRARY_IMPL(convext, CONVEXT_DEVICE_KEY, m) {
  m.impl("local_response_norm", TORCH_BOX(&local_response_norm));
  m.impl("local_response_norm_backward", TORCH_BOX(&local_response_norm_backward));
}

}  // namespace
}  // namespace convext::cuda
