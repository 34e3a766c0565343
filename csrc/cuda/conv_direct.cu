// The direct algorithm on CUDA: a thread computes one result element as the definition reads, for any element type.
//
// It serves integers and complex numbers, problems that the tiled kernels decline, and the borders of dgrad under a
// padding mode, where a result collects from several places. Consecutive threads have consecutive pixels of a channel.
#include <algorithm>

#include "../element_types.h"
#include "../exact_sum.h"
#include "conv.h"
#include "epilogue.cuh"
#include "launch.cuh"

namespace convext::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kNowhere = std::numeric_limits<int64_t>::min() / 2;

template <class T>
struct DirectJob {
  ConvProblem problem;
  Buffer<const T> image, weight, bias;
  EpilogueJob<T> epilogue;
  Strides image_strides, weight_strides, result_strides;
  Buffer<T> result;
  // The results, (outer, channel, position): a position is at out0 + index * out_step.
  int64_t outer, channels;
  int64_t count[kSpatialAxes], out0[kSpatialAxes], out_step[kSpatialAxes];
  int64_t results;
};

__device__ int64_t at(const Strides& s, int64_t outer, int64_t channel) {
  return outer * s.outer + channel * s.channel;
}
__device__ int64_t at(const Strides& s, const int64_t (&x)[kSpatialAxes]) {
  return x[0] * s.axis[0] + x[1] * s.axis[1] + x[2] * s.axis[2];
}

// Calls visit(tap) for each tap of the kernel.
template <class Visit>
__device__ void for_each_tap(const ConvAxis (&a)[kSpatialAxes], const Visit& visit) {
  int64_t t[kSpatialAxes];
  for (t[0] = 0; t[0] < a[0].kernel; ++t[0])
    for (t[1] = 0; t[1] < a[1].kernel; ++t[1])
      for (t[2] = 0; t[2] < a[2].kernel; ++t[2]) visit(t);
}

// The input coordinates that tap t of output o reads; false where that is a zero.
__device__ bool source_of(const ConvProblem& p, const int64_t (&o)[kSpatialAxes], const int64_t (&t)[kSpatialAxes],
                          int64_t (&x)[kSpatialAxes]) {
  for (int i = 0; i < kSpatialAxes; ++i) {
    const ConvAxis& a = p.axis[i];
    x[i] = padded_source(p.mode, o[i] * a.stride + t[i] * a.dilation - a.lo, a.input);
    if (x[i] < 0) return false;
  }
  return true;
}

template <class T>
__device__ void fprop_sum(const DirectJob<T>& job, int64_t n, int64_t k, const int64_t (&o)[kSpatialAxes],
                          Sum<T>& sum) {
  const ConvProblem& p = job.problem;
  const int64_t first = k / p.out_channels * p.in_channels;
  for_each_tap(p.axis, [&](const int64_t(&t)[kSpatialAxes]) {
    int64_t x[kSpatialAxes];
    if (!source_of(p, o, t, x)) return;
    const int64_t pixel = at(job.image_strides, x), tap = at(job.weight_strides, t);
    for (int64_t c = 0; c < p.in_channels; ++c)
      sum.add(job.image[at(job.image_strides, n, first + c) + pixel], job.weight[at(job.weight_strides, k, c) + tap]);
  });
}

// The padded coordinates that read input coordinate i, as problem.h's for_each_padded has them. As a numbered list:
// three nested visitors with ten calls each would be a thousand copies of their body.
struct PaddedImages {
  int64_t count, first;  // `first` counts up under replicate
};
__device__ PaddedImages padded_images(PaddingMode mode, const ConvAxis& a, int64_t i) {
  if (mode == PaddingMode::kZeros) return {1, i};
  if (mode != PaddingMode::kReplicate) return {3, i};
  const int64_t first = i == 0 ? std::min<int64_t>(-a.lo, i) : i;
  const int64_t last = i == a.input - 1 ? std::max(a.input + a.hi - 1, i) : i;
  return {last - first + 1, first};
}
__device__ int64_t padded_image(PaddingMode mode, const ConvAxis& a, PaddedImages images, int64_t index) {
  const int64_t i = images.first;
  if (index == 0 || mode == PaddingMode::kReplicate) return i + index;
  if (mode == PaddingMode::kCircular) return index == 1 ? i - a.input : i + a.input;
  const int64_t mirror = index == 1 ? 0 : a.input - 1;
  return i == mirror ? kNowhere : 2 * mirror - i;
}

// The output whose window holds that padded coordinate at tap t, or -1.
__device__ int64_t window_of(PaddingMode mode, const ConvAxis& a, PaddedImages images, int64_t index, int64_t t) {
  const int64_t x = padded_image(mode, a, images, index);
  const int64_t start = x + a.lo - t * a.dilation;
  if (x < -a.lo || x >= a.input + a.hi || start < 0 || start % a.stride != 0) return -1;
  return start / a.stride < a.output ? start / a.stride : -1;
}

template <class T>
__device__ void dgrad_sum(const DirectJob<T>& job, int64_t n, int64_t c, const int64_t (&i)[kSpatialAxes],
                          Sum<T>& sum) {
  const ConvProblem& p = job.problem;
  const int64_t first = c / p.in_channels * p.out_channels;
  PaddedImages images[kSpatialAxes];
  for (int axis = 0; axis < kSpatialAxes; ++axis) images[axis] = padded_images(p.mode, p.axis[axis], i[axis]);
  for_each_tap(p.axis, [&](const int64_t(&t)[kSpatialAxes]) {
    int64_t o[kSpatialAxes];
    for (int64_t d = 0; d < images[0].count; ++d) {
      if ((o[0] = window_of(p.mode, p.axis[0], images[0], d, t[0])) < 0) continue;
      for (int64_t h = 0; h < images[1].count; ++h) {
        if ((o[1] = window_of(p.mode, p.axis[1], images[1], h, t[1])) < 0) continue;
        for (int64_t w = 0; w < images[2].count; ++w) {
          if ((o[2] = window_of(p.mode, p.axis[2], images[2], w, t[2])) < 0) continue;
          const int64_t pixel = at(job.image_strides, o), tap = at(job.weight_strides, t);
          for (int64_t k = first; k < first + p.out_channels; ++k)
            sum.add(job.image[at(job.image_strides, n, k) + pixel],
                    job.weight[at(job.weight_strides, k, c % p.in_channels) + tap]);
        }
      }
    }
  });
}

template <class T>
__device__ void wgrad_sum(const DirectJob<T>& job, int64_t k, int64_t c, const int64_t (&t)[kSpatialAxes],
                          Sum<T>& sum) {
  const ConvProblem& p = job.problem;
  const int64_t channel = k / p.out_channels * p.in_channels + c;
  int64_t o[kSpatialAxes], x[kSpatialAxes];
  for (int64_t n = 0; n < p.batch; ++n)
    for (o[0] = 0; o[0] < p.axis[0].output; ++o[0])
      for (o[1] = 0; o[1] < p.axis[1].output; ++o[1])
        for (o[2] = 0; o[2] < p.axis[2].output; ++o[2])
          if (source_of(p, o, t, x))
            sum.add(job.weight[at(job.weight_strides, n, k) + at(job.weight_strides, o)],
                    job.image[at(job.image_strides, n, channel) + at(job.image_strides, x)]);
}

template <class T, ConvOperator Op>
__global__ void __launch_bounds__(kThreads) direct(const __grid_constant__ DirectJob<T> job) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= job.results) return;
  int64_t rest = index, position[kSpatialAxes];
  for (int i = kSpatialAxes - 1; i >= 0; --i) {
    position[i] = job.out0[i] + rest % job.count[i] * job.out_step[i];
    rest /= job.count[i];
  }
  const int64_t channel = rest % job.channels, outer = rest / job.channels;
  Sum<T> sum;
  if constexpr (Op == ConvOperator::kFprop) fprop_sum(job, outer, channel, position, sum);
  if constexpr (Op == ConvOperator::kDgrad) dgrad_sum(job, outer, channel, position, sum);
  if constexpr (Op == ConvOperator::kWgrad) wgrad_sum(job, outer, channel, position, sum);
  const int64_t to = at(job.result_strides, outer, channel) + at(job.result_strides, position);
  if (job.bias) sum.add(job.bias[channel]);
  job.result[to] = sum.result([&](auto total) { return job.epilogue.activate(total, to); });
}

// The first two sizes of the result, and its positions.
template <class T>
void set_results(DirectJob<T>& job, ConvOperator op, const Region* region) {
  const ConvProblem& p = job.problem;
  const int64_t in = p.groups * p.in_channels, out = p.groups * p.out_channels;
  job.outer = op == ConvOperator::kWgrad ? out : p.batch;
  job.channels = op == ConvOperator::kFprop ? out : op == ConvOperator::kDgrad ? in : p.in_channels;
  job.results = job.outer * job.channels;
  for (int i = 0; i < kSpatialAxes; ++i) {
    const ConvAxis& a = p.axis[i];
    job.count[i] = region                       ? region->axis[i].count
                   : op == ConvOperator::kFprop ? a.output
                   : op == ConvOperator::kDgrad ? a.input
                                                : a.kernel;
    job.out0[i] = region ? region->axis[i].out0 : 0;
    job.out_step[i] = region ? region->axis[i].out_step : 1;
    job.results *= job.count[i];
  }
}

}  // namespace

void run_direct(const DeviceScope& device, ConvOperator op, const ConvProblem& problem, const ConvOperands& operands,
                const Region* region) {
  with_element_type(operands.image.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    DirectJob<T> job{};
    job.problem = problem;
    job.image = reading<T>(operands.image);
    job.weight = reading<T>(operands.weight);
    job.bias = reading<T>(operands.bias);
    if constexpr (requires(T x) { widen_from(x); }) job.epilogue = EpilogueJob<T>(operands);
    job.result = writing<T>(operands.result);
    job.image_strides = strides_of(operands.image);
    job.weight_strides = strides_of(operands.weight);
    job.result_strides = strides_of(operands.result);
    set_results(job, op, region);
    const LaunchShape shape{(job.results + kThreads - 1) / kThreads, kThreads};
    switch (op) {
      case ConvOperator::kFprop: return device.launch(direct<T, ConvOperator::kFprop>, shape, job);
      case ConvOperator::kDgrad: return device.launch(direct<T, ConvOperator::kDgrad>, shape, job);
      case ConvOperator::kWgrad: return device.launch(direct<T, ConvOperator::kWgrad>, shape, job);
    }
  });
}

}  // namespace convext::cuda
