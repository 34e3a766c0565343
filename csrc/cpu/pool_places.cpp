// Operators on places, int64 indices into the planes of an image, and on windows that lie at random: one element at a
// time, in one fixed order, planes in parallel.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <limits>

#include "../allocate.h"
#include "../element_types.h"
#include "../pool_contract.h"
#include "parallel.h"
#include "pool_scatter.h"

namespace convext {
namespace {

int64_t product(const IntList& sizes) {
  int64_t n = 1;
  for (const int64_t size : sizes) n *= size;
  return n;
}

Tensor empty_image(const Tensor& like, const IntList& spatial, ScalarType type,
                   torch::headeronly::MemoryFormat format = torch::headeronly::MemoryFormat::Contiguous) {
  return empty_result(like, with_spatial(like, spatial), type, format);
}

// Remembers a place that lies outside of its plane, to be reported when all threads are done.
class Outside {
 public:
  bool check(int64_t place, int64_t size) {
    if (place >= 0 && place < size) return true;
    if (!found_.exchange(true, std::memory_order_relaxed)) place_ = place;
    return false;
  }
  void report(int64_t size) const {
    STD_TORCH_CHECK(!found_, "convext: expected places from 0 to ", size - 1, ", got ", place_);
  }

 private:
  std::atomic<bool> found_{false};
  int64_t place_ = 0;
};

Tensor place_gather(const Tensor& input, const Tensor& places) {
  check_places(input, places);
  const Tensor image = torch::stable::contiguous(input), index = torch::stable::contiguous(places);
  const int64_t size = product(spatial_sizes(input)), count = product(spatial_sizes(places));
  Tensor result = empty_image(input, spatial_sizes(places), input.scalar_type());
  Outside outside;
  with_real_type(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = static_cast<const T*>(image.const_data_ptr());
    const int64_t* at = index.const_data_ptr<int64_t>();
    T* to = static_cast<T*>(result.mutable_data_ptr());
    for_each_part(input.size(0) * input.size(1), result.numel(), 0, [&](int64_t begin, int64_t end, void*) {
      for (int64_t i = begin * count; i < end * count; ++i)
        to[i] = outside.check(at[i], size) ? from[i / count * size + at[i]] : T{};
    });
  });
  outside.report(size);
  return result;
}

// Places that are collected at a time.
constexpr int64_t kPart = int64_t{1} << 17;

// `count` values of a plane and their places among `size`.
template <class T>
struct ScatteredPlane {
  const T* from;
  const int64_t* at;
  int64_t count, size;
};

// One plane in parts, each collected in the sum type.
template <class T, class A, class Write>
void scatter_plane(const ScatteredPlane<T>& plane, bool accumulate, A* part, Outside& outside, const Write& write) {
  const auto [from, at, count, size] = plane;
  for (int64_t begin = 0; begin < size; begin += kPart) {
    const int64_t end = std::min(size, begin + kPart);
    std::fill_n(part, end - begin, A{0});
    for (int64_t i = 0; i < count; ++i) {
      if (!outside.check(at[i], size) || at[i] < begin || at[i] >= end) continue;
      A& to = part[at[i] - begin];
      to = accumulate ? static_cast<A>(to + widen(from[i])) : static_cast<A>(widen(from[i]));
    }
    for (int64_t i = begin; i < end; ++i) write(i, Narrow<T>::from(part[i - begin]));
  }
}

Tensor place_scatter(const Tensor& input, const Tensor& places, IntList output_size, bool accumulate) {
  check_scatter(input, places, output_size);
  const bool last = input.dim() == 4 && suggests_channels_last(input);
  using torch::headeronly::MemoryFormat;
  Tensor result = empty_image(input, output_size, input.scalar_type(),
                              last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  const Tensor image = torch::stable::contiguous(input), index = torch::stable::contiguous(places);
  const int64_t size = product(output_size), count = product(spatial_sizes(input)), channels = input.size(1);
  const Strides s = strides_of(result);
  const int64_t step = last ? s.axis[2] : 1;  // from place to place: both formats have the places in order
  Outside outside;
  with_real_type(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = decltype(widen(T{}));
    const T* from = static_cast<const T*>(image.const_data_ptr());
    const int64_t* at = index.const_data_ptr<int64_t>();
    T* to = static_cast<T*>(result.mutable_data_ptr());
    const int64_t bytes = std::min(size, kPart) * static_cast<int64_t>(sizeof(A));
    for_each_part(input.size(0) * channels, result.numel(), bytes, [&](int64_t begin, int64_t end, void* part) {
      for (int64_t i = begin; i < end; ++i) {
        T* plane = to + (last ? i / channels * s.outer + i % channels * s.channel : i * size);
        scatter_plane<T>({from + i * count, at + i * count, count, size}, accumulate, static_cast<A*>(part), outside,
                         [&](int64_t place, T value) { plane[place * step] = value; });
      }
    });
  });
  outside.report(size);
  return result;
}

// A window that reads up to three axes of a contiguous plane: visit(value, place) in torch's order.
template <class T, class Visit>
void scan_window(const T* plane, const PoolProblem& p, const int64_t (&begin)[3], const Visit& visit) {
  for (int64_t d = 0; d < p.axis[0].kernel; ++d)
    for (int64_t h = 0; h < p.axis[1].kernel; ++h) {
      const int64_t row = ((begin[0] + d) * p.axis[1].input + begin[1] + h) * p.axis[2].input + begin[2];
      for (int64_t w = 0; w < p.axis[2].kernel; ++w) visit(widen(plane[row + w]), row + w);
    }
}

Tensor fractional_max_places(const Tensor& input, const Tensor& begins, IntList kernel_size, IntList output_size) {
  const IntList ones(kernel_size.size(), 1), zeros(2 * kernel_size.size(), 0);
  const PoolProblem p = pool_problem(input, {kernel_size, ones, zeros, ones}, output_size);
  const int64_t rank = input.dim() - 2;
  const int64_t listed = check_begins(begins, p, output_size);
  const Tensor image = torch::stable::contiguous(input), starts = torch::stable::contiguous(begins);
  Tensor result = empty_image(input, output_size, ScalarType::Long);
  int64_t first[3] = {0, 0, 0};  // of each axis in a plane's list; leading axes of size one have none
  for (int i = kSpatialAxes - static_cast<int>(rank) + 1; i < kSpatialAxes; ++i)
    first[i] = first[i - 1] + p.axis[i - 1].output;
  Outside outside;
  with_real_type(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = decltype(widen(T{}));
    const T* from = static_cast<const T*>(image.const_data_ptr());
    const int64_t* list = starts.const_data_ptr<int64_t>();
    int64_t* to = result.mutable_data_ptr<int64_t>();
    const auto begin_of = [&](int64_t plane, int axis, int64_t o) {
      if (axis < kSpatialAxes - rank) return int64_t{0};
      const int64_t at = list[plane * listed + first[axis] + o];
      return outside.check(at, p.axis[axis].input - p.axis[axis].kernel + 1) ? at : int64_t{-1};
    };
    for_each_part(p.planes(), input.numel(), 0, [&](int64_t begin, int64_t end, void*) {
      for (int64_t i = begin * p.output_pixels(); i < end * p.output_pixels(); ++i) {
        const int64_t plane = i / p.output_pixels(), o = i % p.output_pixels();
        const int64_t row = o / p.axis[2].output;
        const int64_t at[3] = {begin_of(plane, 0, row / p.axis[1].output), begin_of(plane, 1, row % p.axis[1].output),
                               begin_of(plane, 2, o % p.axis[2].output)};
        to[i] = 0;
        if (at[0] < 0 || at[1] < 0 || at[2] < 0) continue;
        bool none = true;
        A best{};
        scan_window(from + plane * p.input_pixels(), p, at, [&](A x, int64_t place) {
          if (!none && !(x > best || x != x)) return;
          none = false;
          best = x;
          to[i] = place;
        });
      }
    });
  });
  outside.report(0);
  return result;
}

template <class T, class A, class Code>
void draw_offsets(const PoolProblem& p, const T* image, const double* uniform, Code* offsets) {
  const int64_t rows = p.axis[1].kernel, columns = p.axis[2].kernel;
  for_each_part(p.planes(), p.planes() * p.input_pixels(), 0, [&](int64_t begin, int64_t end, void*) {
    for (int64_t i = begin * p.output_pixels(); i < end * p.output_pixels(); ++i) {
      const T* plane = image + i / p.output_pixels() * p.input_pixels();
      const int64_t o = i % p.output_pixels(), row = o / p.axis[2].output;
      const PoolWindow d = window_at(p.axis[0], row / p.axis[1].output),
                       h = window_at(p.axis[1], row % p.axis[1].output), w = window_at(p.axis[2], o % p.axis[2].output);
      const auto scan = [&](const auto& visit) {
        for (int64_t td = d.first; td < d.last; ++td)
          for (int64_t th = h.first; th < h.last; ++th)
            for (int64_t tw = w.first; tw < w.last; ++tw) {
              const int64_t y =
                  (d.begin + td * p.axis[0].dilation) * p.axis[1].input + h.begin + th * p.axis[1].dilation;
              const A x = widen(plane[y * p.axis[2].input + w.begin + tw * p.axis[2].dilation]);
              if (!visit(x > 0 ? static_cast<double>(x) : 0.0, (td * rows + th) * columns + tw)) return;
            }
      };
      double sum = 0, running = 0;
      int64_t drawn = -1, first = -1;
      scan([&](double x, int64_t code) { return sum += x, first = first < 0 ? code : first, true; });
      scan([&](double x, int64_t code) {
        running += x;
        if (x > 0) drawn = code;  // rounding may leave the last sum at the threshold: the last positive one then
        return !(x > 0 && running > uniform[i] * sum);
      });
      offsets[i] = static_cast<Code>(drawn < 0 ? first : drawn);
    }
  });
}

Tensor stochastic_pool_offsets(const Tensor& input, const Tensor& uniform, IntList kernel_size, IntList stride,
                               IntList padding, IntList dilation) {
  const IntList output_size = spatial_sizes(uniform);
  const PoolProblem p = pool_problem(input, {kernel_size, stride, padding, dilation}, output_size);
  check_uniform(uniform, input);
  const Tensor image = torch::stable::contiguous(input), numbers = torch::stable::contiguous(uniform);
  Tensor offsets = empty_image(input, output_size, offset_type(p));
  with_real_type(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = decltype(widen(T{}));
    const T* from = static_cast<const T*>(image.const_data_ptr());
    const double* u = numbers.const_data_ptr<double>();
    switch (offset_bytes(p)) {
      case 1: return draw_offsets<T, A>(p, from, u, static_cast<uint8_t*>(offsets.mutable_data_ptr()));
      case 2: return draw_offsets<T, A>(p, from, u, static_cast<int16_t*>(offsets.mutable_data_ptr()));
      default: return draw_offsets<T, A>(p, from, u, static_cast<int32_t*>(offsets.mutable_data_ptr()));
    }
  });
  return offsets;
}

STABLE_TORCH_LIBRARY_IMPL(convext, CPU, m) {
  m.impl("place_gather", TORCH_BOX(&place_gather));
  m.impl("place_scatter", TORCH_BOX(&place_scatter));
  m.impl("fractional_max_places", TORCH_BOX(&fractional_max_places));
  m.impl("stochastic_pool_offsets", TORCH_BOX(&stochastic_pool_offsets));
}

}  // namespace
}  // namespace convext
