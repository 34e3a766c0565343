// Depthwise convolution, and other groups of few channels: too few for a tile, so that a thread computes one element.
//
//   fprop, dgrad   result[n, c, q] = sum over taps j and source channels s of the group: weight * source[n, s, x(q, j)]
//                  neighbouring threads have neighbouring pixels, or channels where those are contiguous; what several
//                  of them read of the source comes from the L1 cache
//   wgrad          a block sums one element of the weight over all pixels: each thread every 128th, then the threads'
//                  sums in a fixed tree
#include "conv_depthwise.cuh"

namespace convext::cuda {
namespace {

constexpr int kThreads = 128;

template <class T, class Offset>
__global__ void __launch_bounds__(kThreads) gather(const __grid_constant__ DepthwiseJob<T, Offset> job) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= job.results) return;
  Offset rest = static_cast<Offset>(index), channel = 0, position[kSpatialAxes];
  if (job.channels_last) channel = take(rest, job.channels);
#pragma unroll
  for (int i = kSpatialAxes - 1; i >= 0; --i) position[i] = take(rest, job.axis[i].count);
  if (!job.channels_last) channel = take(rest, job.channels);
  const Offset group = job.of_group.quotient(channel), within = channel - group * job.of_group.value();

  const DepthwiseAxis<Offset>&d = job.axis[0], &h = job.axis[1], &w = job.axis[2];
  const Offset image = rest * job.image_sample + group * job.sources * job.image_channel;
  const Offset weight = job.tap0 + group * job.tap_group + within * job.tap_within;
  Sum_t<T> sum = 0;
  for (Offset td = 0; td < d.taps; ++td) {
    const Offset xd = source_at(job.mode, d, position[0], td);
    if (xd < 0) continue;
    for (Offset th = 0; th < h.taps; ++th) {
      const Offset xh = source_at(job.mode, h, position[1], th);
      if (xh < 0) continue;
      Sum_t<T> row = 0;  // sums of rows keep the chains of additions short
      for (Offset tw = 0; tw < w.taps; ++tw) {
        const Offset xw = source_at(job.mode, w, position[2], tw);
        if (xw < 0) continue;
        const Offset from = image + xd * d.source + xh * h.source + xw * w.source;
        const Offset tap = weight + td * d.tap + th * h.tap + tw * w.tap;
        for (Offset s = 0; s < job.sources; ++s)
          row += widen_from(job.image[from + s * job.image_channel]) * widen_from(job.weight[tap + s * job.tap_source]);
      }
      sum += row;
    }
  }
  if (job.bias) sum += widen_from(job.bias[channel]);
  const Offset to = rest * job.result_sample + channel * job.result_channel + position[0] * d.result +
                    position[1] * h.result + position[2] * w.result;
  job.result[to] = job.epilogue.finish(sum, to);
}

// wgrad: `weight` is grad_output, with its strides in tap_group (samples), tap_source (channels) and axis[].tap
// (pixels). A block for each (output channel, source channel, tap).
template <class T, class Offset>
__global__ void __launch_bounds__(kThreads) reduce(const __grid_constant__ DepthwiseJob<T, Offset> job) {
  constexpr int kChain = 256;
  Offset rest = static_cast<Offset>(blockIdx.x), tap[kSpatialAxes];
#pragma unroll
  for (int i = kSpatialAxes - 1; i >= 0; --i) {
    tap[i] = rest % job.axis[i].taps;
    rest /= job.axis[i].taps;
  }
  const Offset s = rest % job.sources, k = rest / job.sources;
  const Offset channel = job.of_group.quotient(k) * job.sources + s;
  Sum_t<T> sum = 0, chain = 0;
  int length = 0;
  for (Offset i = static_cast<Offset>(threadIdx.x); i < job.pixels; i += kThreads) {
    Offset number = i, from = channel * job.image_channel, grad = k * job.tap_source;
    bool inside = true;
#pragma unroll
    for (int axis = kSpatialAxes - 1; axis >= 0; --axis) {
      const DepthwiseAxis<Offset>& a = job.axis[axis];
      const Offset position = take(number, a.count), x = source_at(job.mode, a, position, tap[axis]);
      inside = inside && x >= 0;
      from += x * a.source;
      grad += position * a.tap;
    }
    if (!inside) continue;
    chain +=
        widen_from(job.image[from + number * job.image_sample]) * widen_from(job.weight[grad + number * job.tap_group]);
    if (++length % kChain == 0) sum += chain, chain = 0;
  }
  sum += chain;
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  const Buffer<Sum_t<T>> sums = shared_buffer<Sum_t<T>>(0, kThreads / 32);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  sync_threads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kThreads / 32; ++i) sum += sums[i];
  const Offset to = k * job.result_sample + s * job.result_channel;
  job.result[to + tap[0] * job.axis[0].result + tap[1] * job.axis[1].result + tap[2] * job.axis[2].result] =
      narrow_to(sum, T{});
}

template <class T, class Offset>
void run_image(const DeviceScope& device, const ConvRequest& request, const ConvPlan& plan, const Region& region,
               const ConvOperands& operands) {
  const ConvProblem& p = request.problem;
  const DepthwiseJob<T, Offset> job = depthwise_job<T, Offset>(request.op, p, region, operands);
  if constexpr (sizeof(Offset) == 4) {
    if (plan.depthwise == DepthwiseKernel::kChannels) return run_depthwise_channels<T>(device, job);
    if (plan.depthwise == DepthwiseKernel::kPlanes) return run_depthwise_planes<T>(device, job, p.batch * p.groups);
  }
  device.launch(gather<T, Offset>, {(int64_t{job.results} + kThreads - 1) / kThreads, kThreads}, job);
}

template <class T, class Offset>
void run_weight(const DeviceScope& device, const ConvProblem& p, [[maybe_unused]] const ConvPlan& plan,
                const ConvOperands& operands) {
  const Strides grad = strides_of(operands.weight), result = strides_of(operands.result);
  DepthwiseJob<T, Offset> job = tensors_of_job<T, Offset>(p, operands);
  job.of_group = Divisor<Offset>(p.out_channels);
  job.sources = static_cast<Offset>(p.in_channels);
  job.tap_group = static_cast<Offset>(grad.outer);
  job.tap_source = static_cast<Offset>(grad.channel);
  job.pixels = static_cast<Offset>(p.batch * output_pixels(p));
  for (int i = 0; i < kSpatialAxes; ++i) {
    const ConvAxis& c = p.axis[i];
    DepthwiseAxis<Offset>& a = job.axis[i];
    a.count = Divisor<Offset>(c.output);
    a.taps = static_cast<Offset>(c.kernel);
    a.step = static_cast<Offset>(c.stride);
    a.start = static_cast<Offset>(-c.lo);
    a.tap_step = static_cast<Offset>(c.dilation);
    a.extent = static_cast<Offset>(c.input);
    a.tap = static_cast<Offset>(grad.axis[i]);
    a.result = static_cast<Offset>(result.axis[i]);
  }
  if constexpr (sizeof(Offset) == 4)
    if (plan.depthwise != DepthwiseKernel::kElements)
      return run_depthwise_weight<T>(device, job, plan, operands.result);
  constexpr int kSharedBytes = kThreads / 32 * static_cast<int>(sizeof(Sum_t<T>));
  device.launch(reduce<T, Offset>, {weight_elements(p), kThreads, kSharedBytes}, job);
}

template <class T, class Offset>
void run_with(const DeviceScope& device, const ConvRequest& request, const ConvPlan& plan,
              const ConvOperands& operands) {
  const ConvProblem& p = request.problem;
  switch (request.op) {
    case ConvOperator::kFprop: return run_image<T, Offset>(device, request, plan, fprop_region(p), operands);
    case ConvOperator::kDgrad:
      for (const Region& region : dgrad_regions(p)) {
        if (region.folded()) {
          run_direct(device, request.op, p, operands, &region);
        } else {
          run_image<T, Offset>(device, request, plan, region, operands);
        }
      }
      return;
    case ConvOperator::kWgrad: return run_weight<T, Offset>(device, p, plan, operands);
  }
}

template <class T>
void run_of(const DeviceScope& device, const ConvRequest& request, const ConvPlan& plan, const ConvOperands& operands) {
  if (request.wide_offsets) return run_with<T, int64_t>(device, request, plan, operands);
  run_with<T, int32_t>(device, request, plan, operands);
}

}  // namespace

void run_depthwise(const DeviceScope& device, const ConvRequest& request, const ConvPlan& plan,
                   const ConvOperands& operands) {
  switch (operands.image.scalar_type()) {
    case ScalarType::Float: return run_of<float>(device, request, plan, operands);
    case ScalarType::Double: return run_of<double>(device, request, plan, operands);
    case ScalarType::BFloat16: return run_of<BFloat16>(device, request, plan, operands);
    default: return run_of<Half>(device, request, plan, operands);
  }
}

}  // namespace convext::cuda
