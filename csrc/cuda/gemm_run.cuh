// From a planned convolution to GemmJobs and their launches; instances for the element types are in conv_gemm_*.cu.
#pragma once

#include <algorithm>

#include "conv.h"
#include "gemm_kernel.cuh"
#include "launch.cuh"

namespace convext::cuda {

// The offsets of both operands' strides as the product sees them, for a region of fprop or dgrad.
template <class Offset>
GemmJob<Offset> image_job(ConvOperator op, const ConvProblem& p, const Region& region, const Strides& image,
                          const Strides& weight, const Strides& result) {
  const bool dgrad = op == ConvOperator::kDgrad;
  const int64_t channels = dgrad ? p.out_channels : p.in_channels;  // of the source, summed over
  GemmJob<Offset> job{};
  job.rows = static_cast<Offset>(dgrad ? p.in_channels : p.out_channels);
  job.columns = static_cast<Offset>(p.batch * region.positions());
  job.depth = static_cast<Offset>(channels * region.taps());
  job.a_row = static_cast<Offset>(dgrad ? weight.channel : weight.outer);
  job.a_group = static_cast<Offset>(p.out_channels * weight.outer);
  job.b_group = static_cast<Offset>(channels * image.channel);
  job.c_group = static_cast<Offset>(job.rows * result.channel);
  job.c_row = static_cast<Offset>(result.channel);
  job.k.size[3] = Divisor<Offset>(std::max<int64_t>(channels, 1));
  job.a_k.stride[3] = static_cast<Offset>(dgrad ? weight.outer : weight.channel);
  job.b_k.stride[3] = static_cast<Offset>(image.channel);
  job.b_n.stride[0] = static_cast<Offset>(image.outer);
  job.c_n.stride[0] = static_cast<Offset>(result.outer);
  for (int i = 0; i < kSpatialAxes; ++i) {
    const GatherAxis& g = region.axis[i];
    job.n.size[i + 1] = Divisor<Offset>(g.count);
    job.k.size[i] = Divisor<Offset>(std::max<int64_t>(g.taps, 1));
    job.a_k.base += static_cast<Offset>(g.tap0 * weight.axis[i]);
    job.a_k.stride[i] = static_cast<Offset>(g.tap_step * weight.axis[i]);
    job.c_n.base += static_cast<Offset>(g.out0 * result.axis[i]);
    job.c_n.stride[i + 1] = static_cast<Offset>(g.out_step * result.axis[i]);
    job.n_at.start[i] = static_cast<Offset>(g.off0);
    job.n_at.pixel_step[i] = static_cast<Offset>(g.step);
    job.k_at.tap_step[i] = static_cast<Offset>(g.off_step);
    job.extent[i] = static_cast<Offset>(g.extent);
    job.source_stride[i] = static_cast<Offset>(image.axis[i]);
  }
  // the gathers of dgrad have zeros outside: its borders under other modes are regions of their own
  job.mode = dgrad ? PaddingMode::kZeros : p.mode;
  job.a_along_k = job.a_k.stride[3] == 1 || region.taps() > 1;
  job.b_along_k = image.channel == 1 && channels > 1 && image.axis[2] != 1;
  return job;
}

template <class Offset>
GemmJob<Offset> weight_job(const ConvProblem& p, const Strides& image, const Strides& grad, const Strides& result) {
  GemmJob<Offset> job{};
  job.rows = static_cast<Offset>(p.out_channels);
  job.columns = static_cast<Offset>(kernel_taps(p) * p.in_channels);
  job.depth = static_cast<Offset>(p.batch * output_pixels(p));
  job.a_row = static_cast<Offset>(grad.channel);
  job.a_group = static_cast<Offset>(p.out_channels * grad.channel);
  job.b_group = static_cast<Offset>(p.in_channels * image.channel);
  job.c_group = static_cast<Offset>(p.out_channels * result.outer);
  job.c_row = static_cast<Offset>(result.outer);
  job.n.size[3] = Divisor<Offset>(std::max<int64_t>(p.in_channels, 1));
  job.b_n.stride[3] = static_cast<Offset>(image.channel);
  job.c_n.stride[3] = static_cast<Offset>(result.channel);
  job.a_k.stride[0] = static_cast<Offset>(grad.outer);
  job.b_k.stride[0] = static_cast<Offset>(image.outer);
  for (int i = 0; i < kSpatialAxes; ++i) {
    const ConvAxis& a = p.axis[i];
    job.n.size[i] = Divisor<Offset>(a.kernel);
    job.k.size[i + 1] = Divisor<Offset>(a.output);
    job.a_k.stride[i + 1] = static_cast<Offset>(grad.axis[i]);
    job.c_n.stride[i] = static_cast<Offset>(result.axis[i]);
    job.n_at.start[i] = static_cast<Offset>(-a.lo);
    job.n_at.tap_step[i] = static_cast<Offset>(a.dilation);
    job.k_at.pixel_step[i] = static_cast<Offset>(a.stride);
    job.extent[i] = static_cast<Offset>(a.input);
    job.source_stride[i] = static_cast<Offset>(image.axis[i]);
  }
  job.mode = p.mode;
  job.a_along_k = grad.channel != 1;
  job.b_along_k = image.channel != 1;
  return job;
}

template <class T, class Offset, class Product, bool ByRuns>
void launch_gemm(const DeviceScope& device, GemmJob<Offset> job, const ConvPlan& plan, const ConvOperands& operands) {
  const auto tiles = [](Offset size, int tile) { return static_cast<Offset>((int64_t{size} + tile - 1) / tile); };
  job.row_tiles = tiles(job.rows, Product::kRows);
  job.column_tiles = tiles(job.columns, Product::kColumns);
  job.slices = static_cast<Offset>(plan.slices);
  job.c_by_runs = plan.c != Stores::kElements;
  job.c_along_rows = plan.c == Stores::kAlongRows;
  job.slice_depth = plan.slices == 1 ? job.depth : static_cast<Offset>(plan.slice_depth);
  GemmBuffers<T, Offset> buffers;
  buffers.a = reading<T>(operands.weight);
  buffers.b = reading<T>(operands.image);
  buffers.bias = reading<T>(operands.bias);
  buffers.c = writing<T>(operands.result);
  buffers.epilogue = EpilogueJob<T>(operands);
  std::optional<Tensor> partial;
  if (plan.slices > 1) {
    partial = allocate(operands.result, {plan.workspace_bytes}, ScalarType::Byte);
    buffers.partial = {static_cast<Sum_t<T>*>(partial->mutable_data_ptr()),
                       plan.workspace_bytes / static_cast<int64_t>(sizeof(Sum_t<T>))};
  }
  using Block = GemmBlock<T, Offset, Product, ByRuns>;
  device.launch(gemm<T, Offset, Product, ByRuns>, {job.blocks(), kGemmThreads, Block::kSharedBytes}, job, buffers);
  if (!partial) return;
  const int64_t results = int64_t{job.groups} * job.rows * job.columns;
  device.launch(add_slices<T, Offset>, {(results + kGemmThreads - 1) / kGemmThreads, kGemmThreads}, job, buffers);
}

// Calls launch(job) for each product that the convolution is made of.
template <class Offset, class Launch>
void each_job(const DeviceScope& device, const ConvRequest& request, const ConvStrides& s, const ConvOperands& operands,
              const Launch& launch) {
  const ConvProblem& p = request.problem;
  const auto launch_one = [&](GemmJob<Offset> job) {
    job.groups = static_cast<Offset>(p.groups);
    launch(job);
  };
  switch (request.op) {
    case ConvOperator::kFprop:
      return launch_one(image_job<Offset>(request.op, p, fprop_region(p), s.image, s.weight, s.result));
    case ConvOperator::kDgrad:
      for (const Region& region : dgrad_regions(p)) {
        if (region.folded()) {
          run_direct(device, request.op, p, operands, &region);
        } else {
          launch_one(image_job<Offset>(request.op, p, region, s.image, s.weight, s.result));
        }
      }
      return;
    case ConvOperator::kWgrad: return launch_one(weight_job<Offset>(p, s.image, s.weight, s.result));
  }
}

// The depth of a tile that is copied by elements, of every type.
inline constexpr int kElementsDepth = 16;

// The product of a tile that is copied by elements. Tensor cores take B in the order in which neighbouring threads read
// it; A is mostly read along the depth.
template <class T, Arithmetic arithmetic, const int (&Tile)[2], bool BAlongDepth>
struct ProductByElements {
  using Type = TensorProduct<T, Tile[0], Tile[1], kElementsDepth, true, BAlongDepth>;
};
template <class T, const int (&Tile)[2], bool BAlongDepth>
struct ProductByElements<T, Arithmetic::kMultiplyAdd, Tile, BAlongDepth> {
  using Type = FmaProduct<T, Tile[0], Tile[1]>;
};

template <class T, Arithmetic arithmetic>
void run_gemm_by_elements(const DeviceScope& device, const ConvRequest& request, const ConvPlan& plan,
                          const ConvStrides& strides, const ConvOperands& operands) {
  // one order is enough for multiply-adds, float64, and what is rare
  constexpr bool kTwoOrders = arithmetic == Arithmetic::kTensorCores && sizeof(T) < 8;
  if (request.wide_offsets) {
    using Product = typename ProductByElements<T, arithmetic, kSmallTile, true>::Type;
    return each_job<int64_t>(device, request, strides, operands, [&](const GemmJob<int64_t>& job) {
      launch_gemm<T, int64_t, Product, false>(device, job, plan, operands);
    });
  }
  each_job<int32_t>(device, request, strides, operands, [&](const GemmJob<int32_t>& job) {
    const auto launch = [&]<const int(&Tile)[2]>() {
      if (job.b_along_k || !kTwoOrders) {
        using Product = typename ProductByElements<T, arithmetic, Tile, true>::Type;
        launch_gemm<T, int32_t, Product, false>(device, job, plan, operands);
      } else {
        using Product = typename ProductByElements<T, arithmetic, Tile, !kTwoOrders>::Type;
        launch_gemm<T, int32_t, Product, false>(device, job, plan, operands);
      }
    };
    if constexpr (sizeof(Sum_t<T>) == 4)
      if (plan.tile == GemmTile::kLarge) return launch.template operator()<kLargeTile>();
    launch.template operator()<kSmallTile>();
  });
}

// Four runs deep: lines of 64 bytes, two products of the tensor core.
template <class T>
void run_gemm_by_runs(const DeviceScope& device, const ConvRequest& request, const ConvPlan& plan,
                      const ConvStrides& strides, const ConvOperands& operands) {
  each_job<int32_t>(device, request, strides, operands, [&](const GemmJob<int32_t>& job) {
    const auto launch = [&]<bool AAlongDepth, bool BAlongDepth>() {
      using Square = TensorProduct<T, kSquareTile[0], kSquareTile[1], 4 * kRun<T>, AAlongDepth, BAlongDepth>;
      using Large = TensorProduct<T, kLargeTile[0], kLargeTile[1], 4 * kRun<T>, AAlongDepth, BAlongDepth>;
      if (plan.tile == GemmTile::kSquare) return launch_gemm<T, int32_t, Square, true>(device, job, plan, operands);
      launch_gemm<T, int32_t, Large, true>(device, job, plan, operands);
    };
    const bool a = plan.a == Copies::kAlongDepth, b = plan.b == Copies::kAlongDepth;
    if (a && b) return launch.template operator()<true, true>();
    if (a) return launch.template operator()<true, false>();
    if (b) return launch.template operator()<false, true>();
    launch.template operator()<false, false>();
  });
}

}  // namespace convext::cuda
