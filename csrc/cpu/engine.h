// What an ISA level offers: tile sizes and the packed kernels, compiled once per level and chosen at run time.
#pragma once

#include <array>

#include "../elements.h"
#include "col2im_job.h"
#include "depthwise_shifted_job.h"
#include "grouped_job.h"
#include "lane_band.h"
#include "norm.h"
#include "packed.h"
#include "pool_job.h"
#include "staged_wgrad_shape.h"
#include "unfold.h"
#include "winograd_job.h"

namespace convext {

// Winograd's algorithm over ranges of its job's parts; units and rows of wgrad.
struct WinogradKernels {
  using Step = void (*)(const WinogradJob&, int64_t begin, int64_t end, void* workspace);
  using WgradStep = void (*)(const WinogradWgradJob&, int64_t begin, int64_t end, void* workspace);
  Step run_parts = nullptr;
  WgradStep run_wgrad = nullptr, finish_wgrad = nullptr;
};
struct WinogradTable {
  std::array<WinogradKernels, 4> three, five;  // of 3 x 3 and of 5 x 5 taps, by FloatType
};

// The packed kernels for one element type. Ranges are of pack steps, units or rows of the job.
struct Kernels {
  Tile tile;
  int lanes;  // of a vector of the sum type
  int element_bytes;
  int sum_bytes;  // size of the type that sums are kept in
  void (*pack_bias)(const ConvJob&);
  void (*pack_weight)(const ConvJob&, int64_t begin, int64_t end);
  void (*run_conv)(const ConvJob&, int64_t begin, int64_t end, void* workspace);
  void (*run_wgrad)(const WgradJob&, int64_t begin, int64_t end, void* workspace);
  void (*run_staged_wgrad)(const WgradJob&, const StagedWgradShape&, const StagedWgradBands&, int64_t begin,
                           int64_t end, void* workspace);
  void (*finish_wgrad)(const WgradJob&, int64_t begin, int64_t end);
  void (*run_banded)(const ConvJob&, int64_t begin, int64_t end, void* workspace);
  void (*run_col2im)(const ConvJob&, const Col2imShape&, int64_t begin, int64_t end, void* workspace);
  void (*run_inner_product)(const ConvJob&, int64_t begin, int64_t end, void* workspace);
  void (*run_row_combination)(const ConvJob&, int64_t begin, int64_t end);
  void (*run_grouped)(const ConvJob&, const GroupedShape&, int64_t begin, int64_t end, void* workspace);
  void (*run_grouped_wgrad)(const WgradJob&, const GroupedShape&, int64_t begin, int64_t end, void* workspace);
  void (*run_depthwise_rows)(const ConvJob&, const GroupedShape&, int64_t begin, int64_t end, void* workspace);
  void (*run_depthwise_rows_wgrad)(const WgradJob&, const GroupedShape&, int64_t begin, int64_t end, void* workspace);
  void (*run_depthwise_shifted)(const ConvJob&, const ShiftedShape&, int64_t begin, int64_t end, void* workspace);
  void (*run_depthwise_shifted_wgrad)(const WgradJob&, const ShiftedShape&, int64_t begin, int64_t end,
                                      void* workspace);
  void (*run_depthwise)(const ConvJob&, const LaneBand&, int64_t begin, int64_t end, void* workspace);
  void (*run_depthwise_wgrad)(const WgradJob&, const LaneBand&, int64_t begin, int64_t end, void* workspace);
  void (*run_correlation_wgrad)(const WgradJob&, int64_t begin, int64_t end, void* workspace);
  void (*finish_correlation_wgrad)(const WgradJob&, int64_t begin, int64_t end);
  void (*run_outer_wgrad)(const WgradJob&, int64_t begin, int64_t end, void* workspace);
  void (*finish_outer_wgrad)(const WgradJob&, int64_t begin, int64_t end);
  // Depthwise on channels_last images; pack steps are counted over (region, tap).
  void (*pack_depthwise)(const ConvJob&, int64_t begin, int64_t end);
  void (*run_depthwise_channels)(const ConvJob&, int64_t begin, int64_t end, void* workspace);
  void (*run_depthwise_channels_wgrad)(const WgradJob&, int64_t begin, int64_t end, void* workspace);
  // Inner products to few channels of channels_last images; pack steps are counted over (region, tap).
  void (*pack_narrow_channels)(const ConvJob&, int64_t begin, int64_t end);
  void (*run_narrow_channels)(const ConvJob&, int64_t begin, int64_t end, void* workspace);
  // Multiplies a full tile from L1 so many times and returns the FLOPs done: what the machine can do at best.
  double (*run_full_tile)(int64_t times);
  // Terms of the reduction in an element of a panel: 2 where the level multiplies pairs (pairs.h). `widening` are then
  // the kernels for problems that pairs do not suit.
  int panel_terms = 1;
  const Kernels* widening = nullptr;
};

enum class FloatType { kFloat, kDouble, kBFloat16, kHalf };

// One pass of pooling over a range of its units, and the workspace that it needs; none where there is no such kernel.
struct PoolKernel {
  void (*run)(const PoolJob&, int64_t begin, int64_t end, void* workspace) = nullptr;
  int64_t (*workspace_bytes)(const PoolProblem&) = nullptr;
};

struct PoolKernels {
  PoolKernel planes, windows, channels, whole, planes_adjoint, windows_adjoint, channels_adjoint, whole_adjoint;
  bool (*takes_windows)(const PoolJob&) = nullptr;
  bool (*takes_windows_adjoint)(const PoolJob&) = nullptr;
  int64_t (*window_units)(const PoolProblem&) = nullptr;
  int64_t (*window_adjoint_units)(const PoolProblem&) = nullptr;
  int64_t (*channel_units)(const PoolProblem&) = nullptr;
};

enum class PoolType { kFloat, kDouble, kBFloat16, kHalf, kUInt8, kInt8, kInt16, kInt32, kInt64 };
using PoolTable = std::array<PoolKernels, 9>;  // by PoolType

struct Engine {
  const char* name;
  Kernels kernels[4];  // by FloatType
  UnfoldKernels unfold;
  ResponseNormKernels response_norm[4];        // by FloatType
  PositionProductKernels position_product[4];  // by FloatType
  const PoolTable& pool_kernels;
  const WinogradTable& winograd_kernels;
  const Kernels& of(FloatType type) const { return kernels[static_cast<int>(type)]; }
  const WinogradKernels& winograd(FloatType type, int64_t kernel) const {
    return (kernel == 3 ? winograd_kernels.three : winograd_kernels.five)[static_cast<std::size_t>(type)];
  }
  const PoolKernels& of(PoolType type) const { return pool_kernels[static_cast<std::size_t>(type)]; }
};

// The engine of the highest level that this processor has and the user allows (CONVEXT_MAX_ISA, set_max_isa).
const Engine& active_engine();

// Levels that this processor can run, lowest first.
std::vector<const char*> isa_levels();
const char* max_isa();
// Caps the level: the highest one up to `name` that this processor has. Throws std::invalid_argument for a name that
// is no level.
void set_max_isa(const char* name);

// One per file engine_<level>.cpp, and its other kernels per file pool_<level>.cpp and winograd_<level>.cpp.
extern const Engine kBaselineEngine;
extern const PoolTable kBaselinePools;
extern const WinogradTable kBaselineWinograd;
#if defined(__x86_64__)
extern const Engine kAvx2Engine;
extern const PoolTable kAvx2Pools;
extern const WinogradTable kAvx2Winograd;
extern const Engine kAvx512Engine;
extern const PoolTable kAvx512Pools;
extern const WinogradTable kAvx512Winograd;
extern const Engine kAvx512Bf16Engine;  // the level below with other kernels for bfloat16
#endif

}  // namespace convext
