// A matrix product of its own at each position, what unshared weights need:
//
//   out[i, j, p] = sum over r, ascending, of a[i, r, p] * b[j, r, p]
//
// Memory decides, for nothing is used often: in a layer b is the weight, of which each element meets one element of
// each sample. A thread has kTile x kTile sums of one position in registers, so that it reads 2 kTile numbers for
// kTile^2 products; neighbouring threads have neighbouring positions, so that they read whole lines.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../contract.h"
#include "../element_types.h"
#include "launch.cuh"
#include "tile_product.cuh"

namespace convext::cuda {
namespace {

constexpr int kThreads = 128, kTile = 4;

template <class T>
struct PositionJob {
  Buffer<const T> a, b;
  Buffer<T> out;
  int64_t rows, columns, depth, positions;
  int64_t a_row, a_depth, b_row, b_depth;
  int64_t row_tiles, column_tiles;

  int64_t threads() const { return row_tiles * column_tiles * positions; }
};

template <class T>
__global__ void __launch_bounds__(kThreads) multiply_positions(const __grid_constant__ PositionJob<T> job) {
  constexpr int kChain = 256;  // rounding errors grow with a chain of additions
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t p = index % job.positions, tile = index / job.positions;
  const int64_t i0 = tile % job.row_tiles * kTile, j0 = tile / job.row_tiles * kTile;
  if (j0 >= job.columns) return;
  // beyond the edge a row is computed again, and dropped
  const auto row = [](int64_t first, int k, int64_t count) { return first + k < count ? first + k : count - 1; };
  Sum_t<T> sum[kTile][kTile] = {};
  for (int64_t begin = 0; begin < job.depth; begin += kChain) {
    const int64_t end = begin + kChain < job.depth ? begin + kChain : job.depth;
    Sum_t<T> chain[kTile][kTile] = {};
    for (int64_t r = begin; r < end; ++r) {
      Sum_t<T> a[kTile], b[kTile];
#pragma unroll
      for (int k = 0; k < kTile; ++k) {
        a[k] = widen_from(job.a[row(i0, k, job.rows) * job.a_row + r * job.a_depth + p]);
        b[k] = widen_from(job.b[row(j0, k, job.columns) * job.b_row + r * job.b_depth + p]);
      }
#pragma unroll
      for (int i = 0; i < kTile; ++i)
#pragma unroll
        for (int j = 0; j < kTile; ++j) chain[i][j] += a[i] * b[j];
    }
#pragma unroll
    for (int i = 0; i < kTile; ++i)
#pragma unroll
      for (int j = 0; j < kTile; ++j) sum[i][j] += chain[i][j];
  }
#pragma unroll
  for (int i = 0; i < kTile; ++i)
#pragma unroll
    for (int j = 0; j < kTile; ++j)
      if (i0 + i < job.rows && j0 + j < job.columns)
        job.out[((i0 + i) * job.columns + j0 + j) * job.positions + p] = narrow_to(sum[i][j], T{});
}

// Positions are neighbours in memory, or copied to be.
Tensor contiguous_positions(const Tensor& t) { return t.stride(2) == 1 ? t : torch::stable::contiguous(t); }

Tensor position_product(const Tensor& left, const Tensor& right) {
  check_position_product(left, right);
  const DeviceScope device(left);
  const Tensor a = contiguous_positions(left), b = contiguous_positions(right);
  Tensor out = allocate(a, {a.size(0), b.size(0), a.size(2)}, a.scalar_type());
  if (out.numel() == 0) return out;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const PositionJob<T> job{.a = reading<T>(a),
                             .b = reading<T>(b),
                             .out = writing<T>(out),
                             .rows = a.size(0),
                             .columns = b.size(0),
                             .depth = a.size(1),
                             .positions = a.size(2),
                             .a_row = a.stride(0),
                             .a_depth = a.stride(1),
                             .b_row = b.stride(0),
                             .b_depth = b.stride(1),
                             .row_tiles = (a.size(0) + kTile - 1) / kTile,
                             .column_tiles = (b.size(0) + kTile - 1) / kTile};
    device.launch(multiply_positions<T>, {(job.threads() + kThreads - 1) / kThreads, kThreads}, job);
  };
  switch (a.scalar_type()) {
    case ScalarType::Float: run(float{}); break;
    case ScalarType::Double: run(double{}); break;
    case ScalarType::BFloat16: run(BFloat16{}); break;
    case ScalarType::Half: run(Half{}); break;
    default: STD_TORCH_CHECK(false, "convext: not implemented for ", torch::headeronly::toString(a.scalar_type()));
  }
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(convext, CONVEXT_DEVICE_KEY, m) { m.impl("position_product", TORCH_BOX(&position_product)); }

}  // namespace
}  // namespace convext::cuda
