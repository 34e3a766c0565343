// What the kernels of depthwise convolution are given: those that take any (conv_depthwise.cu), and those for groups of
// one channel, along the channels (conv_depthwise_channels.cu), by tiles of planes (conv_depthwise_planes.cu), and of
// wgrad (conv_depthwise_weight.cu).
#pragma once

#include "conv.h"
#include "divisor.h"
#include "epilogue.cuh"
#include "launch.cuh"
#include "tile_product.cuh"

namespace convext::cuda {

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
DepthwiseJob<T, Offset> tensors_of_job(const ConvProblem& p, const ConvOperands& operands) {
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

// Of fprop, or of a region of dgrad.
template <class T, class Offset>
DepthwiseJob<T, Offset> depthwise_job(ConvOperator op, const ConvProblem& p, const Region& region,
                                      const ConvOperands& operands) {
  const bool dgrad = op == ConvOperator::kDgrad;
  const Strides weight = strides_of(operands.weight), result = strides_of(operands.result);
  DepthwiseJob<T, Offset> job = tensors_of_job<T, Offset>(p, operands);
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
  job.results = static_cast<Offset>(p.batch * p.groups * of_group * region.positions());
  return job;
}

// Of fprop, or of a region of dgrad, where the plan chose that kernel.
template <class T>
void run_depthwise_channels(const DeviceScope& device, const DepthwiseJob<T, int32_t>& job);
template <class T>
void run_depthwise_planes(const DeviceScope& device, const DepthwiseJob<T, int32_t>& job, int64_t planes);

// wgrad, whose `weight` is grad_output, with its strides in tap_group (samples), tap_source (channels) and axis[].tap
// (pixels); the partial sums of the plan's slices go through `result`'s allocator.
template <class T>
void run_depthwise_weight(const DeviceScope& device, const DepthwiseJob<T, int32_t>& job, const ConvPlan& plan,
                          const Tensor& result);

}  // namespace convext::cuda
