#include "run.h"

#include <torch/csrc/stable/ops.h>

#include <new>

#include "band.h"
#include "memory.h"
#include "winograd_plan.h"

namespace convext {
namespace {

// Workspace for one call, allocated before any thread starts: an exception inside a parallel region loses its message.
// It must come from what the allocator has kept, for to fault fresh pages in takes longer than a convolution of small
// images. glibc keeps memory up to the size of the largest that was mapped and freed, so that a second call of a size
// finds it; not if more than a page's alignment is asked for, which it maps anew in every call (3 MB: 1.2 ms of 1.7).
class Workspace {
 public:
  explicit Workspace(const ConvPlan& plan)
      : thread_bytes_(round_up(plan.thread_bytes, kAlignment)),
        shared_bytes_(round_up(plan.shared_bytes, kAlignment)),
        data_(static_cast<std::byte*>(::operator new(
            static_cast<std::size_t>(shared_bytes_ + plan.workers * thread_bytes_), std::align_val_t{kAlignment}))) {
    advise_huge_pages(data_, shared_bytes_ + plan.workers * thread_bytes_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { ::operator delete(data_, std::align_val_t{kAlignment}); }

  std::byte* shared() const { return data_; }
  std::byte* of_worker(int64_t worker) const { return data_ + shared_bytes_ + worker * thread_bytes_; }

 private:
  static constexpr std::size_t kAlignment = 64;
  int64_t thread_bytes_, shared_bytes_;
  std::byte* data_;
};

// Cuts [0, count) into one contiguous part for each worker: body(worker, begin, end).
template <class Body>
void for_each_worker(int64_t workers, int64_t count, const Body& body) {
  workers = std::min(workers, count);
  if (workers <= 1) {
    if (count > 0) body(0, 0, count);
    return;
  }
  torch::stable::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    for (int64_t worker = first; worker < last; ++worker)
      body(worker, worker * count / workers, (worker + 1) * count / workers);
  });
}

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
  if (job.shape.packs_own_weight) elements = 0;
  if (!job.wave.empty() && packed + elements > capacity) return false;
  r.pixels = job.problem->batch * region.positions();
  r.pixel_blocks = divide_up(r.pixels, job.shape.pixels);
  r.packed_offset = packed;
  r.first_pack = job.pack_count;
  r.first_unit = job.unit_count;
  packed += elements;
  if (!job.shape.packs_own_weight) job.pack_count += groups * r.reduction.blocks() * job.weight_panels();
  job.unit_count += groups * r.pixel_blocks * job.channel_blocks();
  job.wave.push_back(r);
  return true;
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
    const BandedRegion banded(region, job.rows, job.panel_depth, request.sum_bytes, plan.band_rows);
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

// The image that a gather of stride 1 in the plane reads: where its taps descend, from the last tap on.
TiledImage tiled_image(const Operand& operand, const Region& region, PaddingMode mode) {
  TiledImage image;
  image.data = operand.data;
  image.strides = operand.strides;
  image.mode = mode;
  for (int i = 0; i < kSpatialAxes; ++i) {
    const GatherAxis& g = region.axis[i];
    image.origin[i] = g.off0 + std::min<int64_t>(0, g.off_step * (g.taps - 1));
    image.extent[i] = g.extent;
  }
  return image;
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

void run_depthwise_channels(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                            const ConvOperands& operands) {
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
  for_each_worker(plan.workers, job.pack_count,
                  [&](int64_t, int64_t begin, int64_t end) { kernels.pack_depthwise(job, begin, end); });
  for_each_worker(plan.workers, job.unit_count, [&](int64_t worker, int64_t begin, int64_t end) {
    kernels.run_depthwise_channels(job, begin, end, workspace.of_worker(worker));
  });
}

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
  const Workspace workspace(plan);
  job.partial = workspace.shared();
  for_each_worker(plan.workers, job.unit_count(), [&](int64_t worker, int64_t begin, int64_t end) {
    kernels.run_wgrad(job, begin, end, workspace.of_worker(worker));
  });
  if (plan.in_place || plan.finishes_units) return;
  for_each_worker(plan.workers, request.problem.groups * request.problem.out_channels,
                  [&](int64_t, int64_t begin, int64_t end) { kernels.finish_wgrad(job, begin, end); });
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

void run_depthwise_wgrad(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                         const ConvOperands& operands) {
  const WgradJob job = make_wgrad_job(request, plan, operands);
  const LanePlan lanes(request);
  const Workspace workspace(plan);
  for_each_worker(plan.workers, divide_up(request.problem.groups * request.problem.out_channels, request.lanes),
                  [&](int64_t worker, int64_t begin, int64_t end) {
                    kernels.run_depthwise_wgrad(job, lanes.band, begin, end, workspace.of_worker(worker));
                  });
}

void run_correlation_wgrad(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                           const ConvOperands& operands) {
  WgradJob job = make_wgrad_job(request, plan, operands);
  const Workspace workspace(plan);
  job.partial = workspace.shared();
  for_each_worker(plan.workers, job.block_units(), [&](int64_t worker, int64_t begin, int64_t end) {
    kernels.run_correlation_wgrad(job, begin, end, workspace.of_worker(worker));
  });
  if (plan.in_place) return;
  for_each_worker(plan.workers, request.problem.groups * request.problem.out_channels,
                  [&](int64_t, int64_t begin, int64_t end) { kernels.finish_correlation_wgrad(job, begin, end); });
}

void run_outer_wgrad(const PlanRequest& request, const ConvPlan& plan, const Kernels& kernels,
                     const ConvOperands& operands) {
  WgradJob job = make_wgrad_job(request, plan, operands);
  const Workspace workspace(plan);
  job.partial = workspace.shared();
  for_each_worker(plan.workers, job.block_units(), [&](int64_t worker, int64_t begin, int64_t end) {
    kernels.run_outer_wgrad(job, begin, end, workspace.of_worker(worker));
  });
  if (plan.in_place) return;
  for_each_worker(plan.workers, request.problem.groups * request.problem.out_channels,
                  [&](int64_t, int64_t begin, int64_t end) { kernels.finish_outer_wgrad(job, begin, end); });
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
  switch (plan.algorithm) {
    case Algorithm::kDepthwiseChannelsLast:
      return (wgrad ? run_depthwise_channels_wgrad : run_depthwise_channels)(request, plan, kernels, operands);
    case Algorithm::kDepthwise:
      return (wgrad ? run_depthwise_wgrad : run_depthwise_conv)(request, plan, kernels, operands);
    case Algorithm::kCorrelation: return run_correlation_wgrad(request, plan, kernels, operands);
    case Algorithm::kWinograd:
      return (wgrad ? run_winograd_wgrad : run_winograd_conv)(request, plan, engine, type, operands);
    case Algorithm::kCol2im: return run_col2im(request, plan, kernels, operands);
    case Algorithm::kOuterProduct: return run_outer_wgrad(request, plan, kernels, operands);
    case Algorithm::kBanded: return run_banded_conv(request, plan, kernels, operands);
    case Algorithm::kPacked: return (wgrad ? run_packed_wgrad : run_packed_conv)(request, plan, kernels, operands);
    case Algorithm::kDirect: return;
  }
}

}  // namespace convext
