// The packed kernels for the ISA that the including file has switched on. See engine_baseline.cpp for how.
//
// Included once per level, so it has no guard of its own, includes nothing that defines functions, and keeps all in an
// anonymous namespace: two levels must never share an instance of a template.

namespace convext {
namespace {
// Each file uses the ones before it.
// clang-format off
#include "simd.h"
#include "epilogue.h"
#include "microkernel.h"
#include "line_product.h"
#include "gather.h"
#include "gather_vectors.h"
#include "pairs.h"
#include "small_images.h"
#include "tap_packer.h"
#include "weight_packer.h"
#include "pixel_packer.h"
#include "weight_lines.h"
#include "packed_conv.h"
#include "zone_unit.h"
#include "row_product.h"
#include "pixel_stage.h"
#include "pixel_rows.h"
#include "packed_wgrad.h"
#include "wgrad_result.h"
#include "depthwise_channels.h"
#include "depthwise_channels_wgrad.h"
#include "depthwise_multiplier.h"
#include "lane_stage.h"
#include "depthwise.h"
#include "depthwise_wgrad.h"
#include "staged_wgrad.h"
#include "band_stage.h"
#include "plane_stage.h"
#include "grouped.h"
#include "grouped_wgrad.h"
#include "correlation.h"
#include "inner_product.h"
#include "row_combination.h"
#include "narrow_channels.h"
#include "depthwise_rows.h"
#include "shifted_planes.h"
#include "depthwise_shifted.h"
#include "depthwise_shifted_adjoint.h"
#include "depthwise_shifted_wgrad.h"
#include "outer_wgrad.h"
#include "turned_wgrad.h"
#include "banded.h"
#include "col2im.h"
#include "packed_kernels.h"
#include "unfold_rows.h"
#include "fold_bands.h"
#include "response_norm.h"
#include "position_product.h"
// clang-format on

template <class T, class A>
struct KernelsOf : PackedKernels<T, A, MultiplyAdd<A>> {
  using Packed = PackedKernels<T, A, MultiplyAdd<A>>;

  static void pack_bias(const ConvJob& job) {
    const int64_t padded = job.bias_channels();
    const T* from = static_cast<const T*>(job.epilogue.bias);
    A* to = static_cast<A*>(job.packed_bias);
    for (int64_t group = 0; group < job.problem->groups; ++group)
      for (int64_t i = 0; i < padded; ++i)
        to[group * padded + i] = i < job.rows ? widen(from[(group * job.rows + i) / job.epilogue.bias_repeats]) : A{0};
  }
  static void run_staged_wgrad(const WgradJob& job, const StagedWgradShape& shape, const StagedWgradBands& bands,
                               int64_t begin, int64_t end, void* workspace) {
    StagedWgrad<T, A> wgrad(job, shape, bands, static_cast<std::byte*>(workspace));
    for (int64_t i = begin; i < end; ++i) wgrad.run(i);
  }
  static void finish_wgrad(const WgradJob& job, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) finish_wgrad_row<T, A>(job, i);
  }
  static void run_grouped(const ConvJob& job, const GroupedShape& shape, int64_t begin, int64_t end, void* workspace) {
    GroupedConv<T, A> conv(job, shape, static_cast<std::byte*>(workspace));
    for (int64_t i = begin; i < end; ++i) conv.run(i);
  }
  static void run_grouped_wgrad(const WgradJob& job, const GroupedShape& shape, int64_t begin, int64_t end,
                                void* workspace) {
    GroupedWgrad<T, A> wgrad(job, shape, static_cast<std::byte*>(workspace));
    for (int64_t i = begin; i < end; ++i) wgrad.run(i);
  }
  // Only where elements are what sums are kept in.
  static void run_depthwise_rows(const ConvJob& job, const GroupedShape& shape, int64_t begin, int64_t end,
                                 void* workspace) {
    if constexpr (std::is_same_v<T, A>) {
      DepthwiseRows<A> conv(job, shape, static_cast<std::byte*>(workspace));
      for (int64_t i = begin; i < end; ++i) conv.run(i);
    }
  }
  static void run_depthwise_rows_wgrad(const WgradJob& job, const GroupedShape& shape, int64_t begin, int64_t end,
                                       void* workspace) {
    if constexpr (std::is_same_v<T, A>) {
      DepthwiseRowsWgrad<A> wgrad(job, shape, static_cast<std::byte*>(workspace));
      for (int64_t i = begin; i < end; ++i) wgrad.run(i);
    }
  }
  // Only where vectors are wide enough.
  static void run_depthwise_shifted(const ConvJob& job, const ShiftedShape& shape, int64_t begin, int64_t end,
                                    void* workspace) {
    if constexpr (kVectorBytes == kShiftedVectorBytes) {
      DepthwiseShifted<T, A> conv(job, shape, static_cast<std::byte*>(workspace));
      for (int64_t i = begin; i < end; ++i) conv.run(i);
    }
  }
  static void run_depthwise_shifted_wgrad(const WgradJob& job, const ShiftedShape& shape, int64_t begin, int64_t end,
                                          void* workspace) {
    if constexpr (kVectorBytes == kShiftedVectorBytes) {
      DepthwiseShiftedWgrad<T, A> wgrad(job, shape, static_cast<std::byte*>(workspace));
      for (int64_t i = begin; i < end; ++i) wgrad.run(i);
    }
  }
  static void run_depthwise(const ConvJob& job, const LaneBand& band, int64_t begin, int64_t end, void* workspace) {
    DepthwiseConv<T, A> conv(job, band, static_cast<std::byte*>(workspace));
    for (int64_t i = begin; i < end; ++i) conv.run(i);
  }
  static void run_depthwise_wgrad(const WgradJob& job, const LaneBand& band, int64_t begin, int64_t end,
                                  void* workspace) {
    DepthwiseWgrad<T, A> wgrad(job, band, static_cast<std::byte*>(workspace));
    for (int64_t i = begin; i < end; ++i) wgrad.run(i);
  }
  static void finish_correlation_wgrad(const WgradJob& job, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) finish_correlation_filter<T, A>(job, i);
  }
  // Only where elements are what sums are kept in: nothing is copied that could be widened.
  static void run_outer_wgrad(const WgradJob& job, int64_t begin, int64_t end, void* workspace) {
    const auto run = [&](auto wgrad) {
      for (int64_t i = begin; i < end; ++i) wgrad.run(i);
    };
    if constexpr (std::is_same_v<T, A>) {
      if (job.shape.turns_images) return run(TurnedWgrad<A>(job, workspace));
      run(OuterWgrad<A>(job, workspace));
    }
  }
  static void run_row_combination(const ConvJob& job, int64_t begin, int64_t end) {
    if constexpr (std::is_same_v<T, A>) {
      RowCombinations<A> combinations(job);
      for (int64_t i = begin; i < end; ++i) combinations.run(i);
    }
  }
  static void finish_outer_wgrad(const WgradJob& job, int64_t begin, int64_t end) {
    if constexpr (std::is_same_v<T, A>) {
      if (job.shape.turns_images) return finish_turned_filters<A>(job, begin, end);
      for (int64_t i = begin; i < end; ++i) finish_outer_filter<A>(job, i);
    }
  }
  static void pack_depthwise(const ConvJob& job, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) pack_depthwise_tap<T, A>(job, i);
  }
  static void run_depthwise_channels(const ConvJob& job, int64_t begin, int64_t end, void* workspace) {
    DepthwiseChannels<T, A> conv(job, lane_filters<T, A>(job), workspace);
    for (int64_t i = begin; i < end; ++i) conv.run(i);
  }
  static void run_depthwise_channels_wgrad(const WgradJob& job, int64_t begin, int64_t end, void* workspace) {
    const auto run = [&]<int kGroup, int kFilters>() {
      DepthwiseChannelsWgrad<T, A, kGroup, kFilters> wgrad(job, workspace);
      for (int64_t i = begin; i < end; ++i) wgrad.run(i);
    };
    const ConvProblem& p = *job.problem;
    if (p.in_channels == p.out_channels)
      return with_group<A>(p.in_channels, [&]<int kGroup>() { run.template operator()<kGroup, 1>(); });
    with_multiplier(p.out_channels, [&]<int M>() { run.template operator()<1, M>(); });
  }
  static void pack_narrow_channels(const ConvJob& job, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) pack_narrow_tap<T, A>(job, i);
  }
  static void run_narrow_channels(const ConvJob& job, int64_t begin, int64_t end, void* workspace) {
    with_result_channels<A>(job.rows, [&]<int M>() {
      NarrowChannels<T, A, M> conv(job, workspace);
      for (int64_t i = begin; i < end; ++i) conv.run(i);
    });
  }
  static constexpr Kernels table() {
    return {.tile = {kTileRows, kTileColumns<A>},
            .lanes = kLanes<A>,
            .element_bytes = sizeof(T),
            .sum_bytes = sizeof(A),
            .pack_bias = &pack_bias,
            .pack_weight = &Packed::pack_weight,
            .run_conv = &Packed::run_conv,
            .run_wgrad = &Packed::run_wgrad,
            .run_staged_wgrad = &run_staged_wgrad,
            .finish_wgrad = &finish_wgrad,
            .run_banded = &Packed::run_banded,
            .run_col2im = &Packed::run_col2im,
            .run_inner_product = &Packed::run_inner_product,
            .run_row_combination = &run_row_combination,
            .run_grouped = &run_grouped,
            .run_grouped_wgrad = &run_grouped_wgrad,
            .run_depthwise_rows = &run_depthwise_rows,
            .run_depthwise_rows_wgrad = &run_depthwise_rows_wgrad,
            .run_depthwise_shifted = &run_depthwise_shifted,
            .run_depthwise_shifted_wgrad = &run_depthwise_shifted_wgrad,
            .run_depthwise = &run_depthwise,
            .run_depthwise_wgrad = &run_depthwise_wgrad,
            .run_correlation_wgrad = &Packed::run_correlation_wgrad,
            .finish_correlation_wgrad = &finish_correlation_wgrad,
            .run_outer_wgrad = &run_outer_wgrad,
            .finish_outer_wgrad = &finish_outer_wgrad,
            .pack_depthwise = &pack_depthwise,
            .run_depthwise_channels = &run_depthwise_channels,
            .run_depthwise_channels_wgrad = &run_depthwise_channels_wgrad,
            .pack_narrow_channels = &pack_narrow_channels,
            .run_narrow_channels = &run_narrow_channels,
            .run_full_tile = &Packed::run_full_tile};
  }
};

template <class T>
void run_unfold(const UnfoldJob& job, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) UnfoldRows<T>(job).run(i);
}
template <class T>
void run_fold(const FoldJob& job, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) FoldBands<T>(job).run(i);
}

// In the order of element sizes and of SumType.
constexpr UnfoldKernels unfold_kernels() {
  return {kVectorBytes,
          {&run_unfold<uint8_t>, &run_unfold<uint16_t>, &run_unfold<float>, &run_unfold<double>,
           &run_unfold<Complex<double>>},
          {&run_fold<float>, &run_fold<double>, &run_fold<BFloat16>, &run_fold<Half>, &run_fold<bool>,
           &run_fold<uint8_t>, &run_fold<uint16_t>, &run_fold<uint32_t>, &run_fold<uint64_t>, &run_fold<Complex<float>>,
           &run_fold<Complex<double>>}};
}

template <class T, class A>
constexpr ResponseNormKernels response_norm_kernels() {
  return {[](const ResponseNormJob& job, int64_t begin, int64_t end, void* workspace) {
            ResponseNorm<T, A> norm(job, workspace);
            for (int64_t i = begin; i < end; ++i) norm.forward(i);
          },
          [](const ResponseNormJob& job, int64_t begin, int64_t end, void* workspace) {
            ResponseNorm<T, A> norm(job, workspace);
            for (int64_t i = begin; i < end; ++i) norm.backward(i);
          }};
}
template <class T, class A>
constexpr PositionProductKernels position_product_kernels() {
  return {[](const PositionProductJob& job, int64_t begin, int64_t end) {
    PositionProduct<T, A> product(job);
    for (int64_t i = begin; i < end; ++i) product.run(i);
  }};
}

constexpr Engine make_engine(const char* name, const PoolTable& pool_kernels, const WinogradTable& winograd_kernels) {
  return {name,
          {KernelsOf<float, float>::table(), KernelsOf<double, double>::table(), KernelsOf<BFloat16, float>::table(),
           KernelsOf<Half, float>::table()},
          unfold_kernels(),
          {response_norm_kernels<float, float>(), response_norm_kernels<double, double>(),
           response_norm_kernels<BFloat16, float>(), response_norm_kernels<Half, float>()},
          {position_product_kernels<float, float>(), position_product_kernels<double, double>(),
           position_product_kernels<BFloat16, float>(), position_product_kernels<Half, float>()},
          pool_kernels,
          winograd_kernels};
}

}  // namespace
}  // namespace convext
