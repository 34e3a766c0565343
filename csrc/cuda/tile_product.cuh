// The product of two tiles in shared memory, summed in the registers of a block of kGemmThreads threads.
//
// A tile of `Rows` rows and kDepth numbers of each; how it lies in shared memory is the product's own affair (`place`).
// C is Rows x Columns, spread over the threads: each_sum visits a thread's part of it.
#pragma once

#include "ptx.cuh"

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
__device__ Quad<T> load_quad(const Buffer<T>& from, int i) {
  const T* address = from.at(i, Quad<T>::kCount);
#if defined(CONVEXT_EMULATED)
  emulator::check_aligned(address, 16);
#endif
  return *reinterpret_cast<const Quad<T>*>(address);
}

// One thread computes RowsOfThread x ColumnsOfThread elements of C by multiply-adds; strict float32, float64.
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

  template <int Rows>
  static constexpr int pitch() {
    return Rows + kGroup;
  }
  template <int Rows>
  static constexpr int elements() {
    return kDepth * pitch<Rows>();
  }
  template <int Rows>
  __device__ static int place(int row, int k) {
    return k * pitch<Rows>() + row;
  }

  __device__ void multiply(const Buffer<T>& a, const Buffer<T>& b) {
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      T x[kRowsOfThread], y[kColumnsOfThread];
      load(a, k * pitch<kRows>() + kGroup * down(), kDown, x);
      load(b, k * pitch<kColumns>() + kGroup * across(), kAcross, y);
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

// Tensor cores, bfloat16 and float16: four warps, two down and two across, of m16n8k16 products.
//
//   shared memory: row-major; a pitch of 24 elements (12 banks) lets the eight rows of a fragment meet all banks once
//
// Twice the depth would spill: every element of the next tile is on its way in a register.
template <class T, int Rows_, int Columns_>
class MmaProduct {
 public:
  static constexpr int kRows = Rows_, kColumns = Columns_, kDepth = 16;
  static constexpr int kRowsOfWarp = kRows / 2, kColumnsOfWarp = kColumns / 2;
  static constexpr int kM = kRowsOfWarp / 16, kN = kColumnsOfWarp / 8;  // products of a warp
  static constexpr int kPitch = kDepth + 8;

  template <int Rows>
  static constexpr int elements() {
    return Rows * kPitch;
  }
  template <int Rows>
  __device__ static int place(int row, int k) {
    return row * kPitch + k;
  }

  __device__ void multiply(const Buffer<T>& a, const Buffer<T>& b) {
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t x[kM][4], y[kN][2];
#pragma unroll
      for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int part = 0; part < 4; ++part)
          x[i][part] = pair(a, row0() + 16 * i + group() + part % 2 * 8, k + part / 2 * 8 + 2 * in_group());
#pragma unroll
      for (int j = 0; j < kN; ++j)
#pragma unroll
        for (int part = 0; part < 2; ++part)
          y[j][part] = pair(b, column0() + 8 * j + group(), k + part * 8 + 2 * in_group());
#pragma unroll
      for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int j = 0; j < kN; ++j) multiply_accumulate(sums_[i][j], x[i], y[j], T{});
    }
  }

  template <class Visit>
  __device__ void each_sum(const Visit& visit) {
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int j = 0; j < kN; ++j)
#pragma unroll
        for (int part = 0; part < 4; ++part)
          visit(row0() + 16 * i + group() + part / 2 * 8, column0() + 8 * j + 2 * in_group() + part % 2,
                sums_[i][j][part]);
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }
  __device__ static int group() { return lane() / 4; }
  __device__ static int in_group() { return lane() % 4; }
  __device__ static int row0() { return warp() / 2 * kRowsOfWarp; }
  __device__ static int column0() { return warp() % 2 * kColumnsOfWarp; }
  __device__ static uint32_t pair(const Buffer<T>& tile, int row, int k) {
    return *reinterpret_cast<const uint32_t*>(tile.at(row * kPitch + k, 2));
  }

  float sums_[kM][kN][4] = {};
};

// Which product a type gets, for a tile of that size.
template <class T, int Rows, int Columns>
struct ProductOf {
  using Type = FmaProduct<T, Rows, Columns>;
};
template <int Rows, int Columns>
struct ProductOf<BFloat16, Rows, Columns> {
  using Type = MmaProduct<BFloat16, Rows, Columns>;
};
template <int Rows, int Columns>
struct ProductOf<Half, Rows, Columns> {
  using Type = MmaProduct<Half, Rows, Columns>;
};

}  // namespace convext::cuda
