// The unfold and fold operators on CPU: check, allocate, run.
#include "unfold.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <bit>

#include "../allocate.h"
#include "../contract.h"
#include "engine.h"

namespace convext {
namespace {

SumType sum_type(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return SumType::kFloat;
    case ScalarType::Double: return SumType::kDouble;
    case ScalarType::BFloat16: return SumType::kBFloat16;
    case ScalarType::Half: return SumType::kHalf;
    case ScalarType::Bool: return SumType::kBool;
    case ScalarType::Byte:
    case ScalarType::Char: return SumType::kInt8;
    case ScalarType::Short: return SumType::kInt16;
    case ScalarType::Int: return SumType::kInt32;
    case ScalarType::Long: return SumType::kInt64;
    case ScalarType::ComplexFloat: return SumType::kComplexFloat;
    case ScalarType::ComplexDouble: return SumType::kComplexDouble;
    default: STD_TORCH_CHECK(false, "convext: not implemented for ", torch::headeronly::toString(type));
  }
}

void run_in_parallel(int64_t units, const auto& body) {
  if (units > 0) torch::stable::parallel_for(0, units, 1, body);
}

Tensor unfold(const Tensor& input, IntList kernel_size, IntList dilation, IntList padding, IntList stride) {
  UnfoldJob job;
  UnfoldProblem& p = job.problem;
  p = unfold_problem(input, {kernel_size, dilation, padding, stride});
  const int64_t bytes = static_cast<int64_t>(input.element_size());
  STD_TORCH_CHECK(std::has_single_bit(static_cast<uint64_t>(bytes)) && bytes <= 16, "convext: elements of ", bytes,
                  " bytes");
  const int64_t sizes[] = {p.batch, p.channels * unfold_taps(p), unfold_blocks(p)};
  Tensor columns = empty_result(input, sizes, input.scalar_type());
  job.image = input.const_data_ptr();
  job.strides = strides_of(input);
  job.columns = columns.mutable_data_ptr();
  const UnfoldKernels& kernels = active_engine().unfold;
  if (job.strides.channel == 1 && job.strides.axis[2] != 1)
    job.channels_at_once = std::max<int64_t>(1, kernels.vector_bytes / bytes);
  job.channel_blocks = (p.channels + job.channels_at_once - 1) / job.channels_at_once;
  const auto run = kernels.unfold[std::countr_zero(static_cast<uint64_t>(bytes))];
  run_in_parallel(job.units(), [&](int64_t begin, int64_t end) { run(job, begin, end); });
  return columns;
}

Tensor fold(const Tensor& input, IntList output_size, IntList kernel_size, IntList dilation, IntList padding,
            IntList stride) {
  FoldJob job;
  const UnfoldProblem& p = job.problem = fold_problem(input, output_size, {kernel_size, dilation, padding, stride});
  const SumType type = sum_type(input.scalar_type());
  IntList sizes{p.batch, p.channels};
  sizes.insert(sizes.end(), output_size.begin(), output_size.end());
  Tensor image = empty_result(input, sizes, input.scalar_type());
  const auto strides = input.strides();
  job.columns = input.const_data_ptr();
  job.outer = strides[0], job.row = strides[1], job.block = strides[2];
  job.image = image.mutable_data_ptr();
  constexpr int64_t kNarrow = 2;  // bfloat16 and float16 are summed in float
  job.sum_bytes = static_cast<int64_t>(input.element_size());
  if (type == SumType::kBFloat16 || type == SumType::kHalf) job.sum_bytes *= kNarrow;
  const auto run = active_engine().unfold.fold[static_cast<int>(type)];
  run_in_parallel(job.units(), [&](int64_t begin, int64_t end) { run(job, begin, end); });
  return image;
}

STABLE_TORCH_LIBRARY_IMPL(convext, CPU, m) {
  m.impl("unfold", TORCH_BOX(&unfold));
  m.impl("fold", TORCH_BOX(&fold));
}

}  // namespace
}  // namespace convext
