// The kernels of pooling: a thread for each result, forward and backward, or for several.
//
//   Lanes      results of a thread. More than one: 16 bytes of neighbouring channels, read and written at once; windows
//              are found once for all of them
//   forward    a thread reads its window; neighbours share what they read through the L1 cache
//   backward   a thread gathers from the windows that hold its element, in a fixed order: no atomics, the same bits in
//              every run. Of max pooling it takes the gradients of the windows whose recorded winner it is.
#pragma once

#include <cmath>
#include <limits>

#include "pool_windows.cuh"

namespace convext::cuda {

// Four blocks for each multiprocessor: without the number ptxas aims at more, and spills.
inline constexpr int kPoolThreads = 128, kPoolBlocks = 4;

enum class PoolKind { kLargest, kSum, kRoot };

template <class T, class Offset>
struct PoolJob {
  PoolGrid<Offset> grid;
  Buffer<const T> source;
  Buffer<T> result;
  PoolStrides<Offset> source_strides, result_strides, code_strides;
  PoolCodes codes;
  bool minimum = false, include_pad = true;
  int64_t divisor = 0;  // 0: what a window counts
};

template <int Lanes = 1, class Offset>
__device__ bool find_result(const PoolGrid<Offset>& grid, PoolPlace<Offset>& at) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (index >= grid.results) return false;
  at = grid.place(static_cast<Offset>(index));
  at.channel *= Lanes;
  return true;
}

// Integers are compared and added as they are.
template <class T>
__device__ auto widen_element(T x) {
  if constexpr (std::is_integral_v<T>) {
    return widen(x);
  } else {
    return widen_from(x);
  }
}
template <class T, class A>
__device__ T narrow_element(A x) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(x);
  } else {
    return narrow_to(x, T{});
  }
}

// A job of 16 bytes of channels for each thread.
template <int Lanes, class T>
PoolJob<T, int32_t> job_of_lanes(PoolJob<T, int32_t> job) {
  job.grid.channels = Divisor<int32_t>(job.grid.channels.value() / Lanes);
  job.grid.results /= Lanes;
  return job;
}

template <int Lanes, class T, class Offset, class A>
__device__ void load_lanes(const Buffer<const T>& from, Offset at, A (&to)[Lanes]) {
  if constexpr (Lanes == 1) {
    to[0] = widen_element(from[at]);
  } else {
    static_assert(Lanes == Quad<T>::kCount);
    const Quad<T> quad = load_quad(from, at);
#pragma unroll
    for (int lane = 0; lane < Lanes; ++lane) to[lane] = widen_element(quad.value[lane]);
  }
}
template <int Lanes, class T, class Offset, class A>
__device__ void store_lanes(const Buffer<T>& to, Offset at, const A (&from)[Lanes]) {
  if constexpr (Lanes == 1) {
    to[at] = narrow_element<T>(from[0]);
  } else {
    Quad<T> quad;
#pragma unroll
    for (int lane = 0; lane < Lanes; ++lane) quad.value[lane] = narrow_element<T>(from[lane]);
    store_quad(to, at, quad);
  }
}

// Calls visit(elements, code) for every place of a window that lies inside.
template <int Lanes, class T, class Offset, class Visit>
__device__ void scan_window(const PoolJob<T, Offset>& job, const PoolPlace<Offset>& at, const Visit& visit) {
  const PoolSide<Offset>&d = job.grid.axis[0], &h = job.grid.axis[1], &w = job.grid.axis[2];
  const Offset plane = job.source_strides.plane(at);
  const Offset bd = d.begin(at.x[0]), bh = h.begin(at.x[1]), bw = w.begin(at.x[2]);
  const Offset depth = d.taps(at.x[0]), rows = h.taps(at.x[1]), columns = w.taps(at.x[2]);
  for (Offset td = 0; td < depth; ++td) {
    const Offset xd = bd + td * d.dilation;
    if (!d.inside(xd)) continue;
    for (Offset th = 0; th < rows; ++th) {
      const Offset xh = bh + th * h.dilation;
      if (!h.inside(xh)) continue;
      for (Offset tw = 0; tw < columns; ++tw) {
        const Offset xw = bw + tw * w.dilation;
        if (!w.inside(xw)) continue;
        decltype(widen_element(T{})) x[Lanes];
        load_lanes(job.source, plane + job.source_strides.pixel(xd, xh, xw), x);
        visit(x, static_cast<int32_t>((td * h.kernel + th) * w.kernel + tw));
      }
    }
  }
}

template <class T, class Offset, int Lanes>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks) largest(const __grid_constant__ PoolJob<T, Offset> job) {
  PoolPlace<Offset> at;
  if (!find_result<Lanes>(job.grid, at)) return;
  using A = decltype(widen_element(T{}));
  A least{};
  if constexpr (std::is_integral_v<T>) {
    least = job.minimum ? std::numeric_limits<T>::max() : std::numeric_limits<T>::min();
  } else {
    least = job.minimum ? std::numeric_limits<A>::infinity() : -std::numeric_limits<A>::infinity();
  }
  A best[Lanes];
  int32_t winner[Lanes];
#pragma unroll
  for (int lane = 0; lane < Lanes; ++lane) best[lane] = least, winner[lane] = -1;
  scan_window<Lanes>(job, at, [&](const A(&x)[Lanes], int32_t code) {
#pragma unroll
    for (int lane = 0; lane < Lanes; ++lane) {
      // a NaN wins over everything before it; until something wins, the first element inside has
      const bool wins = x[lane] != x[lane] || (job.minimum ? x[lane] < best[lane] : x[lane] > best[lane]);
      if (wins || winner[lane] < 0) winner[lane] = code;
      if (wins) best[lane] = x[lane];
    }
  });
  store_lanes(job.result, job.result_strides.at(at), best);
  if constexpr (Lanes == 1) {
    job.codes.set(job.code_strides.at(at), winner[0]);
  } else {
    job.codes.set(job.code_strides.at(at), winner);
  }
}

template <class A, class T, class Offset>
__device__ A divisor_of(const PoolJob<T, Offset>& job, Offset d, Offset h, Offset w) {
  if (job.divisor != 0) return static_cast<A>(job.divisor);
  const PoolGrid<Offset>& g = job.grid;
  return static_cast<A>(g.axis[0].count(d, job.include_pad)) * static_cast<A>(g.axis[1].count(h, job.include_pad)) *
         static_cast<A>(g.axis[2].count(w, job.include_pad));
}

template <class T, class Offset, PoolKind Kind, int Lanes>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks) average(const __grid_constant__ PoolJob<T, Offset> job) {
  PoolPlace<Offset> at;
  if (!find_result<Lanes>(job.grid, at)) return;
  using A = decltype(widen_element(T{}));
  constexpr int kChain = 256;
  A sum[Lanes] = {}, chain[Lanes] = {};  // rounding errors grow with a chain of additions
  int length = 0;
  scan_window<Lanes>(job, at, [&](const A(&x)[Lanes], int32_t) {
    const bool full = ++length % kChain == 0;
#pragma unroll
    for (int lane = 0; lane < Lanes; ++lane) {
      chain[lane] += Kind == PoolKind::kRoot ? x[lane] * x[lane] : x[lane];
      if (full) sum[lane] += chain[lane], chain[lane] = 0;
    }
  });
  const A divisor = divisor_of<A>(job, at.x[0], at.x[1], at.x[2]);
#pragma unroll
  for (int lane = 0; lane < Lanes; ++lane) {
    sum[lane] = (sum[lane] + chain[lane]) / divisor;
    if constexpr (Kind == PoolKind::kRoot) {
      const PoolGrid<Offset>& g = job.grid;
      const int64_t taps = static_cast<int64_t>(g.axis[0].kernel) * g.axis[1].kernel * g.axis[2].kernel;
      sum[lane] = std::sqrt(sum[lane] * static_cast<A>(taps));
    }
  }
  store_lanes(job.result, job.result_strides.at(at), sum);
}

// Results are inputs here, `source` is the gradient to the output.
template <class T, class Offset, PoolKind Kind, int Lanes>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks) adjoint(const __grid_constant__ PoolJob<T, Offset> job) {
  PoolPlace<Offset> at;
  if (!find_result<Lanes>(job.grid, at)) return;
  const PoolSide<Offset>&d = job.grid.axis[0], &h = job.grid.axis[1], &w = job.grid.axis[2];
  const Offset plane = job.source_strides.plane(at), codes = job.code_strides.plane(at);
  using A = Sum_t<T>;
  A sum[Lanes] = {};
  d.each_window(at.x[0], [&](Offset od, Offset td) {
    h.each_window(at.x[1], [&](Offset oh, Offset th) {
      A row[Lanes] = {};
      w.each_window(at.x[2], [&](Offset ow, Offset tw) {
        A grad[Lanes];
        const Offset from = plane + job.source_strides.pixel(od, oh, ow);
        if constexpr (Kind == PoolKind::kLargest) {
          const int32_t code = static_cast<int32_t>((td * h.kernel + th) * w.kernel + tw);
          const Offset at_code = codes + job.code_strides.pixel(od, oh, ow);
          if constexpr (Lanes == 1) {
            if (job.codes.get(at_code) == code) row[0] += widen_from(job.source[from]);
          } else {
            int32_t winner[Lanes];
            job.codes.get(at_code, winner);
            load_lanes(job.source, from, grad);
#pragma unroll
            for (int lane = 0; lane < Lanes; ++lane)
              if (winner[lane] == code) row[lane] += grad[lane];
          }
        } else {
          load_lanes(job.source, from, grad);
          const A divisor = divisor_of<A>(job, od, oh, ow);
#pragma unroll
          for (int lane = 0; lane < Lanes; ++lane) row[lane] += grad[lane] / divisor;
        }
      });
#pragma unroll
      for (int lane = 0; lane < Lanes; ++lane) sum[lane] += row[lane];
    });
  });
  store_lanes(job.result, job.result_strides.at(at), sum);
}

// The backward of L2 pooling: `pool` is that of `adjoint`, with the gradient as its source.
template <class T, class Offset>
struct RootAdjointJob {
  PoolJob<T, Offset> pool;
  Buffer<const T> output, image;
  PoolStrides<Offset> output_strides, image_strides;
};

template <class T, class Offset>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    root_adjoint(const __grid_constant__ RootAdjointJob<T, Offset> job) {
  const PoolGrid<Offset>& grid = job.pool.grid;
  PoolPlace<Offset> at;
  if (!find_result(grid, at)) return;
  const PoolSide<Offset>&d = grid.axis[0], &h = grid.axis[1], &w = grid.axis[2];
  const Offset grads = job.pool.source_strides.plane(at), outputs = job.output_strides.plane(at);
  const Sum_t<T> taps = static_cast<Sum_t<T>>(static_cast<int64_t>(d.kernel) * h.kernel * w.kernel);
  Sum_t<T> sum = 0;
  d.each_window(at.x[0], [&](Offset od, Offset) {
    h.each_window(at.x[1], [&](Offset oh, Offset) {
      Sum_t<T> row = 0;
      w.each_window(at.x[2], [&](Offset ow, Offset) {
        const Sum_t<T> output = widen_from(job.output[outputs + job.output_strides.pixel(od, oh, ow)]);
        if (output == 0) return;
        const Sum_t<T> grad = widen_from(job.pool.source[grads + job.pool.source_strides.pixel(od, oh, ow)]);
        row += taps * grad / output / divisor_of<Sum_t<T>>(job.pool, od, oh, ow);
      });
      sum += row;
    });
  });
  job.pool.result[job.pool.result_strides.at(at)] =
      narrow_to(widen_from(job.image[job.image_strides.at(at)]) * sum, T{});
}

// The place of each window's winner in its plane, or -1.
template <class Offset>
__device__ int64_t winner_of(const PoolGrid<Offset>& grid, const PoolPlace<Offset>& at, int32_t code) {
  const PoolSide<Offset>&d = grid.axis[0], &h = grid.axis[1], &w = grid.axis[2];
  if (code < 0 || code >= static_cast<int64_t>(d.kernel) * h.kernel * w.kernel) return -1;
  const Offset number = static_cast<Offset>(code);
  const int64_t xd = d.begin(at.x[0]) + number / (h.kernel * w.kernel) * d.dilation;
  const int64_t xh = h.begin(at.x[1]) + number / w.kernel % h.kernel * h.dilation;
  const int64_t xw = w.begin(at.x[2]) + number % w.kernel * w.dilation;
  const bool inside = xd >= 0 && xd < d.input && xh >= 0 && xh < h.input && xw >= 0 && xw < w.input;
  return inside ? (xd * h.input + xh) * w.input + xw : -1;
}

template <class Offset>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    indices(const __grid_constant__ PoolJob<int64_t, Offset> job) {
  PoolPlace<Offset> at;
  if (!find_result(job.grid, at)) return;
  job.result[job.result_strides.at(at)] = winner_of(job.grid, at, job.codes.get(job.code_strides.at(at)));
}

// `source` is contiguous; T stands for any type of its size.
template <class T, class Offset>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks) gather(const __grid_constant__ PoolJob<T, Offset> job) {
  PoolPlace<Offset> at;
  if (!find_result(job.grid, at)) return;
  const int64_t place = winner_of(job.grid, at, job.codes.get(job.code_strides.at(at)));
  job.result[job.result_strides.at(at)] =
      place < 0 ? T{0} : job.source[job.source_strides.plane(at) + static_cast<Offset>(place)];
}

}  // namespace convext::cuda
