// unfold (im2col) and fold (col2im) on CUDA: a thread moves one element of the columns, or 16 bytes of them, or sums
// one of the image. Memory sees one write for each element of the columns, and one read for each of the image.
//
// unfold looks at no element, so that its kernels are told apart by the element's size alone. fold gathers: each
// element of the image adds up the columns that unfold would have copied it to, in a fixed order.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "../contract.h"
#include "../element_types.h"
#include "launch.cuh"
#include "pool_windows.cuh"

namespace convext::cuda {
namespace {

constexpr int kThreads = 128;

struct alignas(16) SixteenBytes {
  uint64_t half[2];
};
struct Bool {
  uint8_t value;
};

// What fold adds in: float32 for the half types, modulo 2^64 for integers, "or" for bool.
template <class T, bool = std::is_integral_v<T>>
struct FoldSum {
  Sum_t<T> sum = 0;
  __device__ void add(T x) { sum += widen_from(x); }
  __device__ T result() const { return narrow_to(sum, T{}); }
};
template <class T>
struct FoldSum<T, true> {
  uint64_t sum = 0;
  __device__ void add(T x) { sum += static_cast<uint64_t>(x); }
  __device__ T result() const { return static_cast<T>(sum); }
};
template <class R>
struct FoldSum<Complex<R>, false> {
  R re = 0, im = 0;
  __device__ void add(Complex<R> x) { re += x.re, im += x.im; }
  __device__ Complex<R> result() const { return {re, im}; }
};
template <>
struct FoldSum<Bool, false> {
  bool any = false;
  __device__ void add(Bool x) { any = any || x.value != 0; }
  __device__ Bool result() const { return {static_cast<uint8_t>(any)}; }
};

template <class T, class Offset>
struct UnfoldJob {
  Buffer<const T> source;
  Buffer<T> result;
  PoolSide<Offset> axis[kSpatialAxes];  // results: outputs of unfold, inputs of fold
  Divisor<Offset> kernel[kSpatialAxes], channels;
  PoolStrides<Offset> image;  // of unfold
  Offset sample, row, block;  // of the columns that fold reads
  Offset results;
};

template <class Offset>
__device__ Offset take(Offset& number, const Divisor<Offset>& size) {
  const Offset rest = size.quotient(number), digit = number - rest * size.value();
  number = rest;
  return digit;
}

// A thread copies `Lanes` neighbouring elements of a row of the columns: one, or 16 bytes, which it writes at once and
// for which it divides once.
template <class T, class Offset, int Lanes>
__global__ void __launch_bounds__(kThreads) unfold_elements(const __grid_constant__ UnfoldJob<T, Offset> job) {
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * Lanes;
  if (index >= job.results) return;
  Offset number = static_cast<Offset>(index), o[kSpatialAxes], tap[kSpatialAxes];
#pragma unroll
  for (int i = kSpatialAxes - 1; i >= 0; --i) o[i] = take(number, job.axis[i].size);
#pragma unroll
  for (int i = kSpatialAxes - 1; i >= 0; --i) tap[i] = take(number, job.kernel[i]) * job.axis[i].dilation;
  const Offset channel = take(number, job.channels);
  const Offset plane = number * job.image.sample + channel * job.image.channel;
  T values[Lanes];
#pragma unroll
  for (int lane = 0; lane < Lanes; ++lane) {
    Offset x[kSpatialAxes];
    bool inside = true;
#pragma unroll
    for (int i = 0; i < kSpatialAxes; ++i) {
      x[i] = job.axis[i].begin(o[i]) + tap[i];
      inside = inside && x[i] >= 0 && x[i] < job.axis[i].input;
    }
    values[lane] = inside ? job.source[plane + job.image.pixel(x[0], x[1], x[2])] : T{};
    if (++o[2] < job.axis[2].size.value()) continue;
    o[2] = 0;
    if (++o[1] < job.axis[1].size.value()) continue;
    o[1] = 0, ++o[0];
  }
  if constexpr (Lanes == 1) {
    job.result[static_cast<Offset>(index)] = values[0];
  } else {
    Quad<T> quad;
#pragma unroll
    for (int lane = 0; lane < Lanes; ++lane) quad.value[lane] = values[lane];
    store_quad(job.result, static_cast<int>(index), quad);
  }
}

template <class T, class Offset>
__global__ void __launch_bounds__(kThreads) fold_elements(const __grid_constant__ UnfoldJob<T, Offset> job) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= job.results) return;
  Offset number = static_cast<Offset>(index), x[kSpatialAxes];
  const PoolSide<Offset>&d = job.axis[0], &h = job.axis[1], &w = job.axis[2];
#pragma unroll
  for (int i = kSpatialAxes - 1; i >= 0; --i) x[i] = take(number, job.axis[i].size);
  const Offset channel = take(number, job.channels);
  const Offset first = number * job.sample;
  FoldSum<T> sum;
  d.each_window(x[0], [&](Offset od, Offset td) {
    h.each_window(x[1], [&](Offset oh, Offset th) {
      w.each_window(x[2], [&](Offset ow, Offset tw) {
        const Offset row = ((channel * d.kernel + td) * h.kernel + th) * w.kernel + tw;
        const Offset block = (od * h.output.value() + oh) * w.output.value() + ow;
        sum.add(job.source[first + row * job.row + block * job.block]);
      });
    });
  });
  job.result[static_cast<Offset>(index)] = sum.result();
}

// --- host ------------------------------------------------------------------------------------------------------------

PoolAxis as_pool(const ConvAxis& a) { return {a.input, a.output, a.kernel, a.stride, a.dilation, a.lo, a.hi, false}; }

bool needs_wide_offsets(const UnfoldProblem& p, const Tensor& source, const Tensor& result) {
  int64_t largest = std::max(extent_of(source), extent_of(result));
  for (const ConvAxis& a : p.axis)
    largest = std::max(
        {largest, a.input + kernel_extent(a) + std::max<int64_t>(a.lo, 0), a.output * a.stride + kernel_extent(a)});
  return largest >= narrow_offsets();
}

template <class T, class Launch>
void with_job(const UnfoldProblem& p, const Tensor& source, Tensor& result, bool fold, const Launch& launch) {
  if (result.numel() == 0) return;
  const auto fill = [&](auto zero) {
    using Offset = decltype(zero);
    UnfoldJob<T, Offset> job{};
    job.source = reading<T>(source);
    job.result = writing<T>(result);
    for (int i = 0; i < kSpatialAxes; ++i) {
      job.axis[i] = PoolSide<Offset>(as_pool(p.axis[i]), fold);
      job.kernel[i] = Divisor<Offset>(p.axis[i].kernel);
    }
    job.channels = Divisor<Offset>(p.channels);
    if (fold) {
      job.sample = static_cast<Offset>(source.stride(0));
      job.row = static_cast<Offset>(source.stride(1));
      job.block = static_cast<Offset>(source.stride(2));
    } else {
      job.image = PoolStrides<Offset>(strides_of(source));
    }
    job.results = static_cast<Offset>(result.numel());
    launch(job, LaunchShape{(result.numel() + kThreads - 1) / kThreads, kThreads});
  };
  if (needs_wide_offsets(p, source, result)) return fill(int64_t{});
  fill(int32_t{});
}

Tensor unfold(const Tensor& input, IntList kernel_size, IntList dilation, IntList padding, IntList stride) {
  const UnfoldProblem p = unfold_problem(input, {kernel_size, dilation, padding, stride});
  const DeviceScope device(input);
  Tensor columns = allocate(input, {p.batch, p.channels * unfold_taps(p), unfold_blocks(p)}, input.scalar_type());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    with_job<T>(p, input, columns, false, [&]<class Offset>(const UnfoldJob<T, Offset>& job, const LaunchShape& shape) {
      if constexpr (sizeof(Offset) == 4 && Quad<T>::kCount > 1) {
        constexpr int kLanes = Quad<T>::kCount;
        if (unfold_blocks(p) % kLanes == 0) {  // the columns are new: their memory is aligned
          const int64_t threads = columns.numel() / kLanes;
          return device.launch(unfold_elements<T, Offset, kLanes>, {(threads + kThreads - 1) / kThreads, kThreads},
                               job);
        }
      }
      device.launch(unfold_elements<T, Offset, 1>, shape, job);
    });
  };
  switch (input.element_size()) {
    case 1: run(uint8_t{}); break;
    case 2: run(uint16_t{}); break;
    case 4: run(uint32_t{}); break;
    case 8: run(uint64_t{}); break;
    case 16: run(SixteenBytes{}); break;
    default: STD_TORCH_CHECK(false, "convext: elements of ", input.element_size(), " bytes");
  }
  return columns;
}

Tensor fold(const Tensor& input, IntList output_size, IntList kernel_size, IntList dilation, IntList padding,
            IntList stride) {
  const UnfoldProblem p = fold_problem(input, output_size, {kernel_size, dilation, padding, stride});
  const DeviceScope device(input);
  IntList sizes{p.batch, p.channels};
  sizes.insert(sizes.end(), output_size.begin(), output_size.end());
  Tensor image = allocate(input, sizes, input.scalar_type());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    with_job<T>(p, input, image, true, [&]<class Offset>(const UnfoldJob<T, Offset>& job, const LaunchShape& shape) {
      device.launch(fold_elements<T, Offset>, shape, job);
    });
  };
  if (input.scalar_type() == ScalarType::Bool) {
    run(Bool{});
  } else {
    with_element_type(input.scalar_type(), run);
  }
  return image;
}

STABLE_TORCH_LIBRARY_IMPL(convext, CONVEXT_DEVICE_KEY, m) {
  m.impl("unfold", TORCH_BOX(&unfold));
  m.impl("fold", TORCH_BOX(&fold));
}

}  // namespace
}  // namespace convext::cuda
