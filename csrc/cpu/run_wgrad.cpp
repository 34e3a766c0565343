#include "run_wgrad.h"

#include "tiled_image.h"
#include "winograd_plan.h"
#include "workers.h"

namespace convext {
namespace {

WgradJob make_wgrad_job(const PlanRequest& request, const ConvPlan& plan, const ConvOperands& operands) {
  WgradJob job;
  job.problem = &request.problem;
  job.tile = request.tile;
  job.source_region = fprop_region(request.problem);
  for (int i = 0; i < kSpatialAxes; ++i) {
    GatherAxis& g = job.grad_region.axis[i];
    g.count = g.extent = request.problem.axis[i].output;
  }
  job.grad = operands.weight.data;
  job.grad_strides = operands.weight.strides;
  job.source = operands.image.data;
  job.source_strides = operands.image.strides;
  job.result = operands.result.data;
  job.result_strides = operands.result.strides;
  job.weight = operands.filters.data;
  job.weight_strides = operands.filters.strides;
  job.source_grad = operands.image_grad.data;
  job.source_grad_strides = operands.image_grad.strides;
  job.slices = plan.slices;
  job.panels = plan.panels;
  job.tiles = plan.tiles;
  job.in_place = plan.in_place;
  job.finishes_units = plan.finishes_units;
  job.channel_major = plan.channel_major;
  job.shape = plan.wgrad;
  return job;
}

void run_packed_wgrad(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                      const ConvOperands& operands) {
  WgradJob job = make_wgrad_job(request, plan, operands);
  if (plan.boxes) job.boxes = tap_boxes(request.problem);
  const Workspace workspace(plan);
  job.partial = workspace.shared();
  for_each_worker(plan.workers, job.unit_count(), [&](int64_t worker, int64_t begin, int64_t end) {
    kernels.run_wgrad(job, begin, end, workspace.of_worker(worker));
  });
  if (plan.in_place || plan.finishes_units) return;
  for_each_worker(plan.workers, request.problem.groups * request.problem.out_channels,
                  [&](int64_t, int64_t begin, int64_t end) { kernels.finish_wgrad(job, begin, end); });
}

void run_staged_wgrad(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                      const ConvOperands& operands) {
  const ConvProblem& p = request.problem;
  WgradJob job = make_wgrad_job(request, plan, operands);
  job.panels = plan.staged_wgrad.panels;
  job.tile.rows = plan.staged_wgrad.rows;
  const StagedWgradBands bands(job.source_region, p, request.tile, request.sum_bytes);
  const int64_t column_blocks = divide_up(p.in_channels, plan.staged_wgrad.tiles * request.tile.columns);
  const Workspace workspace(plan);
  for_each_worker(plan.workers, p.groups * job.row_blocks() * column_blocks,
                  [&](int64_t worker, int64_t begin, int64_t end) {
                    kernels.run_staged_wgrad(job, plan.staged_wgrad, bands, begin, end, workspace.of_worker(worker));
                  });
}

void run_winograd_wgrad(const PlanRequest& request, const ConvPlan& plan, const Engine& engine, FloatType type,
                        const ConvOperands& operands) {
  const WgradJob wgrad = make_wgrad_job(request, plan, operands);
  WinogradWgradJob job;
  job.wgrad = &wgrad;
  job.shape = plan.winograd_wgrad;
  job.grid = winograd_grid(request);
  job.image = tiled_image(operands.image, wgrad.source_region, request.problem.mode);
  job.grad = tiled_image(operands.weight, wgrad.grad_region, PaddingMode::kZeros);
  job.depth_taps = request.problem.axis[0].kernel;
  const Workspace workspace(plan);
  job.partial = workspace.shared();
  const WinogradKernels& steps = engine.winograd(type, request.problem.axis[1].kernel);
  const auto in_parallel = [&](WinogradKernels::WgradStep step, int64_t count) {
    for_each_worker(plan.workers, count, [&](int64_t worker, int64_t begin, int64_t end) {
      step(job, begin, end, workspace.of_worker(worker));
    });
  };
  in_parallel(steps.run_wgrad, job.units());
  if (job.shape.slices > 1) in_parallel(steps.finish_wgrad, request.problem.groups * request.problem.out_channels);
}

// Units that write their results themselves, of one shape.
template <class Shape>
using UnitStep = void (*)(const WgradJob&, const Shape&, int64_t begin, int64_t end, void* workspace);
template <class Shape>
void run_units(const PlanRequest& request, const ConvPlan& plan, UnitStep<Shape> run, const Shape& shape, int64_t units,
               const ConvOperands& operands) {
  const WgradJob job = make_wgrad_job(request, plan, operands);
  const Workspace workspace(plan);
  for_each_worker(plan.workers, units, [&](int64_t worker, int64_t begin, int64_t end) {
    run(job, shape, begin, end, workspace.of_worker(worker));
  });
}

// Blocks of filters and channels, then what adds up their slices.
using BlockStep = decltype(Kernels::run_correlation_wgrad);
using FinishStep = decltype(Kernels::finish_correlation_wgrad);
void run_blocks(const PlanRequest& request, const ConvPlan& plan, BlockStep run, FinishStep finish,
                const ConvOperands& operands) {
  WgradJob job = make_wgrad_job(request, plan, operands);
  const Workspace workspace(plan);
  job.partial = workspace.shared();
  for_each_worker(plan.workers, job.block_units(), [&](int64_t worker, int64_t begin, int64_t end) {
    run(job, begin, end, workspace.of_worker(worker));
  });
  if (plan.in_place) return;
  for_each_worker(plan.workers, request.problem.groups * request.problem.out_channels,
                  [&](int64_t, int64_t begin, int64_t end) { finish(job, begin, end); });
}

void run_depthwise_channels_wgrad(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                                  const ConvOperands& operands) {
  const WgradJob job = make_wgrad_job(request, plan, operands);
  const Workspace workspace(plan);
  for_each_worker(plan.workers, divide_up(request.problem.groups * request.problem.in_channels, request.lanes),
                  [&](int64_t worker, int64_t begin, int64_t end) {
                    kernels.run_depthwise_channels_wgrad(job, begin, end, workspace.of_worker(worker));
                  });
}

}  // namespace

void run_wgrad(const PlanRequest& request, const ConvPlan& plan, const Engine& engine, FloatType type,
               const ConvOperands& operands) {
  const Kernels& kernels = engine.of(type);
  const ConvProblem& p = request.problem;
  switch (plan.algorithm) {
    case Algorithm::kDepthwiseChannelsLast: return run_depthwise_channels_wgrad(request, plan, kernels, operands);
    case Algorithm::kDepthwise:
      return run_units(request, plan, kernels.run_depthwise_wgrad, LanePlan(request).band,
                       divide_up(p.groups * p.out_channels, request.lanes), operands);
    case Algorithm::kWinograd: return run_winograd_wgrad(request, plan, engine, type, operands);
    case Algorithm::kDepthwiseShifted:
      return run_units(request, plan, kernels.run_depthwise_shifted_wgrad, plan.shifted,
                       divide_up(p.groups * p.out_channels, plan.shifted.filters), operands);
    case Algorithm::kDepthwiseRows:
      return run_units(request, plan, kernels.run_depthwise_rows_wgrad, plan.grouped, p.groups * p.out_channels,
                       operands);
    case Algorithm::kGrouped:
      return run_units(request, plan, kernels.run_grouped_wgrad, plan.grouped, p.groups * plan.grouped.vectors,
                       operands);
    case Algorithm::kCorrelation:
      return run_blocks(request, plan, kernels.run_correlation_wgrad, kernels.finish_correlation_wgrad, operands);
    case Algorithm::kOuterProduct:
      return run_blocks(request, plan, kernels.run_outer_wgrad, kernels.finish_outer_wgrad, operands);
    case Algorithm::kPacked:
      return plan.staged ? run_staged_wgrad(request, plan, kernels, operands)
                         : run_packed_wgrad(request, plan, kernels, operands);
    default: return;
  }
}

}  // namespace convext
