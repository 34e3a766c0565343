// How kernels are launched, and the memory they see. Together with ptx.cuh the only file that knows what runs them:
// nvcc compiles the sources for a GPU, a host compiler (CONVEXT_EMULATED) for the emulator in tests/cuda_emulation/.
//
// Kernels are functions of blocks of one dimension: blockIdx.x, threadIdx.x. They reach memory through Buffers only and
// share none but what shared_buffer hands out.
#pragma once

#if defined(CONVEXT_EMULATED)
#include "emulator.h"
#else
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#endif

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>
#include <vector>

// The dispatch key that the operators register at: the emulated ones take the place of the CPU kernels.
#if defined(CONVEXT_EMULATED)
#define CONVEXT_DEVICE_KEY CPU
#else
#define CONVEXT_DEVICE_KEY CUDA
#endif

namespace convext::cuda {

// Elements in global or shared memory: on a GPU a bare pointer; emulated, it knows its length and every access is
// checked. Null where an optional tensor is absent.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  __host__ __device__ Buffer(T* data, [[maybe_unused]] int64_t length)
      : data_(data)
#if defined(CONVEXT_EMULATED)
        ,
        length_(length)
#endif
  {
  }

  template <class Offset>
  __device__ T& operator[](Offset i) const {
    return *at(i, 1);
  }
  // The address of elements [i, i + count), for accesses of more than one.
  template <class Offset>
  __device__ T* at(Offset i, [[maybe_unused]] int count) const {
#if defined(CONVEXT_EMULATED)
    if (i < 0 || i + count > length_) emulator::out_of_bounds(i, count, length_);
#endif
    return data_ + i;
  }
  __device__ explicit operator bool() const { return data_ != nullptr; }

 private:
  T* data_ = nullptr;
#if defined(CONVEXT_EMULATED)
  int64_t length_ = 0;
#endif
};

// Part of the block's shared memory, from a byte that is a multiple of 16.
template <class T>
__device__ Buffer<T> shared_buffer(int first_byte, int length) {
#if defined(CONVEXT_EMULATED)
  return {static_cast<T*>(emulator::shared_memory(first_byte, length * static_cast<int64_t>(sizeof(T)))), length};
#else
  extern __shared__ __align__(16) unsigned char memory[];
  return {reinterpret_cast<T*>(memory + first_byte), length};
#endif
}

struct LaunchShape {
  int64_t blocks;
  int threads;           // a multiple of 32
  int shared_bytes = 0;  // of each block
};

// What every GPU of compute capability 8.0 and later gives a block.
inline constexpr int kLargestSharedBytes = 99 << 10;

// The device of a tensor and its current stream, for as long as this lives.
class DeviceScope {
 public:
  using Tensor = torch::stable::Tensor;
#if defined(CONVEXT_EMULATED)
  explicit DeviceScope(const Tensor&) {}
#else
  explicit DeviceScope(const Tensor& t) : guard_(t.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
#endif

  // Runs a kernel on the stream; nothing at all where there is no block.
  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), const LaunchShape& shape, const Arguments&... arguments) const {
    if (shape.blocks == 0) return;
    STD_TORCH_CHECK(shape.blocks <= std::numeric_limits<int32_t>::max(), "convext: ", shape.blocks,
                    " blocks are more than a launch takes");
    STD_TORCH_CHECK(shape.shared_bytes <= kLargestSharedBytes, "convext: ", shape.shared_bytes,
                    " bytes of shared memory are more than a block has");
#if defined(CONVEXT_EMULATED)
    emulator::run(shape.blocks, shape.threads, shape.shared_bytes, [&] { kernel(arguments...); });
#else
    constexpr int kWithoutAsking = 48 << 10;
    if (shape.shared_bytes > kWithoutAsking)
      STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes));
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(shape.shared_bytes);
    config.stream = stream_;
    STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
#endif
  }

 private:
#if !defined(CONVEXT_EMULATED)
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
#endif
};

// Uninitialised memory from torch's caching allocator; emulated, it holds NaN.
inline torch::stable::Tensor poisoned(torch::stable::Tensor t) {
#if defined(CONVEXT_EMULATED)
  emulator::poison(t.mutable_data_ptr(), t.numel() * static_cast<int64_t>(t.element_size()));
#endif
  return t;
}
inline torch::stable::Tensor allocate(
    const torch::stable::Tensor& like, const std::vector<int64_t>& sizes, torch::headeronly::ScalarType type,
    torch::headeronly::MemoryFormat format = torch::headeronly::MemoryFormat::Contiguous) {
  return poisoned(torch::stable::empty(sizes, type, std::nullopt, like.device(), std::nullopt, format));
}
// Dense, with the axes in the tensor's own order.
inline torch::stable::Tensor allocate_like(const torch::stable::Tensor& t) {
  return poisoned(torch::stable::empty_like(t));
}

// How many elements lie from the first of a tensor to its last.
inline int64_t extent_of(const torch::stable::Tensor& t) {
  int64_t last = 0;
  for (int64_t i = 0; i < t.dim(); ++i) {
    if (t.size(i) == 0) return 0;
    last += (t.size(i) - 1) * t.stride(i);
  }
  return last + 1;
}

template <class T>
Buffer<const T> reading(const torch::stable::Tensor& t) {
  return {static_cast<const T*>(t.const_data_ptr()), extent_of(t)};
}
template <class T>
Buffer<const T> reading(const std::optional<torch::stable::Tensor>& t) {
  return t ? reading<T>(*t) : Buffer<const T>();
}
template <class T>
Buffer<T> writing(torch::stable::Tensor& t) {
  return {static_cast<T*>(t.mutable_data_ptr()), extent_of(t)};
}

// Offsets below this are computed in 32 bits. Emulated, tests lower it: no tensor there is large enough.
inline int64_t narrow_offsets() {
#if defined(CONVEXT_EMULATED)
  return emulator::settings().narrow_offsets;
#else
  return std::numeric_limits<int32_t>::max();
#endif
}

}  // namespace convext::cuda
