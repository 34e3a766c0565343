// Winograd's kernels for AVX2 with FMA.
#include "engine_includes.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace convext {
namespace {
constexpr int kVectorBytes = 32;
constexpr int kTileRows = 6;
}  // namespace
}  // namespace convext

#include "winograd_engine.inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace convext {
const WinogradTable kAvx2Winograd = make_winograd_table();
}  // namespace convext
#endif  // __x86_64__
