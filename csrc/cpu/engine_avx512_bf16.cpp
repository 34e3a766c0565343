// bfloat16 dot products on top of AVX-512: what differs from that level is compiled here, and the rest is its.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "engine_includes.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

namespace convext {
namespace {
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 14;
}  // namespace
}  // namespace convext

#include "engine_pairs.inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace convext {
namespace {
// Runs when the library is loaded, on any processor: it stands after the target's end. kAvx512Engine is a constant,
// which is there before anything runs.
Engine with_pairs(Engine engine) {
  Kernels& kernels = engine.kernels[static_cast<int>(FloatType::kBFloat16)];
  kernels.panel_terms = DotProduct::kTerms;
  kernels.widening = &kAvx512Engine.of(FloatType::kBFloat16);
  kernels.pack_weight = &PairKernels::pack_weight;
  kernels.run_conv = &PairKernels::run_conv;
  kernels.run_wgrad = &PairKernels::run_wgrad;
  kernels.run_banded = &PairKernels::run_banded;
  kernels.run_correlation_wgrad = &PairKernels::run_correlation_wgrad;
  kernels.run_col2im = &PairKernels::run_col2im;
  kernels.run_inner_product = &PairKernels::run_inner_product;
  kernels.run_full_tile = &PairKernels::run_full_tile;
  engine.name = "avx512_bf16";
  return engine;
}
}  // namespace
const Engine kAvx512Bf16Engine = with_pairs(kAvx512Engine);
}  // namespace convext
#endif  // __x86_64__
