// Local response normalisation on CUDA, forward and backward: a thread for each element, or, of windows of five
// channels (AlexNet's), for kWalk neighbouring channels, which it reads once into registers.
//
//   r_c = k + scale * sum of x_j^2 over the window of c, from c - before to c + after      scale = alpha / size
//   y_c = x_c / r_c^beta
//   dx_c = g_c / r_c^beta - 2 scale beta x_c * sum of g_j x_j / (r_j^beta r_j) over the j whose window holds c
//
// The tensor is dense: outer x channels x inner elements, whatever the order of its axes. The backward computes r_j
// anew for every j: size^2 reads, which the caches serve, and no workspace. A walk computes kWalk + 4 of them for kWalk
// results, and reads 12 (backward 16) channels for 8: memory sees one read of each tensor, neighbouring walks share the
// rest in the caches.
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

constexpr int kWalk = 8, kWindow = 5, kHalf = kWindow / 2;

// A thread's part of the tensor: channels first to first + kWalk - 1, `at` being the first one's offset.
template <class T>
struct Walk {
  const NormJob<T, int32_t>& job;
  int32_t first, at;

  __device__ bool inside(int step) const { return first + step >= 0 && first + step < job.channels.value(); }
  __device__ int32_t place(int step) const { return at + step * job.inner.value(); }
  // Zero outside, which adds nothing.
  __device__ Sum_t<T> element(const Buffer<const T>& from, int step) const {
    return inside(step) ? widen_from(from[place(step)]) : Sum_t<T>{0};
  }
};

template <class T>
__device__ bool find_walk(const NormJob<T, int32_t>& job, const Divisor<int32_t>& walks, int32_t& first, int32_t& at) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t planes = static_cast<int64_t>(job.results) / job.channels.value();
  if (index >= planes * walks.value()) return false;
  const int32_t number = static_cast<int32_t>(index), row = job.inner.quotient(number);
  const int32_t outer = walks.quotient(row);
  first = (row - outer * walks.value()) * kWalk;
  at = (outer * job.channels.value() + first) * job.inner.value() + number - row * job.inner.value();
  return true;
}

// r of the channel in the middle of x[0] to x[kWindow - 1].
template <class T, class Offset, class A>
__device__ A base_of(const NormJob<T, Offset>& job, const A* x) {
  A sum = 0;
#pragma unroll
  for (int i = 0; i < kWindow; ++i) sum += x[i] * x[i];
  return static_cast<A>(job.k) + static_cast<A>(job.scale) * sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    normalize_walk(const __grid_constant__ NormJob<T, int32_t> job, const __grid_constant__ Divisor<int32_t> walks) {
  int32_t first, at;
  if (!find_walk(job, walks, first, at)) return;
  const Walk<T> walk{job, first, at};
  Sum_t<T> x[kWalk + 2 * kHalf];
#pragma unroll
  for (int i = 0; i < kWalk + 2 * kHalf; ++i) x[i] = walk.element(job.input, i - kHalf);
#pragma unroll
  for (int i = 0; i < kWalk; ++i)
    if (walk.inside(i)) job.result[walk.place(i)] = narrow_to(x[i + kHalf] / power(base_of(job, x + i), job.beta), T{});
}

template <class T>
__global__ void __launch_bounds__(kThreads) normalize_backward_walk(const __grid_constant__ NormJob<T, int32_t> job,
                                                                    const __grid_constant__ Divisor<int32_t> walks) {
  using A = Sum_t<T>;
  int32_t first, at;
  if (!find_walk(job, walks, first, at)) return;
  const Walk<T> walk{job, first, at};
  A x[kWalk + 4 * kHalf], share[kWalk + 2 * kHalf], part[kWalk + 2 * kHalf];
#pragma unroll
  for (int i = 0; i < kWalk + 4 * kHalf; ++i) x[i] = walk.element(job.input, i - 2 * kHalf);
#pragma unroll
  for (int i = 0; i < kWalk + 2 * kHalf; ++i) {
    const bool inside = walk.inside(i - kHalf);
    const A r = base_of(job, x + i);
    share[i] = inside ? widen_from(job.grad[walk.place(i - kHalf)]) / power(r, job.beta) : A{0};
    part[i] = inside ? share[i] * x[i + kHalf] / r : A{0};
  }
  const A factor = static_cast<A>(2 * job.scale * job.beta);
#pragma unroll
  for (int i = 0; i < kWalk; ++i) {
    A sum = 0;
#pragma unroll
    for (int j = 0; j < kWindow; ++j) sum += part[i + j];
    if (walk.inside(i)) job.result[walk.place(i)] = narrow_to(share[i + kHalf] - factor * x[i + 2 * kHalf] * sum, T{});
  }
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
  if constexpr (sizeof(Offset) == 4) {
    if (arguments.size == kWindow) {
      const Divisor<int32_t> walks((x.size(1) + kWalk - 1) / kWalk);
      const int64_t threads = x.numel() / x.size(1) * walks.value();
      const LaunchShape shape{(threads + kThreads - 1) / kThreads, kThreads};
      return grad ? device.launch(normalize_backward_walk<T>, shape, job, walks)
                  : device.launch(normalize_walk<T>, shape, job, walks);
    }
  }
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
