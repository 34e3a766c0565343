// Operators on places, int64 indices into the planes of an image, and on windows that lie at random: a thread for each
// result.
//
// place_scatter gathers, too, though nothing says which inputs meet at a result: a first kernel hangs every input into
// the list of its result, a second one walks the lists.
//
//   inputs      0     1     2     3     4        head   of each result, the input that came last, or -1
//   places      7     2     7     2     7        next   of each input, the one that was there before it
//                                                the order within a list is that in which threads came
//   head[7] -> 2 -> 4 -> 0     head[2] -> 1 -> 3
//
// So the set is the same in every run, but not its order: of a list the largest input is taken, or all are added from
// the smallest on. A sum looks for the next larger input again and again, which is quadratic; a long list is not walked
// but all inputs of the plane are, once.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../element_types.h"
#include "pool_call.cuh"

namespace convext::cuda {
namespace {

int64_t product(const IntList& sizes) {
  int64_t n = 1;
  for (const int64_t size : sizes) n *= size;
  return n;
}

LaunchShape shape_for(int64_t results) { return {(results + kPoolThreads - 1) / kPoolThreads, kPoolThreads}; }

__device__ int64_t thread_number() { return static_cast<int64_t>(blockIdx.x) * kPoolThreads + threadIdx.x; }

// Images and places are contiguous: plane after plane.
template <class T>
struct PlaceJob {
  Buffer<const T> source;
  Buffer<const int64_t> places;
  Buffer<T> result;
  int64_t count, size;  // of places and of image elements in a plane
  int64_t results;
  int64_t result_sample = 0, result_channel = 0, result_step = 0, channels = 1;  // of place_scatter
  bool accumulate = false;
  Buffer<int32_t> head, next;
};

template <class T>
__global__ void __launch_bounds__(kPoolThreads) gather_places(const __grid_constant__ PlaceJob<T> job) {
  const int64_t i = thread_number();
  if (i >= job.results) return;
  const int64_t place = job.places[i];
  require_inside(place, job.size);
  job.result[i] = job.source[i / job.count * job.size + place];
}

__global__ void __launch_bounds__(kPoolThreads)
    empty_lists(const __grid_constant__ Buffer<int32_t> head, int64_t size) {
  const int64_t i = thread_number();
  if (i < size) head[i] = -1;
}

template <class T>
__global__ void __launch_bounds__(kPoolThreads)
    fill_lists(const __grid_constant__ PlaceJob<T> job, const int64_t inputs) {
  const int64_t i = thread_number();
  if (i >= inputs) return;
  const int64_t place = job.places[i], plane = i / job.count;
  require_inside(place, job.size);
  job.next[i] = exchange(job.head.at(plane * job.size + place, 1), static_cast<int32_t>(i - plane * job.count));
}

template <class T>
__global__ void __launch_bounds__(kPoolThreads) walk_lists(const __grid_constant__ PlaceJob<T> job) {
  using A = decltype(widen_element(T{}));
  constexpr int kLongest = 32;
  const int64_t i = thread_number();
  if (i >= job.results) return;
  const int64_t plane = i / job.size, place = i - plane * job.size, first = plane * job.count;
  const int32_t head = job.head[i];
  A sum{};
  int length = 0;
  int32_t last = -1;
  for (int32_t at = head; at >= 0; at = job.next[first + at]) {
    last = at > last ? at : last;
    if (++length > kLongest && job.accumulate) break;
  }
  if (!job.accumulate) {
    if (last >= 0) sum = widen_element(job.source[first + last]);
  } else if (length > kLongest) {
    for (int64_t at = first; at < first + job.count; ++at)
      if (job.places[at] == place) sum += widen_element(job.source[at]);
  } else {
    int32_t added = -1;
    for (int term = 0; term < length; ++term) {
      int32_t smallest = last;
      for (int32_t at = head; at >= 0; at = job.next[first + at])
        if (at > added && at < smallest) smallest = at;
      sum += widen_element(job.source[first + smallest]);
      added = smallest;
    }
  }
  const int64_t sample = plane / job.channels, channel = plane - sample * job.channels;
  job.result[sample * job.result_sample + channel * job.result_channel + place * job.result_step] =
      narrow_element<T>(sum);
}

Tensor place_gather(const Tensor& input, const Tensor& places) {
  check_places(input, places);
  const DeviceScope device(input);
  const Tensor image = torch::stable::contiguous(input), index = torch::stable::contiguous(places);
  Tensor result = allocate(input, with_spatial(input, spatial_sizes(places)), input.scalar_type());
  with_poolable_type(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const PlaceJob<T> job{.source = reading<T>(image),
                          .places = reading<int64_t>(index),
                          .result = writing<T>(result),
                          .count = product(spatial_sizes(places)),
                          .size = product(spatial_sizes(input)),
                          .results = result.numel(),
                          .head = {},
                          .next = {}};
    device.launch(gather_places<T>, shape_for(job.results), job);
  });
  return result;
}

Tensor place_scatter(const Tensor& input, const Tensor& places, IntList output_size, bool accumulate) {
  check_scatter(input, places, output_size);
  const int64_t size = product(output_size), count = product(spatial_sizes(input));
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(count <= kMost, "convext: expected at most 2^31 - 1 places in a plane, got ", count);
  using torch::headeronly::MemoryFormat;
  const bool last = input.dim() == 4 && suggests_channels_last(input);
  const DeviceScope device(input);
  Tensor result = allocate(input, with_spatial(input, output_size), input.scalar_type(),
                           last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  if (result.numel() == 0) return result;
  const Tensor image = torch::stable::contiguous(input), index = torch::stable::contiguous(places);
  Tensor head = allocate(input, {result.numel()}, ScalarType::Int);
  Tensor next = allocate(input, {std::max<int64_t>(input.numel(), 1)}, ScalarType::Int);
  const Strides strides = strides_of(result);
  with_poolable_type(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const PlaceJob<T> job{.source = reading<T>(image),
                          .places = reading<int64_t>(index),
                          .result = writing<T>(result),
                          .count = count,
                          .size = size,
                          .results = result.numel(),
                          .result_sample = strides.outer,
                          .result_channel = strides.channel,
                          .result_step = last ? strides.axis[2] : 1,  // both formats have the places in order
                          .channels = input.size(1),
                          .accumulate = accumulate,
                          .head = writing<int32_t>(head),
                          .next = writing<int32_t>(next)};
    device.launch(empty_lists, shape_for(job.results), job.head, job.results);
    device.launch(fill_lists<T>, shape_for(input.numel()), job, input.numel());
    device.launch(walk_lists<T>, shape_for(job.results), job);
  });
  return result;
}

// Windows that begin, in each plane, where a list of its own says: the begins of axis after axis.
template <class T>
struct FractionalJob {
  Buffer<const T> source;
  Buffer<const int64_t> begins;
  Buffer<int64_t> places;
  int64_t input[kSpatialAxes], kernel[kSpatialAxes], output[kSpatialAxes];
  int64_t first[kSpatialAxes];  // of an axis in a plane's list; -1: the axis is there for the rank's sake
  int64_t listed, results;
};

template <class T>
__global__ void __launch_bounds__(kPoolThreads) largest_places(const __grid_constant__ FractionalJob<T> job) {
  using A = decltype(widen_element(T{}));
  const int64_t i = thread_number();
  if (i >= job.results) return;
  int64_t plane = i, begin[kSpatialAxes];
  for (int axis = kSpatialAxes - 1; axis >= 0; --axis) {
    const int64_t o = plane % job.output[axis];
    plane /= job.output[axis];
    begin[axis] = o;
  }
  for (int axis = 0; axis < kSpatialAxes; ++axis) {
    begin[axis] = job.first[axis] < 0 ? 0 : job.begins[plane * job.listed + job.first[axis] + begin[axis]];
    require_inside(begin[axis], job.input[axis] - job.kernel[axis] + 1);
  }
  const int64_t base = plane * job.input[0] * job.input[1] * job.input[2];
  int64_t winner = -1;
  A best{};
  for (int64_t d = 0; d < job.kernel[0]; ++d)
    for (int64_t h = 0; h < job.kernel[1]; ++h)
      for (int64_t w = 0; w < job.kernel[2]; ++w) {
        const int64_t place = ((begin[0] + d) * job.input[1] + begin[1] + h) * job.input[2] + begin[2] + w;
        const A x = widen_element(job.source[base + place]);
        if (winner >= 0 && !(x > best || x != x)) continue;
        winner = place;
        best = x;
      }
  job.places[i] = winner;
}

Tensor fractional_max_places(const Tensor& input, const Tensor& begins, IntList kernel_size, IntList output_size) {
  const IntList ones(kernel_size.size(), 1), zeros(2 * kernel_size.size(), 0);
  const PoolProblem p = pool_problem(input, {kernel_size, ones, zeros, ones}, output_size);
  const int64_t listed = check_begins(begins, p, output_size);
  const DeviceScope device(input);
  const Tensor image = torch::stable::contiguous(input), starts = torch::stable::contiguous(begins);
  Tensor result = allocate(input, with_spatial(input, output_size), ScalarType::Long);
  with_poolable_type(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    FractionalJob<T> job{};
    job.source = reading<T>(image);
    job.begins = reading<int64_t>(starts);
    job.places = writing<int64_t>(result);
    job.listed = listed;
    job.results = result.numel();
    int64_t first = 0;
    for (int i = 0; i < kSpatialAxes; ++i) {
      job.input[i] = p.axis[i].input, job.kernel[i] = p.axis[i].kernel, job.output[i] = p.axis[i].output;
      const bool real = i >= kSpatialAxes - (static_cast<int>(input.dim()) - 2);
      job.first[i] = real ? first : -1;
      first += real ? p.axis[i].output : 0;
    }
    device.launch(largest_places<T>, shape_for(job.results), job);
  });
  return result;
}

template <class T, class Offset>
struct DrawJob {
  PoolJob<T, Offset> pool;
  Buffer<const double> uniform;  // has the strides of the codes
};

// The sums are float64, and run through the window twice in one order: as those of the CPU do.
template <class T, class Offset>
__global__ void __launch_bounds__(kPoolThreads) draw(const __grid_constant__ DrawJob<T, Offset> job) {
  PoolPlace<Offset> at;
  if (!find_result(job.pool.grid, at)) return;
  const auto positive = [](auto x) { return x > 0 ? static_cast<double>(x) : 0.0; };
  double sum = 0, running = 0;
  int32_t first = -1, drawn = -1;
  scan_window<1>(job.pool, at, [&](const auto(&x)[1], int32_t code) {
    sum += positive(x[0]);
    if (first < 0) first = code;
  });
  const Offset to = job.pool.code_strides.at(at);
  const double threshold = job.uniform[to] * sum;
  bool found = false;
  scan_window<1>(job.pool, at, [&](const auto(&x)[1], int32_t code) {
    if (found) return;
    running += positive(x[0]);
    if (x[0] > 0) drawn = code;  // rounding may leave the last sum at the threshold: the last positive one then
    found = x[0] > 0 && running > threshold;
  });
  job.pool.codes.set(to, drawn < 0 ? first : drawn);
}

Tensor stochastic_pool_offsets(const Tensor& input, const Tensor& uniform, IntList kernel_size, IntList stride,
                               IntList padding, IntList dilation) {
  const IntList output_size = spatial_sizes(uniform);
  const PoolProblem p = pool_problem(input, {kernel_size, stride, padding, dilation}, output_size);
  check_uniform(uniform, input);
  const DeviceScope device(input);
  const Tensor numbers = torch::stable::contiguous(uniform);
  Tensor offsets = allocate(input, with_spatial(input, output_size), offset_type(p));
  with_poolable_type(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    with_pool_job<T>({.problem = p, .source = input, .result = offsets, .offsets = &offsets},
                     [&]<class Offset>(const PoolJob<T, Offset>& pool) {
                       const DrawJob<T, Offset> job{pool, reading<double>(numbers)};
                       device.launch(draw<T, Offset>, shape_for(offsets.numel()), job);
                     });
  });
  return offsets;
}

STABLE_TORCH_LIBRARY_IMPL(convext, CONVEXT_DEVICE_KEY, m) {
  m.impl("place_gather", TORCH_BOX(&place_gather));
  m.impl("place_scatter", TORCH_BOX(&place_scatter));
  m.impl("fractional_max_places", TORCH_BOX(&fractional_max_places));
  m.impl("stochastic_pool_offsets", TORCH_BOX(&stochastic_pool_offsets));
}

}  // namespace
}  // namespace convext::cuda
