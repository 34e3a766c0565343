// The pooling kernels for the ISA that the including file has switched on. See pool_baseline.cpp for how, and
// engine.inl.h for the rules of such a file.

namespace convext {
namespace {
// Each file uses the ones before it.
// clang-format off
#include "simd.h"
#include "pool_vectors.h"
#include "pool_planes.h"
#include "pool_channels.h"
#include "pool_planes_adjoint.h"
#include "pool_channels_adjoint.h"
#include "pool_whole.h"
#include "pool_windows.h"
#include "pool_windows_adjoint.h"
// clang-format on

template <class T, class A>
struct PoolKernelsOf {
  static void run_planes(const PoolJob& job, int64_t begin, int64_t end, void* workspace) {
    PlanePool<T, A>(job, workspace).run(begin, end);
  }
  static void run_windows(const PoolJob& job, int64_t begin, int64_t end, void*) {
    WindowPool<T, A>(job).run(begin, end);
  }
  static void run_channels(const PoolJob& job, int64_t begin, int64_t end, void*) {
    ChannelPool<T, A>(job).run(begin, end);
  }
  static void run_whole(const PoolJob& job, int64_t begin, int64_t end, void*) { WholePool<T, A>(job).run(begin, end); }
  static void run_whole_adjoint(const PoolJob& job, int64_t begin, int64_t end, void*) {
    WholePool<T, A>(job).run_adjoint(begin, end);
  }
  static void run_planes_adjoint(const PoolJob& job, int64_t begin, int64_t end, void* workspace) {
    PlaneAdjoint<T, A>(job, workspace).run(begin, end);
  }
  static void run_channels_adjoint(const PoolJob& job, int64_t begin, int64_t end, void* workspace) {
    ChannelAdjoint<T, A>(job, workspace).run(begin, end);
  }
  static void run_windows_adjoint(const PoolJob& job, int64_t begin, int64_t end, void*) {
    WindowAdjoint<T, A>(job).run(begin, end);
  }
  static constexpr PoolKernels table() {
    PoolKernels kernels{.planes = {&run_planes, &PlanePool<T, A>::workspace_bytes},
                        .windows = {&run_windows, nullptr},
                        .channels = {&run_channels, nullptr},
                        .whole = {&run_whole, nullptr},
                        .planes_adjoint = {},
                        .windows_adjoint = {},
                        .channels_adjoint = {},
                        .whole_adjoint = {},
                        .takes_windows = &WindowPool<T, A>::takes,
                        .takes_windows_adjoint = &WindowAdjoint<T, A>::takes,
                        .window_units = &WindowPool<T, A>::units,
                        .window_adjoint_units = &WindowAdjoint<T, A>::units,
                        .channel_units = &ChannelPool<T, A>::units};
    if constexpr (!std::is_integral_v<T>) {
      kernels.planes_adjoint = {&run_planes_adjoint, &PlaneAdjoint<T, A>::workspace_bytes};
      kernels.windows_adjoint = {&run_windows_adjoint, nullptr};
      kernels.whole_adjoint = {&run_whole_adjoint, nullptr};
      kernels.channels_adjoint = {&run_channels_adjoint, &ChannelAdjoint<T, A>::workspace_bytes};
    }
    return kernels;
  }
};

// One for each PoolType, in its order.
constexpr PoolTable make_pool_table() {
  return {PoolKernelsOf<float, float>::table(),     PoolKernelsOf<double, double>::table(),
          PoolKernelsOf<BFloat16, float>::table(),  PoolKernelsOf<Half, float>::table(),
          PoolKernelsOf<uint8_t, int32_t>::table(), PoolKernelsOf<int8_t, int32_t>::table(),
          PoolKernelsOf<int16_t, int32_t>::table(), PoolKernelsOf<int32_t, int32_t>::table(),
          PoolKernelsOf<int64_t, int64_t>::table()};
}

}  // namespace
}  // namespace convext
