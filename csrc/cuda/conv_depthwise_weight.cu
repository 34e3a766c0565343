// The gradient to the weight of a depthwise convolution: for each channel and tap a sum over all pixels.
//
//   weight[c, t] = sum over samples n, pixels q of grad_output[n, c, q] * input[n, c, q * stride + t * dilation - lo]
//
// A thread has the sums of all taps of its channel in registers, so that an element of grad_output is read once, and
// what taps share of the input comes from the L1 cache. A block takes a slice of the pixels:
//
//   channels_last   32 channels, neighbours for the lanes of a warp; its four warps take every fourth pixel
//   planes          one channel; its 128 threads take every 128th pixel
//
// The sums of a block's threads are added in a fixed order, and those of slices by a second kernel in theirs.
#include "conv_depthwise.cuh"

namespace convext::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

template <class T>
struct WeightJob {
  DepthwiseJob<T, int32_t> convolution;
  Buffer<Sum_t<T>> partial;  // (slice, channel, tap); null for one slice
  int32_t channels, taps, channel_blocks, slices, slice_pixels;
};

// A tap's coordinates, from those of its window.
struct alignas(16) TapPlace {
  int32_t d, h, w, offset;  // offset: of the weight's gradient
};

template <class T>
__device__ TapPlace place_of_tap(const DepthwiseJob<T, int32_t>& job, int32_t tap) {
  const DepthwiseAxis<int32_t>&d = job.axis[0], &h = job.axis[1], &w = job.axis[2];
  const int32_t td = tap / (h.taps * w.taps), th = tap / w.taps % h.taps, tw = tap % w.taps;
  return {td * d.tap_step, th * h.tap_step, tw * w.tap_step, td * d.result + th * h.result + tw * w.result};
}

// The coordinate in the source of x, or -1 for a zero.
__device__ int32_t mapped(PaddingMode mode, int32_t x, int32_t extent) {
  if (x >= 0 && x < extent) return x;
  return mode == PaddingMode::kZeros ? -1 : static_cast<int32_t>(padded_source(mode, x, extent));
}

template <class T, int MostTaps, bool AlongChannels>
__global__ void __launch_bounds__(kThreads) sum_taps(const __grid_constant__ WeightJob<T> whole) {
  using A = Sum_t<T>;
  constexpr int kChain = 256, kLanes = AlongChannels ? 32 : 1;
  const DepthwiseJob<T, int32_t>& job = whole.convolution;
  const DepthwiseAxis<int32_t>&d = job.axis[0], &h = job.axis[1], &w = job.axis[2];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  constexpr int kPlaceBytes = MostTaps * static_cast<int>(sizeof(TapPlace));
  const Buffer<TapPlace> places = shared_buffer<TapPlace>(0, MostTaps);
  const Buffer<A> shared = shared_buffer<A>(kPlaceBytes, kWarps * MostTaps * kLanes);
  if (thread < whole.taps) places[thread] = place_of_tap(job, thread);
  sync_threads();

  const int32_t slice = static_cast<int32_t>(blockIdx.x) / whole.channel_blocks;
  const int32_t block = static_cast<int32_t>(blockIdx.x) - slice * whole.channel_blocks;
  const int32_t channel = AlongChannels ? block * 32 + lane : block;
  const int32_t first = slice * whole.slice_pixels;
  const int32_t pixels = channel < whole.channels ? job.pixels : 0;
  const int32_t end = pixels - first < whole.slice_pixels ? pixels : first + whole.slice_pixels;

  A sums[MostTaps] = {}, chains[MostTaps] = {};
  int length = 0;
  for (int32_t i = first + (AlongChannels ? warp : thread); i < end; i += AlongChannels ? kWarps : kThreads) {
    int32_t number = i;
    const int32_t ow = take(number, w.count), oh = take(number, h.count), od = take(number, d.count);
    const A grad = widen_from(
        job.weight[number * job.tap_group + channel * job.tap_source + od * d.tap + oh * h.tap + ow * w.tap]);
    const int32_t image = number * job.image_sample + channel * job.image_channel;
    const int32_t xd = d.start + od * d.step, xh = h.start + oh * h.step, xw = w.start + ow * w.step;
#pragma unroll
    for (int tap = 0; tap < MostTaps; ++tap) {
      if (tap >= whole.taps) continue;
      const TapPlace place = places[tap];
      const int32_t sd = mapped(job.mode, xd + place.d, d.extent), sh = mapped(job.mode, xh + place.h, h.extent),
                    sw = mapped(job.mode, xw + place.w, w.extent);
      if (sd < 0 || sh < 0 || sw < 0) continue;
      chains[tap] += grad * widen_from(job.image[image + sd * d.source + sh * h.source + sw * w.source]);
    }
    if (++length % kChain != 0) continue;
#pragma unroll
    for (int tap = 0; tap < MostTaps; ++tap) sums[tap] += chains[tap], chains[tap] = 0;
  }

#pragma unroll
  for (int tap = 0; tap < MostTaps; ++tap) {
    A sum = sums[tap] + chains[tap];
    if constexpr (!AlongChannels) {
#pragma unroll
      for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    }
    if (AlongChannels || lane == 0) shared[(warp * MostTaps + tap) * kLanes + lane % kLanes] = sum;
  }
  sync_threads();
  for (int i = thread; i < whole.taps * kLanes; i += kThreads) {
    const int tap = i / kLanes, c = block * kLanes + i % kLanes;
    if (c >= whole.channels) continue;
    A sum = 0;
    for (int part = 0; part < kWarps; ++part) sum += shared[(part * MostTaps + tap) * kLanes + i % kLanes];
    if (whole.partial) {
      whole.partial[(slice * whole.channels + c) * whole.taps + tap] = sum;
    } else {
      job.result[c * job.result_sample + places[tap].offset] = narrow_to(sum, T{});
    }
  }
}

// The slices' sums, one after the other.
template <class T>
__global__ void __launch_bounds__(kThreads) add_slices_of_taps(const __grid_constant__ WeightJob<T> whole) {
  const int32_t i = static_cast<int32_t>(blockIdx.x) * kThreads + static_cast<int32_t>(threadIdx.x);
  const int32_t size = whole.channels * whole.taps;
  if (i >= size) return;
  Sum_t<T> sum = 0;
  for (int32_t slice = 0; slice < whole.slices; ++slice) sum += whole.partial[slice * size + i];
  const int32_t channel = i / whole.taps;
  const TapPlace place = place_of_tap(whole.convolution, i - channel * whole.taps);
  whole.convolution.result[channel * whole.convolution.result_sample + place.offset] = narrow_to(sum, T{});
}

template <class T, int MostTaps, bool AlongChannels>
void launch(const DeviceScope& device, const WeightJob<T>& job) {
  constexpr int kBytes = MostTaps * static_cast<int>(sizeof(TapPlace)) +
                         kWarps * MostTaps * (AlongChannels ? 32 : 1) * static_cast<int>(sizeof(Sum_t<T>));
  device.launch(sum_taps<T, MostTaps, AlongChannels>, {int64_t{job.channel_blocks} * job.slices, kThreads, kBytes},
                job);
}

}  // namespace

template <class T>
void run_depthwise_weight(const DeviceScope& device, const DepthwiseJob<T, int32_t>& job, const ConvPlan& plan,
                          const Tensor& result) {
  const bool along_channels = plan.depthwise == DepthwiseKernel::kChannels;
  WeightJob<T> whole{};
  whole.convolution = job;
  whole.channels = static_cast<int32_t>(result.size(0));
  whole.taps = job.axis[0].taps * job.axis[1].taps * job.axis[2].taps;
  whole.channel_blocks = along_channels ? (whole.channels + 31) / 32 : whole.channels;
  whole.slices = static_cast<int32_t>(plan.slices);
  whole.slice_pixels = static_cast<int32_t>(plan.slice_depth);
  std::optional<Tensor> partial;
  if (plan.slices > 1) {
    partial = allocate(result, {plan.workspace_bytes}, ScalarType::Byte);
    whole.partial = {static_cast<Sum_t<T>*>(partial->mutable_data_ptr()),
                     plan.workspace_bytes / static_cast<int64_t>(sizeof(Sum_t<T>))};
  }
  constexpr int kFewTaps = 9, kManyTaps = 25;
  if (whole.taps <= kFewTaps) {
    along_channels ? launch<T, kFewTaps, true>(device, whole) : launch<T, kFewTaps, false>(device, whole);
  } else {
    along_channels ? launch<T, kManyTaps, true>(device, whole) : launch<T, kManyTaps, false>(device, whole);
  }
  if (!partial) return;
  const int64_t sums = int64_t{whole.channels} * whole.taps;
  device.launch(add_slices_of_taps<T>, {(sums + kThreads - 1) / kThreads, kThreads}, whole);
}

template void run_depthwise_weight<float>(const DeviceScope&, const DepthwiseJob<float, int32_t>&, const ConvPlan&,
                                          const Tensor&);
template void run_depthwise_weight<double>(const DeviceScope&, const DepthwiseJob<double, int32_t>&, const ConvPlan&,
                                           const Tensor&);
template void run_depthwise_weight<BFloat16>(const DeviceScope&, const DepthwiseJob<BFloat16, int32_t>&,
                                             const ConvPlan&, const Tensor&);
template void run_depthwise_weight<Half>(const DeviceScope&, const DepthwiseJob<Half, int32_t>&, const ConvPlan&,
                                         const Tensor&);

}  // namespace convext::cuda
