// Implicit GEMM: a block computes one tile of C, a row of tiles of A and of B passing through shared memory.
//
//               n ->                     shared memory, kStages pairs of tiles in a ring:
//            +--------+
//            | B tile |  kDepth            copied by cp.async     waiting      multiplied
//            +--------+                    tile i + kStages - 1   ...          tile i
//   +------+ +--------+
//   |A tile| | C tile |  m                 one barrier for each tile: what was multiplied before it may be overwritten
//   +------+ +--------+                    after it, and what each thread has waited for before it is there for all
//
// Where an element of B comes from is put together from two tables in shared memory, one entry for each n of the tile
// (made once) and for each k (made one tile ahead): that is the only place where numbers are divided into digits.
//
// Two kernels differ in what is copied at once. By runs: 16 bytes, neighbours along the depth or along the rows, whose
// order in shared memory is the same; the plan has seen that none crosses an edge, so that the first element speaks for
// all. By elements: 4 or 8 bytes by cp.async; elements of two bytes are too small for it and go through registers, read
// before the product, stored after.
#pragma once

#include <algorithm>

#include "conv_plan.h"
#include "epilogue.cuh"
#include "gemm_job.h"
#include "tensor_product.cuh"

namespace convext::cuda {

template <class T, class Offset>
struct GemmBuffers {
  Buffer<const T> a, b, bias;
  Buffer<T> c;
  Buffer<Sum_t<T>> partial;  // (slice, group, m, n); null where the depth is in one piece
  EpilogueJob<T> epilogue;
};

// Where an n or a k points to; offset -1 beyond the last one.
template <class Offset>
struct alignas(16) Place {
  Offset offset, x[kSpatialAxes];
};

template <class T, class Offset, class Product, bool ByRuns>
class GemmBlock {
 public:
  using TileA = typename Product::TileA;
  using TileB = typename Product::TileB;
  static constexpr int kStages = ByRuns ? 4 : 3;
  static constexpr int kRows = Product::kRows, kColumns = Product::kColumns, kDepth = Product::kDepth;
  static constexpr int kA = TileA::kElements, kB = TileB::kElements;

  // Shared memory: the tiles, of which C takes the place at the end, then the tables.
  static constexpr int kRowsPitch = kRows + 4, kColumnsPitch = kColumns + 4;
  static constexpr int kSums = ByRuns ? std::max(kRows * kColumnsPitch, kColumns* kRowsPitch) : 0;
  static constexpr int kTileBytes =
      std::max(kStages * (kA + kB) * static_cast<int>(sizeof(T)), kSums* static_cast<int>(sizeof(Sum_t<T>)));
  static constexpr int kNBytes = kColumns * static_cast<int>(sizeof(Place<Offset>));
  static constexpr int kKBytes = 2 * kDepth * static_cast<int>(sizeof(Place<Offset>));
  static constexpr int kABytes = 2 * kDepth * static_cast<int>(sizeof(Offset));
  static constexpr int kCBytes = kColumns * static_cast<int>(sizeof(Offset));
  static constexpr int kSharedBytes = kTileBytes + kNBytes + kKBytes + kABytes + kCBytes;
  static_assert(kTileBytes % 16 == 0 && kABytes % 16 == 0);

  __device__ GemmBlock(const GemmJob<Offset>& job, const GemmBuffers<T, Offset>& buffers)
      : job_(job),
        buffers_(buffers),
        tiles_(shared_buffer<T>(0, kStages * (kA + kB))),
        n_(shared_buffer<Place<Offset>>(kTileBytes, kColumns)),
        k_(shared_buffer<Place<Offset>>(kTileBytes + kNBytes, 2 * kDepth)),
        a_k_(shared_buffer<Offset>(kTileBytes + kNBytes + kKBytes, 2 * kDepth)),
        c_n_(shared_buffer<Offset>(kTileBytes + kNBytes + kKBytes + kABytes, kColumns)) {
    Offset rest = static_cast<Offset>(blockIdx.x);
    row0_ = rest % job.row_tiles * kRows;
    rest /= job.row_tiles;
    column0_ = rest % job.column_tiles * kColumns;
    rest /= job.column_tiles;
    group_ = rest % job.groups;
    slice_ = rest / job.groups;
    first_ = slice_ * job.slice_depth;
    const Offset end = first_ + job.slice_depth < job.depth ? first_ + job.slice_depth : job.depth;
    tile_count_ = static_cast<int>((end - first_ + kDepth - 1) / kDepth);
    end_ = end;
  }

  __device__ void run() {
    list_columns();
    list_depth(0);
    for (int tile = 0; tile < kStages - 1; ++tile) {
      sync_threads();
      Fetched fetched;
      fetch(tile, fetched);
      store(tile, fetched);
      commit_copies();
      list_depth(tile + 1);
    }
    Product product;
    for (int tile = 0; tile < tile_count_; ++tile) {
      wait_for_copies<kStages - 2>();
      sync_threads();
      const int next = tile + kStages - 1;
      Fetched fetched;
      fetch(next, fetched);
      commit_copies();
      list_depth(next + 1);
      product.multiply(tile_a(tile), tile_b(tile));
      store(next, fetched);
    }
    wait_for_copies<0>();
    if constexpr (ByRuns)
      if (job_.c_by_runs) return write_runs(product);
    write(product);
  }

 private:
  static constexpr bool kThroughRegisters = !ByRuns && sizeof(T) == 2;
  static constexpr int kAtOnce = ByRuns ? kRun<T> : 1;
  static constexpr int kAOfThread = kRows * kDepth / kAtOnce / kGemmThreads;
  static constexpr int kBOfThread = kColumns * kDepth / kAtOnce / kGemmThreads;

  // What goes through registers is in flight all at once. Unrolled as far, cp.async takes the large tile of float32 all
  // 255 registers for its addresses, and half as far the small one of TF32 more than the 64 that ptxas aims at.
  static constexpr int kFetchUnroll = kThroughRegisters ? kBOfThread : kRows <= kSmallTile[0] ? 2 : 4;

  // Elements of two bytes on their way; nothing of larger ones.
  struct Fetched {
    T a[kThroughRegisters ? kAOfThread : 1], b[kThroughRegisters ? kBOfThread : 1];
  };

  // Which element of a tile, or which run's first, is a thread's i-th: neighbouring threads have neighbouring k, or
  // neighbouring rows.
  struct Element {
    int row, k;
  };
  template <int Rows>
  __device__ static Element element(int i, bool along_k) {
    const int index = static_cast<int>(threadIdx.x) + i * kGemmThreads;
    constexpr int kDepthAtOnce = kDepth / kAtOnce, kRowsAtOnce = Rows / kAtOnce;
    return along_k ? Element{index / kDepthAtOnce, index % kDepthAtOnce * kAtOnce}
                   : Element{index % kRowsAtOnce * kAtOnce, index / kRowsAtOnce};
  }
  __device__ Element element_a(int i) const {
    if constexpr (ByRuns) return element<kRows>(i, TileA::kAlongDepth);
    return element<kRows>(i, job_.a_along_k);
  }
  __device__ Element element_b(int i) const {
    if constexpr (ByRuns) return element<kColumns>(i, TileB::kAlongDepth);
    return element<kColumns>(i, job_.b_along_k);
  }

  __device__ Buffer<T> tile_a(int tile) const { return {tiles_.at(tile % kStages * (kA + kB), kA), kA}; }
  __device__ Buffer<T> tile_b(int tile) const { return {tiles_.at(tile % kStages * (kA + kB) + kA, kB), kB}; }

  __device__ static Place<Offset> place_of(const Offset (&digit)[kDigits], const Linear<Offset>& linear,
                                           const Coordinates<Offset>& at) {
    return {linear.at(digit), {at.at(digit, 0), at.at(digit, 1), at.at(digit, 2)}};
  }

  __device__ void list_columns() {
    for (int i = static_cast<int>(threadIdx.x); i < kColumns; i += kGemmThreads) {
      Offset digit[kDigits];
      const bool inside = column0_ + i < job_.columns;
      job_.n.of(inside ? column0_ + i : 0, digit);
      n_[i] = place_of(digit, job_.b_n, job_.n_at);
      if (!inside) n_[i].offset = -1;
      c_n_[i] = job_.c_n.at(digit);
    }
  }

  __device__ void list_depth(int tile) {
    const int i = static_cast<int>(threadIdx.x);
    if (i >= kDepth) return;
    const Offset k = first_ + static_cast<Offset>(tile) * kDepth + i;
    const bool inside = k < end_;
    Offset digit[kDigits];
    job_.k.of(inside ? k : 0, digit);
    const int slot = tile % 2 * kDepth + i;
    k_[slot] = place_of(digit, job_.b_k, job_.k_at);
    if (!inside) k_[slot].offset = -1;
    a_k_[slot] = inside ? job_.a_k.at(digit) : -1;
  }

  // The offset of an element of A or B, -1 for a zero.
  __device__ Offset find_a(Element e, int slot) const {
    const Offset row = row0_ + e.row, k = a_k_[slot + e.k];
    return row < job_.rows && k >= 0 ? group_ * job_.a_group + row * job_.a_row + k : Offset{-1};
  }
  __device__ Offset find_b(Element e, int slot) const {
    const Place<Offset> n = n_[e.row], k = k_[slot + e.k];
    if (n.offset < 0 || k.offset < 0) return -1;
    Offset at = group_ * job_.b_group + n.offset + k.offset;
#pragma unroll
    for (int i = 0; i < kSpatialAxes; ++i) {
      Offset x = n.x[i] + k.x[i];
      if (x < 0 || x >= job_.extent[i]) {
        if (job_.mode == PaddingMode::kZeros) return -1;
        x = static_cast<Offset>(padded_source(job_.mode, x, job_.extent[i]));
      }
      at += x * job_.source_stride[i];
    }
    return at;
  }

  __device__ static void copy(const Buffer<T>& tile, int to, const Buffer<const T>& from, Offset at) {
    constexpr int kBytes = kAtOnce * static_cast<int>(sizeof(T));
    copy_async<kBytes>(tile.at(to, kAtOnce), from.at(at < 0 ? 0 : at, kAtOnce), at < 0 ? 0 : kBytes);
  }

  // Starts to bring a tile: by cp.async, or into registers.
  __device__ void fetch(int tile, Fetched& fetched) {
    if (tile >= tile_count_) return;
    const int slot = tile % 2 * kDepth;
#pragma unroll(kFetchUnroll)
    for (int i = 0; i < kAOfThread; ++i) {
      const Element e = element_a(i);
      const Offset at = find_a(e, slot);
      if constexpr (kThroughRegisters) {
        fetched.a[i] = at < 0 ? T{} : buffers_.a[at];
      } else {
        copy(tile_a(tile), TileA::place(e.row, e.k), buffers_.a, at);
      }
    }
#pragma unroll(kFetchUnroll)
    for (int i = 0; i < kBOfThread; ++i) {
      const Element e = element_b(i);
      const Offset at = find_b(e, slot);
      if constexpr (kThroughRegisters) {
        fetched.b[i] = at < 0 ? T{} : buffers_.b[at];
      } else {
        copy(tile_b(tile), TileB::place(e.row, e.k), buffers_.b, at);
      }
    }
  }

  __device__ void store([[maybe_unused]] int tile, [[maybe_unused]] const Fetched& fetched) {
    if constexpr (kThroughRegisters) {
      if (tile >= tile_count_) return;
#pragma unroll
      for (int i = 0; i < kAOfThread; ++i) {
        const Element e = element_a(i);
        tile_a(tile)[TileA::place(e.row, e.k)] = fetched.a[i];
      }
#pragma unroll
      for (int i = 0; i < kBOfThread; ++i) {
        const Element e = element_b(i);
        tile_b(tile)[TileB::place(e.row, e.k)] = fetched.b[i];
      }
    }
  }

  __device__ void write(Product& product) {
    product.each_sum([&](int row, int column, Sum_t<T> sum) {
      const Offset m = row0_ + row, n = column0_ + column;
      if (m >= job_.rows || n >= job_.columns) return;
      if (buffers_.partial) {
        const int64_t plane = static_cast<int64_t>(slice_) * job_.groups + group_;
        buffers_.partial[(plane * job_.rows + m) * job_.columns + n] = sum;
        return;
      }
      if (buffers_.bias) sum += widen_from(buffers_.bias[group_ * job_.rows + m]);
      const Offset to = group_ * job_.c_group + m * job_.c_row + c_n_[column];
      buffers_.c[to] = buffers_.epilogue.finish(sum, to);
    });
  }

  // A thread's sums are neighbours neither along m nor along n: they change hands in shared memory. A warp puts 8 rows
  // x 4 columns there, two apart, at a time: 4 numbers between columns send them to all banks, between rows to half.
  __device__ void write_runs(Product& product) {
    constexpr int kAtOnce = kRun<T>, kInQuad = Quad<Sum_t<T>>::kCount;
    const bool along_rows = job_.c_along_rows;
    const int row_step = along_rows ? 1 : kColumnsPitch, column_step = along_rows ? kRowsPitch : 1;
    const Buffer<Sum_t<T>> sums = shared_buffer<Sum_t<T>>(0, kSums);
    sync_threads();  // the last tiles have been multiplied
    product.each_sum([&](int row, int column, Sum_t<T> sum) { sums[row * row_step + column * column_step] = sum; });
    sync_threads();
    for (int i = static_cast<int>(threadIdx.x); i < kRows * kColumns / kAtOnce; i += kGemmThreads) {
      const int row = along_rows ? i % (kRows / kAtOnce) * kAtOnce : i / (kColumns / kAtOnce);
      const int column = along_rows ? i / (kRows / kAtOnce) : i % (kColumns / kAtOnce) * kAtOnce;
      const Offset m = row0_ + row;
      if (m >= job_.rows || column0_ + column >= job_.columns) continue;
      const Offset to = group_ * job_.c_group + m * job_.c_row + c_n_[column];
      Quad<T> finished;
#pragma unroll
      for (int part = 0; part < kAtOnce; part += kInQuad) {
        const Quad<Sum_t<T>> quad = load_quad(sums, row * row_step + column * column_step + part);
#pragma unroll
        for (int j = 0; j < kInQuad; ++j) {
          Sum_t<T> sum = quad.value[j];
          if (buffers_.bias) sum += widen_from(buffers_.bias[group_ * job_.rows + m + (along_rows ? part + j : 0)]);
          finished.value[part + j] = buffers_.epilogue.finish(sum, to + part + j);
        }
      }
      store_quad(buffers_.c, static_cast<int>(to), finished);
    }
  }

  const GemmJob<Offset>& job_;
  const GemmBuffers<T, Offset>& buffers_;
  const Buffer<T> tiles_;
  const Buffer<Place<Offset>> n_, k_;
  const Buffer<Offset> a_k_, c_n_;
  Offset row0_, column0_, group_, slice_, first_, end_;
  int tile_count_;
};

template <class T, class Offset, class Product, bool ByRuns>
__global__ void __launch_bounds__(kGemmThreads)
    gemm(const __grid_constant__ GemmJob<Offset> job, const __grid_constant__ GemmBuffers<T, Offset> buffers) {
  GemmBlock<T, Offset, Product, ByRuns>(job, buffers).run();
}

// Adds the slices up, one after the other: the same order in every run.
template <class T, class Offset>
__global__ void __launch_bounds__(kGemmThreads)
    add_slices(const __grid_constant__ GemmJob<Offset> job, const __grid_constant__ GemmBuffers<T, Offset> buffers) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kGemmThreads + threadIdx.x;
  const int64_t size = static_cast<int64_t>(job.groups) * job.rows * job.columns;
  if (index >= size) return;
  Sum_t<T> sum = 0;
  for (Offset slice = 0; slice < job.slices; ++slice) sum += buffers.partial[slice * size + index];
  Offset digit[kDigits];
  job.n.of(static_cast<Offset>(index % job.columns), digit);
  const int64_t row = index / job.columns;
  const Offset group = static_cast<Offset>(row / job.rows), m = static_cast<Offset>(row % job.rows);
  buffers.c[group * job.c_group + m * job.c_row + job.c_n.at(digit)] = narrow_to(sum, T{});
}

}  // namespace convext::cuda
