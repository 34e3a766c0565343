// Every function of csrc/cuda/ptx.cuh, called by kernels of one form: words in, words out. Compiled by the host's
// compiler against the emulator and by nvcc for a GPU, so that test_cuda_wrappers.py can hold one against the other on
// the same bits.
//
// A block has 64 threads. Words of `to` that a kernel leaves alone are 0xffffffff on both sides.
#include <bit>
#include <cstring>
#include <exception>
#include <string>

#include "../../csrc/cuda/ptx.cuh"

namespace convext::cuda {
namespace {

constexpr int kThreads = 64;
constexpr int kSharedBytes = 2 * kThreads * 16;

using From = Buffer<const uint32_t>;
using To = Buffer<uint32_t>;

__device__ int thread() { return static_cast<int>(threadIdx.x); }
__device__ int everywhere() { return static_cast<int>(blockIdx.x) * kThreads + thread(); }
__device__ float as_float(uint32_t bits) { return bits_float(bits); }
__device__ double as_double(uint32_t low, uint32_t high) { return std::bit_cast<double>(uint64_t{high} << 32 | low); }

// Conversions: one number for each thread of the grid.
__global__ void widen_halves(From from, To to) {
  to[everywhere()] = float_bits(widen_half(Half{static_cast<uint16_t>(from[everywhere()])}));
}
__global__ void narrow_to_half(From from, To to) { to[everywhere()] = narrow_half(as_float(from[everywhere()])).bits; }
__global__ void narrow_to_bfloat16(From from, To to) {
  to[everywhere()] = narrow_bfloat16(as_float(from[everywhere()])).bits;
}
__global__ void round_all_to_tf32(From from, To to) { to[everywhere()] = round_to_tf32(as_float(from[everywhere()])); }

// Each block's words the other way round, and each warp's.
__global__ void reverse_blocks(From from, To to) {
  const To tile = shared_buffer<uint32_t>(0, kThreads);
  tile[thread()] = from[everywhere()];
  sync_threads();
  to[everywhere()] = tile[kThreads - 1 - thread()];
}
__global__ void reverse_warps(From from, To to) {
  const To tile = shared_buffer<uint32_t>(0, kThreads);
  tile[thread()] = from[everywhere()];
  sync_warp();
  to[everywhere()] = tile[thread() ^ 31];
}

// By every mask, as integers and as floats.
__global__ void shuffles(From from, To to) {
  for (int mask = 0; mask < 32; ++mask) {
    to[(2 * mask) * kThreads + thread()] = shuffle_xor(from[thread()], mask);
    to[(2 * mask + 1) * kThreads + thread()] = float_bits(shuffle_xor(as_float(from[thread()]), mask));
  }
}
__global__ void ballots(From from, To to) { to[thread()] = ballot(from[thread()] % 2 != 0); }

// 0, 4, ... of the bytes are copied, the rest must be zero.
template <int Bytes>
__global__ void copies(From from, To to) {
  constexpr int kWords = Bytes / 4;
  const To tile = shared_buffer<uint32_t>(0, kThreads * kWords);
  copy_async<Bytes>(tile.at(thread() * kWords, kWords), from.at(thread() * kWords, kWords),
                    thread() % (kWords + 1) * 4);
  commit_copies();
  wait_for_copies<0>();
  for (int i = 0; i < kWords; ++i) to[thread() * kWords + i] = tile[thread() * kWords + i];
}
// Two groups: the first is used while the second may still fly; after a barrier, by another thread.
__global__ void groups_of_copies(From from, To to) {
  const To tile = shared_buffer<uint32_t>(0, 8 * kThreads);
  for (int group = 0; group < 2; ++group) {
    const int at = group * 4 * kThreads + 4 * thread();
    copy_async<16>(tile.at(at, 4), from.at(at, 4), 16);
    commit_copies();
  }
  wait_for_copies<1>();
  sync_threads();
  for (int i = 0; i < 4; ++i) to[4 * thread() + i] = tile[4 * (kThreads - 1 - thread()) + i];
  wait_for_copies<0>();
  sync_threads();
  for (int i = 0; i < 4; ++i) to[4 * (kThreads + thread()) + i] = tile[4 * (2 * kThreads - 1 - thread()) + i];
}

// One warp, four matrices of eight lines of four words. The lanes name the lines from the last to the first.
template <bool Transposed>
__global__ void matrices(From from, To to) {
  if (thread() >= 32) return;
  const To tile = shared_buffer<uint32_t>(0, 4 * 32);
  for (int i = 0; i < 4; ++i) tile[4 * thread() + i] = from[4 * thread() + i];
  sync_warp();
  uint32_t got[4];
  const void* const line = tile.at(4 * (31 - thread()), 4);
  if constexpr (Transposed) {
    load_matrices_transposed(got, line);
  } else {
    load_matrices(got, line);
  }
  for (int i = 0; i < 4; ++i) to[4 * thread() + i] = got[i];
}

// All threads of a block exchange with one word: what they get, and what is left there, is what they had, in any order.
__global__ void exchanges(From from, To to) {
  if (thread() == 0) to[kThreads] = 12345;
  sync_threads();
  int32_t* const shared_by_all = reinterpret_cast<int32_t*>(to.at(kThreads, 1));
  to[thread()] = static_cast<uint32_t>(exchange(shared_by_all, static_cast<int32_t>(from[thread()])));
}
__global__ void places_inside(From from, To to) {
  require_inside(from[thread()], kThreads);
  to[thread()] = from[thread()];
}

// One warp, its fragments as they come: a, b and d of lane i are the registers [i * R, (i + 1) * R) of `from`.
template <class T>
__global__ void multiply(From from, To to) {
  if (thread() >= 32) return;
  const auto word = [&](int i) { return from[10 * thread() + i]; };
  float d[4] = {as_float(word(6)), as_float(word(7)), as_float(word(8)), as_float(word(9))};
  multiply_accumulate(d, {word(0), word(1), word(2), word(3)}, {word(4), word(5)}, T{});
  for (int i = 0; i < 4; ++i) to[4 * thread() + i] = float_bits(d[i]);
}
__global__ void multiply_float64(From from, To to) {
  if (thread() >= 32) return;
  const auto number = [&](int i) { return as_double(from[8 * thread() + 2 * i], from[8 * thread() + 2 * i + 1]); };
  double d[2] = {number(2), number(3)};
  multiply_accumulate(d, number(0), number(1));
  for (int i = 0; i < 2; ++i) {
    const uint64_t bits = std::bit_cast<uint64_t>(d[i]);
    to[4 * thread() + 2 * i] = static_cast<uint32_t>(bits);
    to[4 * thread() + 2 * i + 1] = static_cast<uint32_t>(bits >> 32);
  }
}

using Kernel = void (*)(From, To);
struct Named {
  const char* name;
  Kernel kernel;
};
const Named kKernels[] = {
    {"widen_half", widen_halves},
    {"narrow_half", narrow_to_half},
    {"narrow_bfloat16", narrow_to_bfloat16},
    {"round_to_tf32", round_all_to_tf32},
    {"sync_threads", reverse_blocks},
    {"sync_warp", reverse_warps},
    {"shuffle_xor", shuffles},
    {"ballot", ballots},
    {"copy_async_4", copies<4>},
    {"copy_async_8", copies<8>},
    {"copy_async_16", copies<16>},
    {"wait_for_copies", groups_of_copies},
    {"load_matrices", matrices<false>},
    {"load_matrices_transposed", matrices<true>},
    {"exchange", exchanges},
    {"require_inside", places_inside},
    {"multiply_bfloat16", multiply<BFloat16>},
    {"multiply_float16", multiply<Half>},
    {"multiply_tf32", multiply<float>},
    {"multiply_float64", multiply_float64},
};

#if defined(CONVEXT_EMULATED)
void run(Kernel kernel, int blocks, const uint32_t* from, int from_length, uint32_t* to, int to_length) {
  emulator::poison(to, to_length * int64_t{sizeof(uint32_t)});
  const From source(from, from_length);
  const To target(to, to_length);
  emulator::run(blocks, kThreads, kSharedBytes, [&] { kernel(source, target); });
}
#else
void check(cudaError_t code) {
  if (code != cudaSuccess) throw std::runtime_error(cudaGetErrorString(code));
}
void run(Kernel kernel, int blocks, const uint32_t* from, int from_length, uint32_t* to, int to_length) {
  const std::size_t given = from_length * sizeof(uint32_t), taken = to_length * sizeof(uint32_t);
  uint32_t *source = nullptr, *target = nullptr;
  check(cudaMalloc(&source, given));
  check(cudaMalloc(&target, taken));
  check(cudaMemcpy(source, from, given, cudaMemcpyHostToDevice));
  check(cudaMemset(target, 0xff, taken));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSharedBytes;
  check(cudaLaunchKernelEx(&config, kernel, From(source, from_length), To(target, to_length)));
  check(cudaMemcpy(to, target, taken, cudaMemcpyDeviceToHost));  // which waits for the kernel
  check(cudaFree(source));
  check(cudaFree(target));
}
#endif

}  // namespace
}  // namespace convext::cuda

// The names of the kernels, with a blank after each.
extern "C" __attribute__((visibility("default"))) const char* convext_wrapper_kernels() {
  static std::string names;
  if (names.empty())
    for (const auto& named : convext::cuda::kKernels) names += std::string(named.name) + ' ';
  return names.c_str();
}

// Runs a kernel on `blocks` blocks; what went wrong, "" if nothing did.
extern "C" __attribute__((visibility("default"))) const char* convext_wrapper_test(const char* name, int blocks,
                                                                                   const uint32_t* from,
                                                                                   int from_length, uint32_t* to,
                                                                                   int to_length) {
  using namespace convext::cuda;
  static std::string message;
  message = "no such kernel";
  for (const Named& named : kKernels) {
    if (std::strcmp(named.name, name) != 0) continue;
    try {
      run(named.kernel, blocks, from, from_length, to, to_length);
      message.clear();
    } catch (const std::exception& error) {
      message = error.what();
    }
  }
  return message.c_str();
}
