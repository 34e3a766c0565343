#include "run.h"

#include "band.h"
#include "run_wgrad.h"
#include "tiled_image.h"
#include "winograd_plan.h"
#include "workers.h"

namespace convext {
namespace {

ConvJob make_job(const PlanRequest& request, const ConvPlan& plan, const ConvOperands& operands) {
  const bool dgrad = request.op == ConvOperator::kDgrad;
  const ConvProblem& p = request.problem;
  const Strides& weight = operands.weight.strides;
  ConvJob job;
  job.problem = &p;
  job.tile = request.tile;
  job.shape = plan.shape;
  job.band_rows = plan.band_rows;
  job.rows = gather_rows(request);
  job.depth = gather_depth(request);
  job.panel_depth = panel_depth(request);
  job.source = operands.image.data;
  job.source_strides = operands.image.strides;
  job.source_mode = dgrad ? PaddingMode::kZeros : p.mode;
  job.weight = operands.weight.data;
  job.weight_group = p.out_channels * weight.outer;
  job.weight_row = dgrad ? weight.channel : weight.outer;
  job.weight_depth = dgrad ? weight.outer : weight.channel;
  std::copy_n(weight.axis, kSpatialAxes, job.weight_tap);
  job.epilogue = operands.epilogue;
  job.result = operands.result.data;
  job.result_strides = operands.result.strides;
  return job;
}

// Appends a region to the job's wave, or returns false if one packed copy of the weight has no room for it.
bool append_region(ConvJob& job, const Region& region, bool channels_inner, int64_t capacity, int64_t& packed) {
  const int64_t groups = job.problem->groups;
  RegionJob r;
  r.region = &region;
  r.reduction = Reduction(region.taps(), job.panel_depth, channels_inner);
  int64_t elements = groups * packed_channels(job.shape, job.tile, job.rows) * region.taps() * job.panel_depth;
  if (job.shape.reads_weight()) elements = 0;
  if (!job.wave.empty() && packed + elements > capacity) return false;
  r.pixels = job.problem->batch * region.positions();
  r.pixel_blocks = divide_up(r.pixels, job.shape.pixels);
  r.packed_offset = packed;
  r.first_pack = job.pack_count;
  r.first_unit = job.unit_count;
  packed += elements;
  if (!job.shape.reads_weight()) job.pack_count += groups * r.reduction.blocks() * job.weight_panels();
  job.unit_count += groups * r.pixel_blocks * job.channel_blocks();
  job.wave.push_back(r);
  return true;
}

// Zones of the only region share its weight, packed tap by tap.
void append_zones(ConvJob& job, const std::vector<Region>& zones) {
  const int64_t groups = job.problem->groups;
  job.pack_count = groups * Reduction::by_tap(1, job.depth).blocks() * job.weight_panels();
  for (const Region& zone : zones) {
    RegionJob r;
    r.region = &zone;
    r.reduction = Reduction::by_tap(zone.taps(), job.depth);
    r.pixels = job.problem->batch * zone.positions();
    job.wave.push_back(r);
  }
  job.unit_count = groups * job.zone_parts * job.channel_blocks();
}

void run_wave(const ConvJob& job, const Kernels& kernels, const ConvPlan& plan, const Workspace& workspace) {
  for_each_worker(plan.workers, job.pack_count,
                  [&](int64_t, int64_t begin, int64_t end) { kernels.pack_weight(job, begin, end); });
  for_each_worker(plan.workers, job.unit_count, [&](int64_t worker, int64_t begin, int64_t end) {
    kernels.run_conv(job, begin, end, workspace.of_worker(worker));
  });
}

void run_packed_conv(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                     const ConvOperands& operands) {
  ConvJob job = make_job(request, plan, operands);
  const std::vector<Region> regions = regions_of(request);
  const Workspace workspace(plan);
  const int64_t bias_bytes = request.problem.groups * job.bias_channels() * request.sum_bytes;
  job.packed_bias = workspace.shared();
  job.packed_weight = workspace.shared() + bias_bytes;
  const int64_t capacity = (plan.shared_bytes - bias_bytes) / request.sum_bytes;
  if (job.epilogue.bias) kernels.pack_bias(job);
  if (plan.zones) {
    const std::vector<Region> zones = zones_of(regions.front());
    job.zones = true;
    job.zone_parts = plan.zone_parts;
    append_zones(job, zones);
    return run_wave(job, kernels, plan, workspace);
  }
  for (auto region = regions.begin(); region != regions.end();) {
    job.wave.clear();
    job.pack_count = job.unit_count = 0;
    int64_t packed = 0;
    while (region != regions.end() && append_region(job, *region, plan.channels_inner, capacity, packed)) ++region;
    run_wave(job, kernels, plan, workspace);
  }
}

void run_banded_conv(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                     const ConvOperands& operands) {
  ConvJob job = make_job(request, plan, operands);
  const std::vector<Region> regions = regions_of(request);
  int64_t packed = 0;
  for (const Region& region : regions) {
    RegionJob r;
    const BandedRegion banded(region, job.rows, job.panel_depth, request.sum_bytes, plan.band_rows,
                              job.source_mode == PaddingMode::kZeros);
    r.region = &region;
    r.reduction = banded.reduction;
    r.packed_offset = packed;
    r.first_pack = job.pack_count;
    r.first_unit = job.unit_count;
    packed += request.problem.groups * job.rows * region.taps() * job.panel_depth;
    job.pack_count += request.problem.groups * r.reduction.blocks() * job.weight_panels();
    job.unit_count += request.problem.batch * request.problem.groups * banded.band.count(region);
    job.wave.push_back(r);
  }
  const Workspace workspace(plan);
  job.packed_bias = workspace.shared();
  job.packed_weight = workspace.shared() + request.problem.groups * job.bias_channels() * request.sum_bytes;
  if (job.epilogue.bias) kernels.pack_bias(job);
  for_each_worker(plan.workers, job.pack_count,
                  [&](int64_t, int64_t begin, int64_t end) { kernels.pack_weight(job, begin, end); });
  for_each_worker(plan.workers, job.unit_count, [&](int64_t worker, int64_t begin, int64_t end) {
    kernels.run_banded(job, begin, end, workspace.of_worker(worker));
  });
}

void run_col2im(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                const ConvOperands& operands) {
  ConvJob job = make_job(request, plan, operands);
  const ConvProblem& p = request.problem;
  const Col2imShape& shape = plan.col2im;
  const Workspace workspace(plan);
  job.packed_bias = workspace.shared();
  if (job.epilogue.bias) kernels.pack_bias(job);
  const int64_t units = p.groups * divide_up(p.batch, shape.images) * divide_up(p.axis[shape.cut].input, shape.band) *
                        divide_up(job.rows, shape.channels);
  for_each_worker(plan.workers, units, [&](int64_t worker, int64_t begin, int64_t end) {
    kernels.run_col2im(job, shape, begin, end, workspace.of_worker(worker));
  });
}

void run_inner_product(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                       const ConvOperands& operands) {
  ConvJob job = make_job(request, plan, operands);
  const Workspace workspace(plan);
  job.packed_bias = workspace.shared();
  if (job.epilogue.bias) kernels.pack_bias(job);
  for_each_worker(plan.workers, plan.inner_product.units(request.problem, job.rows),
                  [&](int64_t worker, int64_t begin, int64_t end) {
                    kernels.run_inner_product(job, begin, end, workspace.of_worker(worker));
                  });
}

void run_row_combination(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                         const ConvOperands& operands) {
  ConvJob job = make_job(request, plan, operands);
  const Workspace workspace(plan);
  job.packed_bias = workspace.shared();
  if (job.epilogue.bias) kernels.pack_bias(job);
  for_each_worker(plan.workers, request.problem.groups * divide_up(job.rows, kCombinedResults),
                  [&](int64_t, int64_t begin, int64_t end) { kernels.run_row_combination(job, begin, end); });
}

void run_grouped(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                 const ConvOperands& operands) {
  ConvJob job = make_job(request, plan, operands);
  const std::vector<Region> regions = regions_of(request);
  for (const Region& region : regions) {
    RegionJob r;
    r.region = &region;
    job.wave.push_back(r);
  }
  const Workspace workspace(plan);
  job.packed_bias = workspace.shared();
  if (job.epilogue.bias) kernels.pack_bias(job);
  for_each_worker(plan.workers, request.problem.groups * request.problem.batch,
                  [&](int64_t worker, int64_t begin, int64_t end) {
                    kernels.run_grouped(job, plan.grouped, begin, end, workspace.of_worker(worker));
                  });
}

void run_depthwise_rows(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                        const ConvOperands& operands) {
  ConvJob job = make_job(request, plan, operands);
  const std::vector<Region> regions = regions_of(request);
  RegionJob r;
  r.region = &regions.front();
  job.wave.push_back(r);
  const Workspace workspace(plan);
  for_each_worker(plan.workers, request.problem.groups * request.problem.batch,
                  [&](int64_t worker, int64_t begin, int64_t end) {
                    kernels.run_depthwise_rows(job, plan.grouped, begin, end, workspace.of_worker(worker));
                  });
}

void run_depthwise_shifted(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                           const ConvOperands& operands) {
  ConvJob job = make_job(request, plan, operands);
  const std::vector<Region> regions = regions_of(request);
  for (const Region& region : regions) {
    RegionJob r;
    r.region = &region;
    job.wave.push_back(r);
  }
  const Workspace workspace(plan);
  for_each_worker(plan.workers, divide_up(request.problem.groups, plan.shifted.planes) * request.problem.batch,
                  [&](int64_t worker, int64_t begin, int64_t end) {
                    kernels.run_depthwise_shifted(job, plan.shifted, begin, end, workspace.of_worker(worker));
                  });
}

void run_winograd_conv(const PlanRequest& request, const ConvPlan& plan, const Engine& engine, FloatType type,
                       const ConvOperands& operands) {
  ConvJob conv = make_job(request, plan, operands);
  const Region region = regions_of(request).front();
  WinogradJob job;
  job.conv = &conv;
  job.shape = plan.winograd;
  job.grid = winograd_grid(request);
  job.image = tiled_image(operands.image, region, conv.source_mode);
  job.depth_taps = request.problem.axis[0].kernel;
  job.flipped = request.op == ConvOperator::kDgrad;
  const Workspace workspace(plan);
  const int64_t groups = request.problem.groups;
  conv.packed_bias = workspace.shared();
  if (conv.epilogue.bias) engine.of(type).pack_bias(conv);
  std::byte* shared = workspace.shared() + groups * conv.bias_channels() * request.sum_bytes;
  const WinogradKernels& steps = engine.winograd(type, request.problem.axis[1].kernel);
  const auto in_parallel = [&](WinogradKernels::Step step, int64_t count) {
    for_each_worker(plan.workers, count, [&](int64_t worker, int64_t begin, int64_t end) {
      step(job, begin, end, workspace.of_worker(worker));
    });
  };
  if (!job.shape.deep) {
    job.weight = shared;
    in_parallel(steps.transform_weight, groups * job.weight_panels());
    return in_parallel(steps.run_blocks, groups * job.blocks());
  }
  job.source = shared;
  for (job.group = 0; job.group < groups; ++job.group)
    for (job.block = 0; job.block < job.blocks(); ++job.block) {
      in_parallel(steps.transform_channels, divide_up(conv.depth, request.lanes));
      in_parallel(steps.run_passes, job.passes());
    }
}

void run_depthwise_conv(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                        const ConvOperands& operands) {
  ConvJob job = make_job(request, plan, operands);
  const std::vector<Region> regions = regions_of(request);
  for (const Region& region : regions) {
    RegionJob r;
    r.region = &region;
    r.first_pack = job.pack_count;
    job.pack_count += region.taps() * job.depth;
    job.wave.push_back(r);
  }
  const LanePlan lanes(request);
  const int64_t planes = request.problem.batch * request.problem.groups * job.rows;
  const Workspace workspace(plan);
  for_each_worker(plan.workers, divide_up(planes, request.lanes) * lanes.band.bands(),
                  [&](int64_t worker, int64_t begin, int64_t end) {
                    kernels.run_depthwise(job, lanes.band, begin, end, workspace.of_worker(worker));
                  });
}

// Depthwise on channels_last images, and inner products: a unit is a row of the result, a pack step a tap.
void run_channels(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                  const ConvOperands& operands) {
  const bool inner = plan.algorithm == Algorithm::kNarrowChannelsLast;
  const auto pack = inner ? kernels.pack_narrow_channels : kernels.pack_depthwise;
  const auto run = inner ? kernels.run_narrow_channels : kernels.run_depthwise_channels;
  ConvJob job = make_job(request, plan, operands);
  const std::vector<Region> regions = regions_of(request);
  for (const Region& region : regions) {
    RegionJob r;
    r.region = &region;
    r.first_pack = job.pack_count;
    r.first_unit = job.unit_count;
    job.pack_count += region.taps();
    job.unit_count += request.problem.batch * region.axis[0].count * region.axis[1].count;
    job.wave.push_back(r);
  }
  const Workspace workspace(plan);
  job.packed_weight = workspace.shared();
  job.packed_bias = workspace.shared() + plan.shared_bytes - request.problem.groups * job.rows * request.sum_bytes;
  if (job.epilogue.bias) kernels.pack_bias(job);
  for_each_worker(plan.workers, job.pack_count, [&](int64_t, int64_t begin, int64_t end) { pack(job, begin, end); });
  for_each_worker(plan.workers, job.unit_count, [&](int64_t worker, int64_t begin, int64_t end) {
    run(job, begin, end, workspace.of_worker(worker));
  });
}

}  // namespace

PlanRequest make_request(ConvOperator op, const ConvProblem& problem, const Engine& engine, FloatType type,
                         int64_t threads) {
  PlanRequest request;
  request.op = op;
  request.problem = problem;
  request.tile = engine.of(type).tile;
  request.lanes = engine.of(type).lanes;
  request.element_bytes = engine.of(type).element_bytes;
  request.sum_bytes = engine.of(type).sum_bytes;
  request.kernel_terms = engine.of(type).panel_terms;
  request.threads = threads;
  request.winograd = winograd_enabled();
  return request;
}

void run_plan(const PlanRequest& request, const ConvPlan& plan, const Engine& engine, FloatType type,
              const ConvOperands& operands) {
  const Kernels& best = engine.of(type);
  const Kernels& kernels = panel_terms(request) < best.panel_terms ? *best.widening : best;
  const ConvProblem& p = request.problem;
  const bool wgrad = request.op == ConvOperator::kWgrad;
  const int64_t result_elements = wgrad ? weight_elements(p) : p.batch * p.groups * gather_rows(request);
  if (result_elements == 0) return;
  if (wgrad) return run_wgrad(request, plan, engine, type, operands);
  switch (plan.algorithm) {
    case Algorithm::kDepthwiseChannelsLast:
    case Algorithm::kNarrowChannelsLast: return run_channels(request, plan, kernels, operands);
    case Algorithm::kDepthwise: return run_depthwise_conv(request, plan, kernels, operands);
    case Algorithm::kInnerProduct: return run_inner_product(request, plan, kernels, operands);
    case Algorithm::kRowCombination: return run_row_combination(request, plan, kernels, operands);
    case Algorithm::kWinograd: return run_winograd_conv(request, plan, engine, type, operands);
    case Algorithm::kDepthwiseShifted: return run_depthwise_shifted(request, plan, kernels, operands);
    case Algorithm::kDepthwiseRows: return run_depthwise_rows(request, plan, kernels, operands);
    case Algorithm::kGrouped: return run_grouped(request, plan, kernels, operands);
    case Algorithm::kCol2im: return run_col2im(request, plan, kernels, operands);
    case Algorithm::kBanded: return run_banded_conv(request, plan, kernels, operands);
    case Algorithm::kPacked: return run_packed_conv(request, plan, kernels, operands);
    default: return;
  }
}

}  // namespace convext
