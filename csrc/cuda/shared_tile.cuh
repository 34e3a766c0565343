// How a tile of `Rows` rows, kDepth numbers of each, lies in shared memory: one struct for each order, of which the
// product and the copies know `place` alone.
//
// Shared memory has 32 banks of 4 bytes. A request of 16 bytes a thread is served for 8 threads at a time, which must
// meet the 8 groups of four banks once each: so pieces of 16 bytes ("chunks") are what is put in its place here.
#pragma once

#include "launch.cuh"

namespace convext::cuda {

// 16 bytes of elements.
template <class T>
inline constexpr int kRun = 16 / sizeof(T);

// k-major, for multiply-adds: 16 bytes are neighbouring rows. `Pad` keeps the stores of neighbouring k apart.
template <class T, int Rows, int Depth>
struct DepthMajorTile {
  static constexpr int kPitch = Rows + kRun<T>;
  static constexpr int kElements = Depth * kPitch;
  __device__ static int place(int row, int k) { return k * kPitch + row; }
};

// Rows of Depth + 4 numbers of 8 bytes: the 16 lanes of half a warp, four rows of four neighbours, meet every bank
// once.
template <class T, int Rows, int Depth>
struct PaddedTile {
  static_assert(sizeof(T) == 8 && Depth % 16 == 0);
  static constexpr int kPitch = Depth + 4;
  static constexpr int kElements = Rows * kPitch;
  __device__ static int place(int row, int k) { return row * kPitch + k; }
};

// For tensor cores. Lines are rows, of which 16 bytes are neighbouring k (AlongDepth), or lines are k, of which 16
// bytes are neighbouring rows. Nothing is padded; chunk c of line i lies at c ^ (a number made of i), for which there
// are two readers, and one writer:
//
//   ldmatrix reads a chunk of 8 neighbouring lines. A line of 128 bytes or more begins at bank 0, so i % 8 sends the 8
//   chunks to 8 groups. Of shorter lines 2 or 4 begin at different groups, and the chunk moves every 2 or 4 lines.
//
//   Of TF32 in lines of k there is no ldmatrix, which transposes pairs of bytes: a warp reads 4 lines of k, 8 rows of
//   each, two chunks side by side. 2 (i % 4) sends the 4 pairs to 4 pairs of groups.
//
//   cp.async writes the 8 chunks of 128 bytes in a line or in neighbouring short lines: all groups again.
template <class T, int Rows, int Depth, bool AlongDepth>
struct SwizzledTile {
  static constexpr bool kAlongDepth = AlongDepth;
  static constexpr int kLine = AlongDepth ? Depth : Rows;
  static constexpr int kChunks = kLine / kRun<T>;
  static constexpr int kElements = Rows * Depth;
  static_assert(kChunks % 8 == 0 || kChunks == 4 || kChunks == 2);

  // Of the element in this row, whose chunk begins at a multiple of kRun.
  __device__ static int place(int row, int k) {
    const int line = AlongDepth ? row : k, within = AlongDepth ? k : row;
    return line * kLine + (within / kRun<T> ^ shift(line)) * kRun<T> + within % kRun<T>;
  }

 private:
  __device__ static int shift(int line) {
    if constexpr (sizeof(T) == 4 && !AlongDepth) return line % 4 * 2;
    constexpr int kLinesAtOnce = kChunks >= 8 ? 1 : 8 / kChunks;
    return line / kLinesAtOnce % (kChunks >= 8 ? 8 : kChunks);
  }
};

}  // namespace convext::cuda
