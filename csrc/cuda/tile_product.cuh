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

// What a tensor core takes at once: A of kM x kK, B of kK x kN, the registers of a lane for each, and where they are
// read in a row-major tile. `pad` numbers between rows let the lanes of a fragment meet all banks once.
template <class T>
struct Fragments {  // bfloat16 and float16
  static constexpr int kM = 16, kN = 8, kK = 16, kPad = 8;
  using A = uint32_t[4];
  using B = uint32_t[2];
  using Sums = float[4];

  __device__ static void load_a(const Buffer<T>& tile, int pitch, int row, int k, A& a) {
#pragma unroll
    for (int part = 0; part < 4; ++part)
      a[part] = pair(tile, (row + group() + part % 2 * 8) * pitch + k + part / 2 * 8 + 2 * in_group());
  }
  __device__ static void load_b(const Buffer<T>& tile, int pitch, int column, int k, B& b) {
#pragma unroll
    for (int part = 0; part < 2; ++part)
      b[part] = pair(tile, (column + group()) * pitch + k + part * 8 + 2 * in_group());
  }
  __device__ static void multiply(Sums& sums, const A& a, const B& b) { multiply_accumulate(sums, a, b, T{}); }

  __device__ static int group() { return static_cast<int>(threadIdx.x) % 32 / 4; }
  __device__ static int in_group() { return static_cast<int>(threadIdx.x) % 4; }

 private:
  __device__ static uint32_t pair(const Buffer<T>& tile, int at) {
    return *reinterpret_cast<const uint32_t*>(tile.at(at, 2));
  }
};

template <>
struct Fragments<double> {
  static constexpr int kM = 8, kN = 8, kK = 4, kPad = 4;
  using A = double;
  using B = double;
  using Sums = double[2];

  __device__ static void load_a(const Buffer<double>& tile, int pitch, int row, int k, A& a) {
    a = tile[(row + group()) * pitch + k + in_group()];
  }
  __device__ static void load_b(const Buffer<double>& tile, int pitch, int column, int k, B& b) {
    b = tile[(column + group()) * pitch + k + in_group()];
  }
  __device__ static void multiply(Sums& sums, A a, B b) { multiply_accumulate(sums, a, b); }

  __device__ static int group() { return static_cast<int>(threadIdx.x) % 32 / 4; }
  __device__ static int in_group() { return static_cast<int>(threadIdx.x) % 4; }
};

// Tensor cores: four warps, two down and two across, each with a rectangle of fragments.
//
// Twice the depth would spill in the types of two bytes: every element of the next tile is on its way in a register.
template <class T, int Rows_, int Columns_>
class MmaProduct {
  using F = Fragments<T>;

 public:
  static constexpr int kRows = Rows_, kColumns = Columns_, kDepth = 16;
  static constexpr int kRowsOfWarp = kRows / 2, kColumnsOfWarp = kColumns / 2;
  static constexpr int kM = kRowsOfWarp / F::kM, kN = kColumnsOfWarp / F::kN;  // products of a warp
  static constexpr int kPitch = kDepth + F::kPad;

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
    for (int k = 0; k < kDepth; k += F::kK) {
      typename F::A x[kM];
      typename F::B y[kN];
#pragma unroll
      for (int i = 0; i < kM; ++i) F::load_a(a, kPitch, row0() + F::kM * i, k, x[i]);
#pragma unroll
      for (int j = 0; j < kN; ++j) F::load_b(b, kPitch, column0() + F::kN * j, k, y[j]);
#pragma unroll
      for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int j = 0; j < kN; ++j) F::multiply(sums_[i][j], x[i], y[j]);
    }
  }

  template <class Visit>
  __device__ void each_sum(const Visit& visit) {
    constexpr int kParts = F::kM * F::kN / 32;
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int j = 0; j < kN; ++j)
#pragma unroll
        for (int part = 0; part < kParts; ++part)
          visit(row0() + F::kM * i + F::group() + part / 2 * 8, column0() + F::kN * j + 2 * F::in_group() + part % 2,
                sums_[i][j][part]);
  }

 private:
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }
  __device__ static int row0() { return warp() / 2 * kRowsOfWarp; }
  __device__ static int column0() { return warp() % 2 * kColumnsOfWarp; }

  typename F::Sums sums_[kM][kN] = {};
};

// Which product a type gets, for a tile of that size: float32 is strict.
template <class T, int Rows, int Columns>
struct ProductOf {
  using Type = MmaProduct<T, Rows, Columns>;
};
template <int Rows, int Columns>
struct ProductOf<float, Rows, Columns> {
  using Type = FmaProduct<float, Rows, Columns>;
};

}  // namespace convext::cuda
