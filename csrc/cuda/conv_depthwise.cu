// Depthwise convolution, and other groups of few channels: too few for a tile, so that a thread computes one element.
//
//   fprop, dgrad   result[n, c, q] = sum over taps j and source channels s of the group: weight * source[n, s, x(q, j)]
//                  neighbouring threads have neighbouring pixels, or channels where those are contiguous; what several
//                  of them read of the source comes from the L1 cache
//   wgrad          a block sums one element of the weight over all pixels: each thread every 128th, then the threads'
//                  sums in a fixed tree
#include "conv.h"
#include "divisor.h"
#include "epilogue.cuh"
#include "launch.cuh"
#include "tile_product.cuh"

namespace convext::cuda {
namespace {

constexpr int kThreads = 128;

template <class Offset>
struct DepthwiseAxis {
  Divisor<Offset> count;               // fprop, dgrad: of result positions; wgrad: of outputs
  Offset taps, step, start, tap_step;  // the source's coordinate is start + position * step + tap * tap_step
  Offset extent, source, tap, result;  // size of the source; strides of source, weight and result
};

template <class T, class Offset>
struct DepthwiseJob {
  Buffer<const T> image, weight, bias;
  Buffer<T> result;
  EpilogueJob<T> epilogue;
  DepthwiseAxis<Offset> axis[kSpatialAxes];
  Divisor<Offset> channels, of_group;  // of the result, and of those of one group
  Offset sources;                      // channels of one group of the source
  Offset image_sample, image_channel, result_sample, result_channel;
  Offset tap0, tap_group, tap_within, tap_source;  // the weight's offsets: of a group, a result and a source channel
  Offset results, pixels;                          // pixels: that wgrad sums
  PaddingMode mode;
  bool channels_last;
};

// The coordinate in the source, or -1 for a zero.
template <class Offset>
__device__ Offset source_at(PaddingMode mode, const DepthwiseAxis<Offset>& a, Offset position, Offset tap) {
  const Offset x = a.start + position * a.step + tap * a.tap_step;
  if (x >= 0 && x < a.extent) return x;
  return mode == PaddingMode::kZeros ? Offset{-1} : static_cast<Offset>(padded_source(mode, x, a.extent));
}

// Takes the last digit off a number.
template <class Offset>
__device__ Offset take(Offset& number, const Divisor<Offset>& size) {
  const Offset rest = size.quotient(number), digit = number - rest * size.value();
  number = rest;
  return digit;
}

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
DepthwiseJob<T, Offset> empty_job(const ConvProblem& p, const ConvOperands& operands) {
  DepthwiseJob<T, Offset> job{};
  job.image = reading<T>(operands.image);
  job.weight = reading<T>(operands.weight);
  job.bias = reading<T>(operands.bias);
  job.result = writing<T>(operands.result);
  const Strides image = strides_of(operands.image), result = strides_of(operands.result);
  job.image_sample = static_cast<Offset>(image.outer);
  job.image_channel = static_cast<Offset>(image.channel);
  job.result_sample = static_cast<Offset>(result.outer);
  job.result_channel = static_cast<Offset>(result.channel);
  for (int i = 0; i < kSpatialAxes; ++i) job.axis[i].source = static_cast<Offset>(image.axis[i]);
  job.mode = p.mode;
  job.channels_last = result.channel == 1 && result.axis[2] != 1;
  return job;
}

template <class T, class Offset>
void run_image(const DeviceScope& device, ConvOperator op, const ConvProblem& p, const Region& region,
               const ConvOperands& operands) {
  const bool dgrad = op == ConvOperator::kDgrad;
  const Strides weight = strides_of(operands.weight), result = strides_of(operands.result);
  DepthwiseJob<T, Offset> job = empty_job<T, Offset>(p, operands);
  const int64_t of_group = dgrad ? p.in_channels : p.out_channels;
  job.of_group = Divisor<Offset>(of_group);
  job.channels = Divisor<Offset>(p.groups * of_group);
  job.sources = static_cast<Offset>(dgrad ? p.out_channels : p.in_channels);
  job.tap_group = static_cast<Offset>(p.out_channels * weight.outer);
  job.tap_within = static_cast<Offset>(dgrad ? weight.channel : weight.outer);
  job.tap_source = static_cast<Offset>(dgrad ? weight.outer : weight.channel);
  if (dgrad) job.mode = PaddingMode::kZeros;  // borders under other modes are regions of their own
  for (int i = 0; i < kSpatialAxes; ++i) {
    const GatherAxis& g = region.axis[i];
    DepthwiseAxis<Offset>& a = job.axis[i];
    a.count = Divisor<Offset>(g.count);
    a.taps = static_cast<Offset>(g.taps);
    a.step = static_cast<Offset>(g.step);
    a.start = static_cast<Offset>(g.off0);
    a.tap_step = static_cast<Offset>(g.off_step);
    a.extent = static_cast<Offset>(g.extent);
    a.tap = static_cast<Offset>(g.tap_step * weight.axis[i]);
    a.result = static_cast<Offset>(g.out_step * result.axis[i]);
    job.tap0 += static_cast<Offset>(g.tap0 * weight.axis[i]);
  }
  int64_t first = 0;
  for (int i = 0; i < kSpatialAxes; ++i) first += region.axis[i].out0 * result.axis[i];
  job.result =
      Buffer<T>(static_cast<T*>(operands.result.mutable_data_ptr()) + first, extent_of(operands.result) - first);
  job.epilogue = EpilogueJob<T>(operands, first);
  const int64_t results = p.batch * p.groups * of_group * region.positions();
  job.results = static_cast<Offset>(results);
  device.launch(gather<T, Offset>, {(results + kThreads - 1) / kThreads, kThreads}, job);
}

template <class T, class Offset>
void run_weight(const DeviceScope& device, const ConvProblem& p, const ConvOperands& operands) {
  const Strides grad = strides_of(operands.weight), result = strides_of(operands.result);
  DepthwiseJob<T, Offset> job = empty_job<T, Offset>(p, operands);
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
  constexpr int kSharedBytes = kThreads / 32 * static_cast<int>(sizeof(Sum_t<T>));
  device.launch(reduce<T, Offset>, {weight_elements(p), kThreads, kSharedBytes}, job);
}

template <class T, class Offset>
void run_with(const DeviceScope& device, ConvOperator op, const ConvProblem& p, const ConvOperands& operands) {
  switch (op) {
    case ConvOperator::kFprop: return run_image<T, Offset>(device, op, p, fprop_region(p), operands);
    case ConvOperator::kDgrad:
      for (const Region& region : dgrad_regions(p)) {
        if (region.folded()) {
          run_direct(device, op, p, operands, &region);
        } else {
          run_image<T, Offset>(device, op, p, region, operands);
        }
      }
      return;
    case ConvOperator::kWgrad: return run_weight<T, Offset>(device, p, operands);
  }
}

template <class T>
void run_of(const DeviceScope& device, const ConvRequest& request, const ConvOperands& operands) {
  if (request.wide_offsets) return run_with<T, int64_t>(device, request.op, request.problem, operands);
  run_with<T, int32_t>(device, request.op, request.problem, operands);
}

}  // namespace

void run_depthwise(const DeviceScope& device, const ConvRequest& request, const ConvOperands& operands) {
  switch (operands.image.scalar_type()) {
    case ScalarType::Float: return run_of<float>(device, request, operands);
    case ScalarType::Double: return run_of<double>(device, request, operands);
    case ScalarType::BFloat16: return run_of<BFloat16>(device, request, operands);
    default: return run_of<Half>(device, request, operands);
  }
}

}  // namespace convext::cuda
