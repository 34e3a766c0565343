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
  job.pack_count = groups * Reduction::by_tap(1, job.panel_depth).blocks() * job.weight_panels();
  for (const Region& zone : zones) {
    RegionJob r;
    r.region = &zone;
    r.reduction = Reduction::by_tap(zone.taps(), job.panel_depth);
    r.pixels = job.problem->batch * zone.positions();
    job.wave.push_back(r);
  }
  job.unit_count = groups * job.zone_parts * job.channel_blocks();
}

// A run of a planned fprop or dgrad: the job, its regions and its workspace.
class ConvRun {
 public:
  ConvRun(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels, const ConvOperands& operands)
      : job(make_job(request, plan, operands)), request_(request), plan_(plan), kernels_(kernels), workspace_(plan) {}

  // Puts the bias first into the shared workspace; what follows it there.
  std::byte* pack_bias() {
    job.packed_bias = workspace_.shared();
    if (job.epilogue.bias) kernels_.pack_bias(job);
    return workspace_.shared() + bias_bytes();
  }
  int64_t bias_bytes() const { return request_.problem.groups * job.bias_channels() * request_.sum_bytes; }
  // Makes one wave of all regions, for algorithms that number no units by them.
  void cover_regions() {
    for (const Region& region : regions()) {
      RegionJob r;
      r.region = &region;
      job.wave.push_back(r);
    }
  }
  // Runs steps that need no workspace.
  template <class Step>
  void steps(int64_t count, Step run) const {
    for_each_worker(plan_.workers, count, [&](int64_t, int64_t begin, int64_t end) { run(job, begin, end); });
  }
  // Runs units of the job, or of another that refers to it, each worker's in a workspace of its own.
  template <class Step, class... Shape>
  void units(int64_t count, Step run, const Shape&... shape) const {
    units_of(job, count, run, shape...);
  }
  template <class Job, class Step, class... Shape>
  void units_of(const Job& of, int64_t count, Step run, const Shape&... shape) const {
    for_each_worker(plan_.workers, count, [&](int64_t worker, int64_t begin, int64_t end) {
      run(of, shape..., begin, end, workspace_.of_worker(worker));
    });
  }
  const std::vector<Region>& regions() {
    if (regions_.empty()) regions_ = regions_of(request_);  // not all algorithms look at them
    return regions_;
  }
  std::byte* shared() const { return workspace_.shared(); }

  ConvJob job;

 private:
  const PlanRequest& request_;
  const ConvPlan& plan_;
  const Kernels& kernels_;
  std::vector<Region> regions_;
  Workspace workspace_;
};

void run_packed_conv(ConvRun& run, const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels) {
  ConvJob& job = run.job;
  job.packed_weight = run.pack_bias();
  const auto run_wave = [&] {
    run.steps(job.pack_count, kernels.pack_weight);
    run.units(job.unit_count, kernels.run_conv);
  };
  if (plan.zones) {
    const std::vector<Region> zones = zones_of(run.regions().front());
    job.zones = true;
    job.zone_parts = plan.zone_parts;
    append_zones(job, zones);
    return run_wave();
  }
  const int64_t capacity = (plan.shared_bytes - run.bias_bytes()) / request.sum_bytes;
  const std::vector<Region>& regions = run.regions();
  for (auto region = regions.begin(); region != regions.end();) {
    job.wave.clear();
    job.pack_count = job.unit_count = 0;
    int64_t packed = 0;
    while (region != regions.end() && append_region(job, *region, plan.channels_inner, capacity, packed)) ++region;
    run_wave();
  }
}

void run_banded_conv(ConvRun& run, const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels) {
  ConvJob& job = run.job;
  int64_t packed = 0;
  for (const Region& region : run.regions()) {
    RegionJob r;
    const BandedRegion banded(region, job.rows, job.panel_depth, request.sum_bytes, is_widened(request), plan.band_rows,
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
  job.packed_weight = run.pack_bias();
  run.steps(job.pack_count, kernels.pack_weight);
  run.units(job.unit_count, kernels.run_banded);
}

void run_winograd_conv(ConvRun& run, const PlanRequest& request, const ConvPlan& plan, const WinogradKernels& steps,
                       const ConvOperands& operands) {
  WinogradJob job;
  job.conv = &run.job;
  job.shape = plan.winograd;
  job.grid = winograd_grid(request);
  job.image = tiled_image(operands.image, run.regions().front(), run.job.source_mode);
  job.depth_taps = request.problem.axis[0].kernel;
  job.flipped = request.op == ConvOperator::kDgrad;
  run.pack_bias();
  run.units_of(job, job.parts(), steps.run_parts);
}

void run_depthwise_conv(ConvRun& run, const PlanRequest& request, const Kernels& kernels) {
  ConvJob& job = run.job;
  run.cover_regions();
  for (RegionJob& r : job.wave) {
    r.first_pack = job.pack_count;
    job.pack_count += r.region->taps() * job.depth;
  }
  const LanePlan lanes(request);
  const int64_t planes = request.problem.batch * request.problem.groups * job.rows;
  run.units(divide_up(planes, request.lanes) * lanes.band.bands(), kernels.run_depthwise, lanes.band);
}

// Depthwise on channels_last images, and inner products: a unit is a row of the result, a pack step a tap.
void run_channels(ConvRun& run, const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels) {
  const bool inner = plan.algorithm == Algorithm::kNarrowChannelsLast;
  ConvJob& job = run.job;
  run.cover_regions();
  for (RegionJob& r : job.wave) {
    r.first_pack = job.pack_count;
    r.first_unit = job.unit_count;
    job.pack_count += r.region->taps();
    job.unit_count += request.problem.batch * r.region->axis[0].count * r.region->axis[1].count;
  }
  job.packed_weight = run.shared();
  job.packed_bias = run.shared() + plan.shared_bytes - request.problem.groups * job.rows * request.sum_bytes;
  if (job.epilogue.bias) kernels.pack_bias(job);
  run.steps(job.pack_count, inner ? kernels.pack_narrow_channels : kernels.pack_depthwise);
  run.units(job.unit_count, inner ? kernels.run_narrow_channels : kernels.run_depthwise_channels);
}

int64_t col2im_units(const ConvProblem& p, const Col2imShape& shape, int64_t rows) {
  return p.groups * divide_up(p.batch, shape.images) * divide_up(p.axis[shape.cut].input, shape.band) *
         divide_up(rows, shape.channels);
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
  ConvRun run(request, plan, kernels, operands);
  switch (plan.algorithm) {
    case Algorithm::kDepthwiseChannelsLast:
    case Algorithm::kNarrowChannelsLast: return run_channels(run, request, plan, kernels);
    case Algorithm::kDepthwise: return run_depthwise_conv(run, request, kernels);
    case Algorithm::kInnerProduct:
      run.pack_bias();
      return run.units(plan.inner_product.units(p, run.job.rows), kernels.run_inner_product);
    case Algorithm::kRowCombination:
      run.pack_bias();
      return run.steps(p.groups * divide_up(run.job.rows, kCombinedResults), kernels.run_row_combination);
    case Algorithm::kWinograd:
      return run_winograd_conv(run, request, plan, engine.winograd(type, p.axis[1].kernel), operands);
    case Algorithm::kDepthwiseShifted:
      run.cover_regions();
      return run.units(divide_up(p.groups, plan.shifted.planes) * p.batch, kernels.run_depthwise_shifted, plan.shifted);
    case Algorithm::kDepthwiseRows:
      run.cover_regions();
      return run.units(p.groups * p.batch, kernels.run_depthwise_rows, plan.grouped);
    case Algorithm::kGrouped:
      run.pack_bias();
      run.cover_regions();
      return run.units(p.groups * p.batch, kernels.run_grouped, plan.grouped);
    case Algorithm::kCol2im:
      run.pack_bias();
      return run.units(col2im_units(p, plan.col2im, run.job.rows), kernels.run_col2im, plan.col2im);
    case Algorithm::kBanded: return run_banded_conv(run, request, plan, kernels);
    case Algorithm::kPacked: return run_packed_conv(run, request, plan, kernels);
    default: return;
  }
}

}  // namespace convext
