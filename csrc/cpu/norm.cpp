// Local response normalisation and the product at each position on CPU: check, allocate, run.
#include "norm.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <numeric>

#include "../allocate.h"
#include "../contract.h"
#include "engine.h"
#include "memory.h"
#include "parallel.h"

namespace convext {
namespace {

FloatType float_type(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return FloatType::kFloat;
    case ScalarType::Double: return FloatType::kDouble;
    case ScalarType::BFloat16: return FloatType::kBFloat16;
    case ScalarType::Half: return FloatType::kHalf;
    default: STD_TORCH_CHECK(false, "convext: not implemented for ", torch::headeronly::toString(t.scalar_type()));
  }
}

bool same_layout(const Tensor& a, const Tensor& b) {
  return std::equal(a.strides().begin(), a.strides().end(), b.strides().begin(), b.strides().end());
}

// Whether the elements fill a block of memory without gaps or overlap, in any order of the axes.
bool is_dense(const Tensor& t) {
  const auto sizes = t.sizes(), strides = t.strides();
  std::vector<int> axes;
  for (int i = 0; i < static_cast<int>(sizes.size()); ++i)
    if (sizes[i] != 1) axes.push_back(i);
  std::sort(axes.begin(), axes.end(), [&](int a, int b) { return strides[a] < strides[b]; });
  int64_t expected = 1;
  for (int i : axes) {
    if (strides[i] != expected) return false;
    expected *= sizes[i];
  }
  return true;
}

// t in the layout of `like`, copied where it is in another.
Tensor in_layout_of(const Tensor& like, const Tensor& t) {
  if (same_layout(like, t)) return t;
  Tensor copy = torch::stable::empty_like(like);
  torch::stable::copy_(copy, t);
  return copy;
}

struct ResponseNormArguments {
  int64_t size;
  double alpha, beta, k;
};

// Bytes of a block's buffers: half of a 1 MiB L2, which also holds what the block reads and writes.
constexpr int64_t kBlockBytes = 384 << 10;

ResponseNormJob make_job(const Tensor& x, const ResponseNormArguments& arguments, int64_t buffers, int64_t sum_bytes) {
  ResponseNormJob job;
  STD_TORCH_CHECK(x.dim() >= 2, "convext: expected input of 2 dimensions or more, got ", x.dim());
  STD_TORCH_CHECK(arguments.size >= 1, "convext: expected size of 1 or more, got ", arguments.size);
  job.channels = x.size(1);
  job.inner = 1;
  for (int64_t i = 0; i < x.dim(); ++i)  // in a dense tensor the axes of a smaller stride lie inside of the channels
    if (i != 1 && x.size(i) != 1 && x.stride(i) < x.stride(1)) job.inner *= x.size(i);
  if (job.channels == 1) job.inner = x.numel();
  job.outer = job.channels * job.inner == 0 ? 0 : x.numel() / (job.channels * job.inner);
  job.before = std::min(arguments.size / 2, job.channels);
  job.after = std::min((arguments.size - 1) / 2, job.channels);
  job.scale = arguments.alpha / static_cast<double>(arguments.size);
  job.beta = arguments.beta;
  job.k = arguments.k;
  constexpr int64_t kVector = 16;
  const int64_t values = kBlockBytes / sum_bytes / buffers;
  const int64_t fit = std::max(kVector, values / job.padded() / kVector * kVector);
  job.pixels = std::min(job.inner, fit);
  if (job.pixels == job.inner)
    job.rows = std::max<int64_t>(1, std::min(job.outer, fit / std::max<int64_t>(1, job.inner)));
  return job;
}

template <class Run>
void run_units(const ResponseNormJob& job, int64_t buffers, int64_t sum_bytes, const Run& run) {
  const int64_t units = job.units();
  if (units == 0) return;
  const int64_t threads = std::min<int64_t>(units, torch::stable::get_num_threads());
  const int64_t bytes = buffers * (job.buffer() + kBufferSlack) * sum_bytes;
  const int64_t step = (bytes + Scratch::kAlignment - 1) / Scratch::kAlignment * Scratch::kAlignment;
  const Scratch workspace(threads * step);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t worker = first; worker < last; ++worker)
      run(worker * units / threads, (worker + 1) * units / threads, workspace.data() + worker * step);
  });
}

int64_t sum_bytes_of(FloatType type) { return type == FloatType::kDouble ? 8 : 4; }

Tensor allocate_like(const Tensor& t) {
  Tensor result = torch::stable::empty_like(t);
  advise_huge_pages(result.mutable_data_ptr(), result.numel() * static_cast<int64_t>(result.element_size()));
  return result;
}

Tensor dense(const Tensor& t) { return is_dense(t) ? t : in_layout_of(torch::stable::empty_like(t), t); }

Tensor local_response_norm(const Tensor& input, int64_t size, double alpha, double beta, double k) {
  const FloatType type = float_type(input);
  const Tensor x = dense(input);
  Tensor result = allocate_like(x);
  if (result.numel() == 0) return result;
  ResponseNormJob job = make_job(x, {size, alpha, beta, k}, kForwardBuffers, sum_bytes_of(type));
  job.input = x.const_data_ptr();
  job.result = result.mutable_data_ptr();
  const auto forward = active_engine().response_norm[static_cast<int>(type)].forward;
  run_units(job, kForwardBuffers, sum_bytes_of(type),
            [&](int64_t begin, int64_t end, void* workspace) { forward(job, begin, end, workspace); });
  return result;
}

Tensor local_response_norm_backward(const Tensor& grad, const Tensor& input, int64_t size, double alpha, double beta,
                                    double k) {
  const FloatType type = float_type(input);
  STD_TORCH_CHECK(grad.scalar_type() == input.scalar_type(), "convext: expected a gradient of the input's type");
  STD_TORCH_CHECK(std::equal(grad.sizes().begin(), grad.sizes().end(), input.sizes().begin(), input.sizes().end()),
                  "convext: expected a gradient of the input's size");
  const Tensor x = dense(input), g = in_layout_of(x, grad);
  Tensor result = allocate_like(x);
  if (result.numel() == 0) return result;
  ResponseNormJob job = make_job(x, {size, alpha, beta, k}, kBackwardBuffers, sum_bytes_of(type));
  job.grad = g.const_data_ptr();
  job.input = x.const_data_ptr();
  job.result = result.mutable_data_ptr();
  const auto backward = active_engine().response_norm[static_cast<int>(type)].backward;
  run_units(job, kBackwardBuffers, sum_bytes_of(type),
            [&](int64_t begin, int64_t end, void* workspace) { backward(job, begin, end, workspace); });
  return result;
}

// Positions are read as vectors: contiguous, or copied.
Tensor contiguous_positions(const Tensor& t) { return t.stride(2) == 1 ? t : torch::stable::contiguous(t); }

Tensor position_product(const Tensor& left, const Tensor& right) {
  const FloatType type = float_type(left);
  check_position_product(left, right);
  const Tensor a = contiguous_positions(left), b = contiguous_positions(right);
  const int64_t sizes[] = {a.size(0), b.size(0), a.size(2)};
  Tensor out = empty_result(a, sizes, a.scalar_type());
  PositionProductJob job;
  job.rows = a.size(0), job.columns = b.size(0), job.depth = a.size(1), job.positions = a.size(2);
  job.a = a.const_data_ptr(), job.a_row = a.stride(0), job.a_depth = a.stride(1);
  job.b = b.const_data_ptr(), job.b_row = b.stride(0), job.b_depth = b.stride(1);
  job.out = out.mutable_data_ptr();
  if (job.units() == 0) return out;
  const auto run = active_engine().position_product[static_cast<int>(type)].run;
  torch::stable::parallel_for(0, job.units(), 1, [&](int64_t begin, int64_t end) { run(job, begin, end); });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(convext, CPU, m) {
  m.impl("local_response_norm", TORCH_BOX(&local_response_norm));
  m.impl("local_response_norm_backward", TORCH_BOX(&local_response_norm_backward));
  m.impl("position_product", TORCH_BOX(&position_product));
}

}  // namespace
}  // namespace convext
