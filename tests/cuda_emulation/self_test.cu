// Kernels for the emulator's own tests: right ones, and ones with a mistake that it must find. test_cuda_emulation.py
// runs them by name, as `convext_self_test`.
#include <cstring>
#include <exception>
#include <string>

#include "../../csrc/cuda/ptx.cuh"

namespace convext::cuda {
namespace {

constexpr int kThreads = 64;

__device__ int thread() { return static_cast<int>(threadIdx.x); }

// Reverses each block's numbers through shared memory, with and without the barrier.
template <bool Barrier>
__global__ void reverse(Buffer<const float> from, Buffer<float> to) {
  const Buffer<float> tile = shared_buffer<float>(0, kThreads);
  const int first = static_cast<int>(blockIdx.x) * kThreads;
  tile[thread()] = from[first + thread()];
  if (Barrier) sync_threads();
  to[first + thread()] = tile[kThreads - 1 - thread()];
}

// The right count of barriers for every thread, but not the same one.
__global__ void part_at_another_barrier(Buffer<const float>, Buffer<float>) {
  if (thread() < 40) {
    sync_threads();
  } else {
    sync_threads();
  }
}

__global__ void some_leave_before_the_barrier(Buffer<const float>, Buffer<float>) {
  if (thread() >= 40) return;
  sync_threads();
}

__global__ void half_a_warp_shuffles(Buffer<const float> from, Buffer<float> to) {
  if (thread() % 32 < 16) to[thread()] = shuffle_xor(from[thread()], 1);
}

__global__ void reads_past_the_end(Buffer<const float> from, Buffer<float> to) { to[thread()] = from[thread() + 65]; }
__global__ void writes_before_the_start(Buffer<const float> from, Buffer<float> to) {
  to[thread() - 1] = from[thread()];
}
__global__ void leaves_its_part_of_shared_memory(Buffer<const float> from, Buffer<float> to) {
  const Buffer<float> tile = shared_buffer<float>(0, 32);
  tile[thread()] = from[thread()];
  to[thread()] = tile[thread()];
}
__global__ void asks_for_more_shared_memory_than_it_has(Buffer<const float>, Buffer<float>) {
  shared_buffer<float>(0, 4 * kThreads + 1);
}
__global__ void reads_shared_memory_nobody_wrote(Buffer<const float>, Buffer<float> to) {
  to[thread()] = shared_buffer<float>(0, kThreads)[thread()];
}
__global__ void leaves_results_unwritten(Buffer<const float> from, Buffer<float> to) {
  if (thread() != 7) to[thread()] = from[thread()];
}

template <bool Wait, int Shift>
__global__ void copies(Buffer<const float> from, Buffer<float> to) {
  const Buffer<float> tile = shared_buffer<float>(0, 4 * kThreads);
  copy_async<16>(tile.at(4 * thread(), 4), from.at(Shift, 4), thread() % 2 == 0 ? 16 : 8);
  commit_copies();
  if (Wait) wait_for_copies<0>();
  const float sum = tile[4 * thread()] + tile[4 * thread() + 1] + tile[4 * thread() + 2] + tile[4 * thread() + 3];
  to[thread()] = sum;
  wait_for_copies<0>();
}

// Waiting for all groups but the last leaves the second copy in flight.
__global__ void waits_for_one_of_two_groups(Buffer<const float> from, Buffer<float> to) {
  const Buffer<float> tile = shared_buffer<float>(0, 2 * kThreads);
  for (int i = 0; i < 2; ++i) {
    copy_async<4>(tile.at(i * kThreads + thread(), 1), from.at(thread(), 1), 4);
    commit_copies();
  }
  wait_for_copies<1>();
  to[thread()] = thread() < 32 ? tile[thread()] : tile[kThreads + thread()];
  wait_for_copies<0>();
}
__global__ void never_waits(Buffer<const float> from, Buffer<float>) {
  copy_async<4>(shared_buffer<float>(0, kThreads).at(thread(), 1), from.at(thread(), 1), 4);
}

// The sum of each warp in all of its lanes, and how many of its numbers are positive.
__global__ void warp_sums(Buffer<const float> from, Buffer<float> to) {
  float sum = from[thread()];
  for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  unsigned bits = ballot(from[thread()] > 0), count = 0;
  for (; bits != 0; bits &= bits - 1) ++count;
  to[thread()] = sum + 1000.0f * static_cast<float>(count);
}

// to (16 x 8 or 8 x 8) = a * b, a and b row-major one after the other in `from`; each lane reads its fragments by the
// comment at the head of ptx.cuh.
template <class T>
__device__ uint32_t pair(float low, float high) {
  if constexpr (std::is_same_v<T, Half>) return narrow_half(low).bits | uint32_t{narrow_half(high).bits} << 16;
  if constexpr (std::is_same_v<T, BFloat16>)
    return narrow_bfloat16(low).bits | uint32_t{narrow_bfloat16(high).bits} << 16;
}
template <class T>
__global__ void multiply_k16(Buffer<const float> from, Buffer<float> to) {
  if (thread() >= 32) return;
  const int g = thread() / 4, t = thread() % 4;
  const auto a = [&](int row, int k) { return pair<T>(from[row * 16 + k], from[row * 16 + k + 1]); };
  const auto b = [&](int k) { return pair<T>(from[256 + k * 8 + g], from[256 + (k + 1) * 8 + g]); };
  float d[4] = {0, 0, 0, 0};
  multiply_accumulate(d, {a(g, 2 * t), a(g + 8, 2 * t), a(g, 2 * t + 8), a(g + 8, 2 * t + 8)}, {b(2 * t), b(2 * t + 8)},
                      T{});
  for (int i = 0; i < 4; ++i) to[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}
__global__ void multiply_k8(Buffer<const float> from, Buffer<float> to) {
  if (thread() >= 32) return;
  const int g = thread() / 4, t = thread() % 4;
  const auto a = [&](int row, int k) { return round_to_tf32(from[row * 8 + k]); };
  const auto b = [&](int k) { return round_to_tf32(from[128 + k * 8 + g]); };
  float d[4] = {0, 0, 0, 0};
  multiply_accumulate(d, {a(g, t), a(g + 8, t), a(g, t + 4), a(g + 8, t + 4)}, {b(t), b(t + 4)}, float{});
  for (int i = 0; i < 4; ++i) to[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}
__global__ void multiply_k4(Buffer<const float> from, Buffer<float> to) {
  if (thread() >= 32) return;
  const int g = thread() / 4, t = thread() % 4;
  double d[2] = {0, 0};
  multiply_accumulate(d, double{from[g * 4 + t]}, double{from[32 + t * 8 + g]});
  for (int i = 0; i < 2; ++i) to[g * 8 + 2 * t + i] = static_cast<float>(d[i]);
}

// Four 8 x 8 matrices of float16, one under the other: what each lane gets of them, as (matrix, lane, half).
template <bool Transposed, int Shift>
__global__ void matrices(Buffer<const float> from, Buffer<float> to) {
  const Buffer<Half> lines = shared_buffer<Half>(0, 256 + 8);
  for (int i = thread(); i < 256; i += kThreads) lines[i] = narrow_half(from[Shift == 0 ? i : 0]);
  sync_threads();
  if (thread() >= 32) return;
  uint32_t got[4];
  const Half* line = lines.at(8 * thread() + Shift, 8);
  if constexpr (Transposed) {
    load_matrices_transposed(got, line);
  } else {
    load_matrices(got, line);
  }
  for (int i = 0; i < 8; ++i)
    to[(i / 2 * 32 + thread()) * 2 + i % 2] = widen_half(Half{static_cast<uint16_t>(got[i / 2] >> (i % 2 * 16))});
}

using Kernel = void (*)(Buffer<const float>, Buffer<float>);
struct Named {
  const char* name;
  Kernel kernel;
};
constexpr Named kKernels[] = {
    {"reverse", reverse<true>},
    {"missing_barrier", reverse<false>},
    {"part_at_another_barrier", part_at_another_barrier},
    {"some_leave_before_the_barrier", some_leave_before_the_barrier},
    {"half_a_warp_shuffles", half_a_warp_shuffles},
    {"reads_past_the_end", reads_past_the_end},
    {"writes_before_the_start", writes_before_the_start},
    {"leaves_its_part_of_shared_memory", leaves_its_part_of_shared_memory},
    {"asks_for_more_shared_memory_than_it_has", asks_for_more_shared_memory_than_it_has},
    {"reads_shared_memory_nobody_wrote", reads_shared_memory_nobody_wrote},
    {"leaves_results_unwritten", leaves_results_unwritten},
    {"copies", copies<true, 0>},
    {"copies_read_too_early", copies<false, 0>},
    {"copies_misaligned", copies<true, 1>},
    {"waits_for_one_of_two_groups", waits_for_one_of_two_groups},
    {"never_waits", never_waits},
    {"warp_sums", warp_sums},
    {"matrices", matrices<false, 0>},
    {"matrices_transposed", matrices<true, 0>},
    {"matrices_misaligned", matrices<false, 4>},
    {"multiply_bfloat16", multiply_k16<BFloat16>},
    {"multiply_float16", multiply_k16<Half>},
    {"multiply_tf32", multiply_k8},
    {"multiply_float64", multiply_k4},
};

}  // namespace
}  // namespace convext::cuda

// Runs a kernel on `blocks` blocks of 64 threads; the message of a fault, "" if there was none.
extern "C" __attribute__((visibility("default"))) const char* convext_self_test(const char* name, int blocks,
                                                                                const float* from, int from_length,
                                                                                float* to, int to_length) {
  using namespace convext::cuda;
  static std::string message;
  message = "no such kernel";
  for (const Named& named : kKernels) {
    if (std::strcmp(named.name, name) != 0) continue;
    message.clear();
    emulator::poison(to, to_length * static_cast<int64_t>(sizeof(float)));
    try {
      const Buffer<const float> source(from, from_length);
      const Buffer<float> target(to, to_length);
      emulator::run(blocks, kThreads, 4 * kThreads * static_cast<int>(sizeof(float)),
                    [&] { named.kernel(source, target); });
    } catch (const std::exception& error) {
      message = error.what();
    }
  }
  return message.c_str();
}
