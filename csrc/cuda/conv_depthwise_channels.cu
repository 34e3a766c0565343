// Depthwise convolution along contiguous channels: a thread computes kPixels neighbouring pixels of a row, 16 bytes of
// channels of each (a "piece"), with fprop's formula or, for a region of dgrad, its gather.
//
//                  slab: up to 8 pieces, 128 bytes of a pixel, which neighbouring threads read and write
//                 +-----+-----+-- --+-----+
//   pixel group   |  t  | t+1 | ... | t+7 |     a block has the weights of one slab in shared memory, widened: (tap,
//   pixel group   | t+8 | t+9 | ... |     |     part, piece, 16 bytes), so that 8 threads read 128 bytes without a
//                 +-----+-----+-- --+-----+     conflict, and those of other pixels the same ones
//
// What the taps of neighbouring pixels share comes from the L1 cache. Memory sees about one element read and one
// written for each result: 4 bytes for the half types, 8 for float32.
#include <algorithm>

#include "conv_depthwise.cuh"

namespace convext::cuda {
namespace {

constexpr int kThreads = 128, kPixels = 4;

template <class T>
struct ChannelsJob {
  DepthwiseJob<T, int32_t> convolution;
  Divisor<int32_t> slabs, groups_of_row;
  int32_t pieces, groups;  // of the channels; pixel groups of the result
  int slab_shift;          // a slab has 2^slab_shift pieces
};

template <class T>
__global__ void __launch_bounds__(kThreads) along_channels(const __grid_constant__ ChannelsJob<T> whole) {
  using A = Sum_t<T>;
  constexpr int kCount = Quad<T>::kCount, kInQuad = Quad<A>::kCount, kParts = kCount / kInQuad;
  const DepthwiseJob<T, int32_t>& job = whole.convolution;
  const DepthwiseAxis<int32_t>&d = job.axis[0], &h = job.axis[1], &w = job.axis[2];
  const int slab_pieces = 1 << whole.slab_shift, slab_channels = kCount << whole.slab_shift;
  int32_t block = static_cast<int32_t>(blockIdx.x);
  const int32_t first_piece = take(block, whole.slabs) << whole.slab_shift;

  const int taps = d.taps * h.taps * w.taps;
  const Buffer<A> weights = shared_buffer<A>(0, taps * slab_channels);
  for (int i = static_cast<int>(threadIdx.x); i < taps * slab_channels; i += kThreads) {
    const int within = i % slab_channels, tap = i / slab_channels;
    const int piece = within / kCount, part = within % kCount / kInQuad;
    const int32_t channel = first_piece * kCount + within;
    const int32_t at = job.tap0 + channel * job.tap_group + tap / (h.taps * w.taps) * d.tap +
                       tap / w.taps % h.taps * h.tap + tap % w.taps * w.tap;
    weights[((tap * kParts + part) * slab_pieces + piece) * kInQuad + within % kInQuad] =
        channel < job.channels.value() ? widen_from(job.weight[at]) : A{0};
  }
  sync_threads();

  const int piece = static_cast<int>(threadIdx.x) % slab_pieces;
  int32_t number = block * (kThreads >> whole.slab_shift) + (static_cast<int32_t>(threadIdx.x) >> whole.slab_shift);
  if (first_piece + piece >= whole.pieces || number >= whole.groups) return;
  const int32_t column = take(number, whole.groups_of_row) * kPixels;
  const int32_t row = take(number, h.count), plane = take(number, d.count);
  const int32_t channel = (first_piece + piece) * kCount, columns = w.count.value();

  const int32_t image = number * job.image_sample + channel;
  A sums[kPixels][kCount] = {};
  for (int32_t td = 0; td < d.taps; ++td) {
    const int32_t xd = source_at(job.mode, d, plane, td);
    if (xd < 0) continue;
    for (int32_t th = 0; th < h.taps; ++th) {
      const int32_t xh = source_at(job.mode, h, row, th);
      if (xh < 0) continue;
      const int32_t from = image + xd * d.source + xh * h.source;
      for (int32_t tw = 0; tw < w.taps; ++tw) {
        const int tap = (td * h.taps + th) * w.taps + tw;
        A weight[kCount];
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          const Quad<A> quad = load_quad(weights, ((tap * kParts + part) * slab_pieces + piece) * kInQuad);
#pragma unroll
          for (int i = 0; i < kInQuad; ++i) weight[part * kInQuad + i] = quad.value[i];
        }
#pragma unroll
        for (int pixel = 0; pixel < kPixels; ++pixel) {
          if (column + pixel >= columns) continue;
          const int32_t xw = source_at(job.mode, w, column + pixel, tw);
          if (xw < 0) continue;
          const Quad<T> x = load_quad(job.image, from + xw * w.source);
#pragma unroll
          for (int i = 0; i < kCount; ++i) sums[pixel][i] += widen_from(x.value[i]) * weight[i];
        }
      }
    }
  }

  const int32_t to_row = number * job.result_sample + channel + plane * d.result + row * h.result;
#pragma unroll
  for (int pixel = 0; pixel < kPixels; ++pixel) {
    if (column + pixel >= columns) continue;
    const int32_t to = to_row + (column + pixel) * w.result;
    Quad<T> finished;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      A sum = sums[pixel][i];
      if (job.bias) sum += widen_from(job.bias[channel + i]);
      finished.value[i] = job.epilogue.finish(sum, to + i);
    }
    store_quad(job.result, to, finished);
  }
}

}  // namespace

template <class T>
void run_depthwise_channels(const DeviceScope& device, const DepthwiseJob<T, int32_t>& job) {
  if (job.results == 0) return;
  constexpr int kMostPieces = 8;
  ChannelsJob<T> whole{};
  whole.convolution = job;
  whole.pieces = job.channels.value() / kRun<T>;
  while ((2 << whole.slab_shift) <= std::min<int32_t>(kMostPieces, whole.pieces)) ++whole.slab_shift;
  const auto divide_up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int32_t columns = job.axis[2].count.value();
  whole.slabs = Divisor<int32_t>(divide_up(whole.pieces, 1 << whole.slab_shift));
  whole.groups_of_row = Divisor<int32_t>(divide_up(columns, kPixels));
  whole.groups = job.results / job.channels.value() / columns * whole.groups_of_row.value();
  const int64_t blocks = whole.slabs.value() * divide_up(whole.groups, kThreads >> whole.slab_shift);
  const int taps = job.axis[0].taps * job.axis[1].taps * job.axis[2].taps;
  const int bytes = (taps * kRun<T> << whole.slab_shift) * static_cast<int>(sizeof(Sum_t<T>));
  device.launch(along_channels<T>, {blocks, kThreads, bytes}, whole);
}

template void run_depthwise_channels<float>(const DeviceScope&, const DepthwiseJob<float, int32_t>&);
template void run_depthwise_channels<double>(const DeviceScope&, const DepthwiseJob<double, int32_t>&);
template void run_depthwise_channels<BFloat16>(const DeviceScope&, const DepthwiseJob<BFloat16, int32_t>&);
template void run_depthwise_channels<Half>(const DeviceScope&, const DepthwiseJob<Half, int32_t>&);

}  // namespace convext::cuda
