// Runs CUDA kernels on the CPU, one thread of the grid at a time, to find their mistakes; no attempt at speed.
//
// Blocks run one after the other. The threads of a block are fibers, which run until they wait: at a barrier, at a
// collective of their warp, or at their end. In which order they run is the schedule; a correct kernel gives the same
// bits under every one. What is reported, as a std::runtime_error out of `run`:
//
//   - an access outside of a Buffer, of shared or of global memory, or a misaligned one of several elements;
//   - a barrier that not all threads of the block reach, or not at the same line; the same of a warp's collectives;
//   - cp.async copies that are never waited for.
//
// Shared memory and new tensors hold NaN. So does the target of a cp.async until its wait. What a kernel reads too
// early or never wrote therefore shows in its result.
#pragma once

#include <cstdint>
#include <functional>
#include <source_location>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__

struct Dim3 {
  unsigned x = 0, y = 0, z = 0;
};
// Of the thread that runs; blockDim and gridDim of the launch.
extern Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

inline constexpr int kWarp = 32;
inline constexpr int kLargestBlock = 1024;

enum class Schedule : int { kAscending, kReversed, kRandom };

struct Settings {
  Schedule schedule = Schedule::kAscending;
  uint64_t seed = 0;  // of the random schedule
  int64_t narrow_offsets = INT32_MAX;
  int64_t launches = 0, blocks = 0;  // counted, for the report
};
Settings& settings();

// A launch: `body` is called once for each thread, with threadIdx and blockIdx set.
void run(int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body);

// Called by the threads of a kernel.

void barrier(const std::source_location& where);

// Waits for all lanes of the warp; then `combine` is called once with what each of them brought, and all go on.
using Combine = void (*)(void* const* lanes);
void collective(Combine combine, void* lane, const std::source_location& where);

void* shared_memory(int64_t first_byte, int64_t bytes);

// cp.async: `read` bytes are copied, the rest of `bytes` is zero.
void copy_async(void* to, const void* from, int bytes, int read);
void commit_copies();
void wait_for_copies(int groups_in_flight);

[[noreturn]] void out_of_bounds(int64_t index, int64_t count, int64_t length);
void check_aligned(const void* address, int bytes);

void poison(void* data, int64_t bytes);

}  // namespace emulator
