// From the tensors of a pooling operator to the job of its kernel.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <type_traits>

#include "../pool_contract.h"
#include "launch.cuh"
#include "pool_kernels.cuh"

namespace convext::cuda {

template <class Visit>
void with_floating_type(ScalarType type, const Visit& visit) {
  switch (type) {
    case ScalarType::Float: return visit(float{});
    case ScalarType::Double: return visit(double{});
    case ScalarType::BFloat16: return visit(BFloat16{});
    default: return visit(Half{});
  }
}

// Of the types that have an order.
template <class Visit>
void with_poolable_type(ScalarType type, const Visit& visit) {
  switch (type) {
    case ScalarType::Float:
    case ScalarType::Double:
    case ScalarType::BFloat16:
    case ScalarType::Half: return with_floating_type(type, visit);
    case ScalarType::Byte: return visit(uint8_t{});
    case ScalarType::Char: return visit(int8_t{});
    case ScalarType::Short: return visit(int16_t{});
    case ScalarType::Int: return visit(int32_t{});
    case ScalarType::Long: return visit(int64_t{});
    default: STD_TORCH_CHECK(false, "convext: pooling is not implemented for ", torch::headeronly::toString(type));
  }
}

inline PoolCodes codes_in(const Tensor& offsets) {
  PoolCodes codes;
  void* data = const_cast<void*>(offsets.const_data_ptr());
  const int64_t length = extent_of(offsets);
  if (offsets.element_size() == 1) codes.one = {static_cast<uint8_t*>(data), length};
  if (offsets.element_size() == 2) codes.two = {static_cast<int16_t*>(data), length};
  if (offsets.element_size() == 4) codes.four = {static_cast<int32_t*>(data), length};
  return codes;
}

// What an operator hands to its kernel, whatever the types.
struct PoolCall {
  const PoolProblem& problem;
  const Tensor& source;
  Tensor& result;
  const Tensor* offsets = nullptr;
  bool results_are_inputs = false;
  bool minimum = false, include_pad = true;
  int64_t divisor = 0;
};

inline bool needs_wide_offsets(const PoolCall& call) {
  int64_t largest = std::max(extent_of(call.source), extent_of(call.result));
  if (call.offsets) largest = std::max(largest, extent_of(*call.offsets));
  for (const PoolAxis& a : call.problem.axis) {
    const int64_t reach = a.dilation * (a.kernel - 1) + 1;
    largest = std::max({largest, a.input + reach + a.lo + std::abs(a.hi), a.output * a.stride + reach});
  }
  return std::max(largest, kernel_taps(call.problem)) >= narrow_offsets();
}

// Calls launch(job) with a job of 32-bit or 64-bit offsets.
template <class T, class Launch>
void with_pool_job(const PoolCall& call, const Launch& launch) {
  const auto fill = [&](auto zero) {
    using Offset = decltype(zero);
    PoolJob<T, Offset> job;
    const Strides result = strides_of(call.result);
    job.grid = PoolGrid<Offset>(call.problem, call.results_are_inputs, result.channel == 1 && result.axis[2] != 1);
    job.source = reading<T>(call.source);
    job.result = writing<T>(call.result);
    job.source_strides = PoolStrides<Offset>(strides_of(call.source));
    job.result_strides = PoolStrides<Offset>(result);
    if (call.offsets) {
      job.codes = codes_in(*call.offsets);
      job.code_strides = PoolStrides<Offset>(strides_of(*call.offsets));
    }
    job.minimum = call.minimum, job.include_pad = call.include_pad, job.divisor = call.divisor;
    launch(job);
  };
  if (call.result.numel() == 0) return;
  if (needs_wide_offsets(call)) return fill(int64_t{});
  fill(int32_t{});
}

// Whether a thread can take 16 bytes of channels: of all tensors they are neighbours, and aligned.
inline bool along_channels(const PoolCall& call) {
  const int64_t lanes = 16 / static_cast<int64_t>(call.source.element_size());
  const auto fits = [&](const Tensor& t) {
    if (t.size(1) % lanes != 0 || t.stride(1) != 1) return false;
    const int64_t bytes = lanes * static_cast<int64_t>(t.element_size());
    if (reinterpret_cast<uint64_t>(t.const_data_ptr()) % static_cast<uint64_t>(bytes < 16 ? bytes : 16) != 0)
      return false;
    for (int64_t i = 0; i < t.dim(); ++i)
      if (i != 1 && t.size(i) > 1 && t.stride(i) % lanes != 0) return false;
    return true;
  };
  return fits(call.source) && fits(call.result) && (!call.offsets || fits(*call.offsets));
}

// Calls launch(job, lanes), lanes.value results for each thread, where there is a kernel for more than one.
template <class T, class Launch>
void with_pool_lanes(const PoolCall& call, const Launch& launch) {
  with_pool_job<T>(call, [&]<class Offset>(const PoolJob<T, Offset>& job) {
    if constexpr (!std::is_integral_v<T> && sizeof(T) <= 4 && sizeof(Offset) == 4) {
      constexpr int kLanes = Quad<T>::kCount;
      if (job.grid.channels_last && along_channels(call))
        return launch(job_of_lanes<kLanes>(job), std::integral_constant<int, kLanes>{});
    }
    launch(job, std::integral_constant<int, 1>{});
  });
}

template <class Job>
LaunchShape shape_of(const Job& job) {
  return {(static_cast<int64_t>(job.grid.results) + kPoolThreads - 1) / kPoolThreads, kPoolThreads};
}

}  // namespace convext::cuda
