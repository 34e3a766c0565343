// The product of two tiles in shared memory, summed in the registers of a block of kGemmThreads threads.
//
// A product says in which order it wants its tiles (shared_tile.cuh). C is Rows x Columns, spread over the threads:
// each_sum visits a thread's part of it.
#pragma once

#include <type_traits>

#include "ptx.cuh"
#include "shared_tile.cuh"

namespace convext::cuda {

inline constexpr int kGemmThreads = 128;

// The type sums are kept in, and the conversions.
template <class T>
struct Summed {
  using Type = float;
};
template <>
struct Summed<double> {
  using Type = double;
};
template <class T>
using Sum_t = typename Summed<T>::Type;

__device__ inline float narrow_to(float x, float) { return x; }
__device__ inline double narrow_to(double x, double) { return x; }
__device__ inline BFloat16 narrow_to(float x, BFloat16) { return narrow_bfloat16(x); }
__device__ inline Half narrow_to(float x, Half) { return narrow_half(x); }

__device__ inline float widen_from(float x) { return x; }
__device__ inline double widen_from(double x) { return x; }
__device__ inline float widen_from(BFloat16 x) { return widen(x); }
__device__ inline float widen_from(Half x) { return widen_half(x); }

// 16 bytes, read at once.
template <class T>
struct alignas(16) Quad {
  static constexpr int kCount = 16 / sizeof(T);
  T value[kCount];
};
template <class T>
__device__ Quad<std::remove_const_t<T>> load_quad(const Buffer<T>& from, int i) {
  const T* address = from.at(i, Quad<T>::kCount);
#if defined(CONVEXT_EMULATED)
  emulator::check_aligned(address, 16);
#endif
  return *reinterpret_cast<const Quad<std::remove_const_t<T>>*>(address);
}
template <class T>
__device__ void store_quad(const Buffer<T>& to, int i, const Quad<T>& quad) {
  T* address = to.at(i, Quad<T>::kCount);
#if defined(CONVEXT_EMULATED)
  emulator::check_aligned(address, 16);
#endif
  *reinterpret_cast<Quad<T>*>(address) = quad;
}

// One thread computes RowsOfThread x ColumnsOfThread elements of C by multiply-adds: strict float32.
//
//   shared memory: k-major, so that 16 bytes are neighbouring rows; a thread's rows are in groups of 16 bytes, `Across`
//   groups apart, so that the threads of a warp read without bank conflicts.
//
// A chain of additions loses accuracy with its length: after every kChain numbers the sums move to totals, which keeps
// the error of float32 below 1e-6 (measured: a chain of 4608 has 1.1e-6).
template <class T, int Rows_, int Columns_>
class FmaProduct {
 public:
  static constexpr int kRows = Rows_, kColumns = Columns_, kDepth = 16;
  static constexpr int kAcross = 16, kDown = kGemmThreads / kAcross;  // threads along the columns and the rows
  static constexpr int kGroup = Quad<T>::kCount;
  static constexpr int kRowsOfThread = kRows / kDown, kColumnsOfThread = kColumns / kAcross;
  static_assert(kRowsOfThread % kGroup == 0 && kColumnsOfThread % kGroup == 0);

  using TileA = DepthMajorTile<T, kRows, kDepth>;
  using TileB = DepthMajorTile<T, kColumns, kDepth>;

  __device__ void multiply(const Buffer<T>& a, const Buffer<T>& b) {
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      T x[kRowsOfThread], y[kColumnsOfThread];
      load(a, TileA::place(kGroup * down(), k), kDown, x);
      load(b, TileB::place(kGroup * across(), k), kAcross, y);
#pragma unroll
      for (int i = 0; i < kRowsOfThread; ++i)
#pragma unroll
        for (int j = 0; j < kColumnsOfThread; ++j) sums_[i][j] += x[i] * y[j];
    }
    if (++chain_ == kChain / kDepth) flush();
  }

  template <class Visit>
  __device__ void each_sum(const Visit& visit) {
    flush();
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i)
#pragma unroll
      for (int j = 0; j < kColumnsOfThread; ++j)
        visit((i / kGroup * kDown + down()) * kGroup + i % kGroup,
              (j / kGroup * kAcross + across()) * kGroup + j % kGroup, totals_[i][j]);
  }

 private:
  static constexpr int kChain = 256;

  __device__ static int down() { return static_cast<int>(threadIdx.x) / kAcross; }
  __device__ static int across() { return static_cast<int>(threadIdx.x) % kAcross; }

  template <int Count>
  __device__ static void load(const Buffer<T>& from, int first, int groups, T (&to)[Count]) {
#pragma unroll
    for (int i = 0; i < Count; i += kGroup) {
      const Quad<T> quad = load_quad(from, first + i * groups);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) to[i + j] = quad.value[j];
    }
  }

  __device__ void flush() {
    chain_ = 0;
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i)
#pragma unroll
      for (int j = 0; j < kColumnsOfThread; ++j) totals_[i][j] += sums_[i][j], sums_[i][j] = 0;
  }

  T sums_[kRowsOfThread][kColumnsOfThread] = {}, totals_[kRowsOfThread][kColumnsOfThread] = {};
  int chain_ = 0;
};

}  // namespace convext::cuda
