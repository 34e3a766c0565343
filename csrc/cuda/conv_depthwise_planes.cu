// Depthwise convolution of planes: a block computes a tile of a plane, or of several planes where they are small, with
// fprop's formula or, for a region of dgrad, its gather.
//
//   source tile in shared memory, widened, zeros or what       result tile, up to kPlaneTile: each thread has every
//   the padding mode says where it lies outside                128th of its elements
//
//   +-----------------+
//   |  +-----------+  |   neighbouring threads read neighbouring numbers: no bank conflicts for a stride of one, two at
//   |  |  results  |  |   a time for a stride of two
//   |  +-----------+  |
//   +-----------------+   every element of the source is read once, but for the borders that tiles share: of 16 x 32
//                         results of a 3 x 3 kernel 612 elements, 1.2 for each; and one is written
#include <algorithm>
#include <cstdlib>

#include "conv_depthwise.cuh"

namespace convext::cuda {
namespace {

constexpr int kThreads = 128, kResults = kPlaneTile[0] * kPlaneTile[1] / kThreads;  // of a thread

// The tile along one axis.
struct TileAxis {
  Divisor<int32_t> results, source, tiles;
  int32_t low = 0;  // the first tap's offset, from that of the result's own position: zero or below
};

template <class T>
struct PlanesJob {
  DepthwiseJob<T, int32_t> convolution;
  TileAxis h, w;
  int32_t planes, planes_of_block, plane_elements;
};

// As source_at, for coordinates that may lie beyond what any result reads.
__device__ int32_t tile_source(PaddingMode mode, int32_t x, int32_t extent) {
  if (mode != PaddingMode::kZeros) x = static_cast<int32_t>(padded_source(mode, x, extent));
  return x >= 0 && x < extent ? x : -1;
}

template <class T>
__global__ void __launch_bounds__(kThreads) by_planes(const __grid_constant__ PlanesJob<T> whole) {
  using A = Sum_t<T>;
  const DepthwiseJob<T, int32_t>& job = whole.convolution;
  const DepthwiseAxis<int32_t>&h = job.axis[1], &w = job.axis[2];
  int32_t block = static_cast<int32_t>(blockIdx.x);
  const int32_t first_column = take(block, whole.w.tiles) * whole.w.results.value();
  const int32_t first_row = take(block, whole.h.tiles) * whole.h.results.value();
  const int32_t first_plane = block * whole.planes_of_block;

  const int taps = h.taps * w.taps, elements = whole.planes_of_block * whole.plane_elements;
  constexpr int kAlignment = 16 / static_cast<int>(sizeof(A));
  const int weights_at = (elements + kAlignment - 1) / kAlignment * kAlignment;
  const Buffer<A> source = shared_buffer<A>(0, elements);
  const Buffer<A> weights = shared_buffer<A>(weights_at * static_cast<int>(sizeof(A)), whole.planes_of_block * taps);

  const int32_t top = h.start + first_row * h.step + whole.h.low, left = w.start + first_column * w.step + whole.w.low;
  for (int i = static_cast<int>(threadIdx.x); i < elements; i += kThreads) {
    int32_t rest = i;
    const int32_t column = take(rest, whole.w.source), row = take(rest, whole.h.source), plane = first_plane + rest;
    const int32_t xh = tile_source(job.mode, top + row, h.extent), xw = tile_source(job.mode, left + column, w.extent);
    A x = 0;
    if (xh >= 0 && xw >= 0 && plane < whole.planes) {
      const int32_t sample = job.channels.quotient(plane), channel = plane - sample * job.channels.value();
      x = widen_from(
          job.image[sample * job.image_sample + channel * job.image_channel + xh * h.source + xw * w.source]);
    }
    source[i] = x;
  }
  for (int i = static_cast<int>(threadIdx.x); i < whole.planes_of_block * taps; i += kThreads) {
    const int32_t plane = first_plane + i / taps, tap = i % taps;
    const int32_t channel = plane - job.channels.quotient(plane) * job.channels.value();
    const int32_t at = job.tap0 + channel * job.tap_group + tap / w.taps * h.tap + tap % w.taps * w.tap;
    weights[i] = plane < whole.planes ? widen_from(job.weight[at]) : A{0};
  }
  sync_threads();

  // where a thread's results begin to read; those beyond the tile read what the first one does
  int32_t begin[kResults], weight[kResults];
  A sums[kResults] = {};
  const int32_t pitch = whole.w.source.value(), own = -whole.h.low * pitch - whole.w.low;
  const int32_t tile = whole.planes_of_block * whole.h.results.value() * whole.w.results.value();
#pragma unroll
  for (int i = 0; i < kResults; ++i) {
    int32_t rest = static_cast<int32_t>(threadIdx.x) + i * kThreads;
    if (rest >= tile) rest = 0;
    const int32_t column = take(rest, whole.w.results), row = take(rest, whole.h.results);
    begin[i] = own + rest * whole.plane_elements + row * h.step * pitch + column * w.step;
    weight[i] = rest * taps;
  }
  for (int32_t th = 0; th < h.taps; ++th)
    for (int32_t tw = 0; tw < w.taps; ++tw) {
      const int32_t offset = th * h.tap_step * pitch + tw * w.tap_step, tap = th * w.taps + tw;
#pragma unroll
      for (int i = 0; i < kResults; ++i) sums[i] += source[begin[i] + offset] * weights[weight[i] + tap];
    }

#pragma unroll
  for (int i = 0; i < kResults; ++i) {
    int32_t rest = static_cast<int32_t>(threadIdx.x) + i * kThreads;
    if (rest >= tile) continue;
    const int32_t column = first_column + take(rest, whole.w.results), row = first_row + take(rest, whole.h.results);
    const int32_t plane = first_plane + rest;
    if (column >= w.count.value() || row >= h.count.value() || plane >= whole.planes) continue;
    const int32_t sample = job.channels.quotient(plane), channel = plane - sample * job.channels.value();
    A sum = sums[i];
    if (job.bias) sum += widen_from(job.bias[channel]);
    const int32_t to = sample * job.result_sample + channel * job.result_channel + row * h.result + column * w.result;
    job.result[to] = job.epilogue.finish(sum, to);
  }
}

// Tiles of at most `most` results.
TileAxis tile_axis(const DepthwiseAxis<int32_t>& a, int32_t most) {
  const int32_t count = a.count.value(), results = std::min(count, most), reach = std::max(a.taps - 1, 0) * a.tap_step;
  TileAxis tile;
  tile.results = Divisor<int32_t>(results);
  tile.source = Divisor<int32_t>((results - 1) * a.step + std::abs(reach) + 1);
  tile.tiles = Divisor<int32_t>((count + results - 1) / results);
  tile.low = std::min(reach, 0);
  return tile;
}

}  // namespace

template <class T>
void run_depthwise_planes(const DeviceScope& device, const DepthwiseJob<T, int32_t>& job, int64_t planes) {
  if (job.results == 0) return;
  constexpr int64_t kSumBytes = sizeof(Sum_t<T>);
  PlanesJob<T> whole{};
  whole.convolution = job;
  whole.h = tile_axis(job.axis[1], kPlaneTile[0]);
  whole.w = tile_axis(job.axis[2], kPlaneTile[1]);
  whole.planes = static_cast<int32_t>(planes);
  whole.plane_elements = whole.h.source.value() * whole.w.source.value();
  const int64_t in_tile = kPlaneTile[0] * kPlaneTile[1] / (whole.h.results.value() * whole.w.results.value());
  const int64_t that_fit = std::max<int64_t>(kPlaneBytes / (whole.plane_elements * kSumBytes), 1);
  whole.planes_of_block = static_cast<int32_t>(std::min({in_tile, that_fit, planes}));
  const int64_t tiles = int64_t{whole.h.tiles.value()} * whole.w.tiles.value();
  const int64_t blocks = tiles * ((planes + whole.planes_of_block - 1) / whole.planes_of_block);
  const int64_t taps = int64_t{job.axis[1].taps} * job.axis[2].taps;
  const int64_t bytes = whole.planes_of_block * (whole.plane_elements + taps) * kSumBytes + 16;
  device.launch(by_planes<T>, {blocks, kThreads, static_cast<int>(bytes)}, whole);
}

template void run_depthwise_planes<float>(const DeviceScope&, const DepthwiseJob<float, int32_t>&, int64_t);
template void run_depthwise_planes<double>(const DeviceScope&, const DepthwiseJob<double, int32_t>&, int64_t);
template void run_depthwise_planes<BFloat16>(const DeviceScope&, const DepthwiseJob<BFloat16, int32_t>&, int64_t);
template void run_depthwise_planes<Half>(const DeviceScope&, const DepthwiseJob<Half, int32_t>&, int64_t);

}  // namespace convext::cuda
