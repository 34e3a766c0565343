// The product of two tiles on tensor cores: four warps, two down and two across, each with a rectangle of fragments.
#pragma once

#include "ptx.cuh"
#include "shared_tile.cuh"
#include "tile_product.cuh"

namespace convext::cuda {

// What a tensor core takes at once: A of kM x kK, B of kK x kN, the registers of a lane for each, and how they are read
// from a tile, of A one fragment and of B two side by side. bfloat16, float16, and float32 as TF32: two chunks deep.
template <class T>
struct Fragments {
  static constexpr int kM = 16, kN = 8, kK = 2 * kRun<T>;
  static constexpr bool kTf32 = sizeof(T) == 4;
  using A = uint32_t[4];
  using B = uint32_t[2];
  using Sums = float[4];
  template <int Rows, int Depth, bool AlongDepth>
  using Tile = SwizzledTile<T, Rows, Depth, AlongDepth>;

  // The four 8 x 8 matrices of ldmatrix are the registers of A: rows 0 to 7 and 8 to 15 of the first chunk of k, then
  // of the second. Lane 8 i + j gives the place of line j of matrix i.
  template <class Tile>
  __device__ static void load_a(const Buffer<T>& tile, int row, int k, A& a) {
    const int line = lane() % 8, matrix = lane() / 8;
    if constexpr (Tile::kAlongDepth) {
      load_matrices(a, chunk(tile, Tile::place(row + matrix % 2 * 8 + line, k + matrix / 2 * kRun<T>)));
    } else if constexpr (kTf32) {
#pragma unroll
      for (int part = 0; part < 4; ++part)
        a[part] = float_bits(tile[Tile::place(row + group() + part % 2 * 8, k + in_group() + part / 2 * 4)]);
    } else {
      load_matrices_transposed(a, chunk(tile, Tile::place(row + matrix % 2 * 8, k + matrix / 2 * 8 + line)));
    }
    round(a);
  }
  // Of B they are the first and the second chunk of k of columns 0 to 7, then of columns 8 to 15.
  template <class Tile>
  __device__ static void load_b(const Buffer<T>& tile, int column, int k, B& left, B& right) {
    const int line = lane() % 8, matrix = lane() / 8;
    uint32_t both[4];
    if constexpr (Tile::kAlongDepth) {
      load_matrices(both, chunk(tile, Tile::place(column + matrix / 2 * 8 + line, k + matrix % 2 * kRun<T>)));
    } else if constexpr (kTf32) {
#pragma unroll
      for (int part = 0; part < 4; ++part)
        both[part] = float_bits(tile[Tile::place(column + group() + part / 2 * 8, k + in_group() + part % 2 * 4)]);
    } else {
      load_matrices_transposed(both, chunk(tile, Tile::place(column + matrix / 2 * 8, k + matrix % 2 * 8 + line)));
    }
    round(both);
    left[0] = both[0], left[1] = both[1], right[0] = both[2], right[1] = both[3];
  }
  __device__ static void multiply(Sums& sums, const A& a, const B& b) { multiply_accumulate(sums, a, b, T{}); }

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int group() { return lane() / 4; }
  __device__ static int in_group() { return lane() % 4; }

 private:
  __device__ static const T* chunk(const Buffer<T>& tile, int at) { return tile.at(at, kRun<T>); }
  // The tensor core would cut the bits that TF32 has not; rounding halves the error and has no bias.
  __device__ static void round(uint32_t (&x)[4]) {
    if constexpr (kTf32) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = round_to_tf32(bits_float(x[i]));
    }
  }
};

template <>
struct Fragments<double> {
  static constexpr int kM = 8, kN = 8, kK = 4;
  using A = double;
  using B = double;
  using Sums = double[2];
  template <int Rows, int Depth, bool>
  using Tile = PaddedTile<double, Rows, Depth>;

  template <class Tile>
  __device__ static void load_a(const Buffer<double>& tile, int row, int k, A& a) {
    a = tile[Tile::place(row + group(), k + in_group())];
  }
  template <class Tile>
  __device__ static void load_b(const Buffer<double>& tile, int column, int k, B& left, B& right) {
    left = tile[Tile::place(column + group(), k + in_group())];
    right = tile[Tile::place(column + 8 + group(), k + in_group())];
  }
  __device__ static void multiply(Sums& sums, A a, B b) { multiply_accumulate(sums, a, b); }

  __device__ static int group() { return static_cast<int>(threadIdx.x) % 32 / 4; }
  __device__ static int in_group() { return static_cast<int>(threadIdx.x) % 4; }
};

// AAlongDepth, BAlongDepth: whether 16 bytes of a tile are neighbouring k, or neighbouring rows of A (columns of B).
template <class T, int Rows_, int Columns_, int Depth_, bool AAlongDepth, bool BAlongDepth>
class TensorProduct {
  using F = Fragments<T>;

 public:
  static constexpr int kRows = Rows_, kColumns = Columns_, kDepth = Depth_;
  static constexpr bool kAAlongDepth = AAlongDepth, kBAlongDepth = BAlongDepth;
  static constexpr int kRowsOfWarp = kRows / 2, kColumnsOfWarp = kColumns / 2;
  static constexpr int kM = kRowsOfWarp / F::kM, kN = kColumnsOfWarp / F::kN;  // products of a warp
  static_assert(kM > 0 && kN % 2 == 0 && kDepth % F::kK == 0);

  using TileA = typename F::template Tile<kRows, kDepth, AAlongDepth>;
  using TileB = typename F::template Tile<kColumns, kDepth, BAlongDepth>;

  __device__ void multiply(const Buffer<T>& a, const Buffer<T>& b) {
#pragma unroll
    for (int k = 0; k < kDepth; k += F::kK) {
      typename F::A x[kM];
      typename F::B y[kN];
#pragma unroll
      for (int i = 0; i < kM; ++i) F::template load_a<TileA>(a, row0() + F::kM * i, k, x[i]);
#pragma unroll
      for (int j = 0; j < kN; j += 2) F::template load_b<TileB>(b, column0() + F::kN * j, k, y[j], y[j + 1]);
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

}  // namespace convext::cuda
