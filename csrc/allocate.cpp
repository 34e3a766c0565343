#include "allocate.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/stableivalue_conversions.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>

#include "cpu/memory.h"
#include "splinters.h"

namespace convext {

Tensor empty_result(const Tensor& like, std::span<const int64_t> sizes, ScalarType type,
                    torch::headeronly::MemoryFormat format) {
  const auto rank = static_cast<int64_t>(sizes.size());
  constexpr int64_t kLargestRank = 64;  // torch's own
  STD_TORCH_CHECK(rank <= kLargestRank, "convext: expected a result of at most ", kLargestRank, " axes, got ", rank);
  int64_t strides[kLargestRank];
  int64_t step = 1;
  const auto lay_out = [&](int64_t axis) {
    strides[axis] = step;
    const bool overflow = __builtin_mul_overflow(step, std::max<int64_t>(sizes[axis], 1), &step);
    STD_TORCH_CHECK(!overflow, "convext: a result of more than 2^63 elements");
  };
  if (format == torch::headeronly::MemoryFormat::Contiguous) {
    for (int64_t axis = rank; axis-- > 0;) lay_out(axis);
  } else {  // channels_last: the channels, then the pixels, then the batch
    lay_out(1);
    for (int64_t axis = rank; axis-- > 2;) lay_out(axis);
    lay_out(0);
  }
  using torch::stable::detail::from, torch::stable::detail::to;
  const auto device = like.device();
  AtenTensorHandle handle = nullptr;
  {
    const SplinterLists::Full full(device.is_cpu() && step >= SplinterLists::kLargeResult);
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(rank, sizes.data(), strides, to<int32_t>(from(type)),
                                                           to<int32_t>(from(device.type())), device.index(), &handle));
  }
  Tensor result(handle);
  if (device.is_cpu()) advise_huge_pages(result.mutable_data_ptr(), result.numel() * result.element_size());
  return result;
}

}  // namespace convext
