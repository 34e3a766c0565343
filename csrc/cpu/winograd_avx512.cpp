// Winograd's kernels for AVX-512 (F, BW, DQ, VL).
#include "engine_includes.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

namespace convext {
namespace {
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 14;
}  // namespace
}  // namespace convext

#include "winograd_engine.inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace convext {
const WinogradTable kAvx512Winograd = make_winograd_table();
}  // namespace convext
#endif  // __x86_64__
