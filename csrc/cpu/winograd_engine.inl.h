// Winograd's kernels for the ISA that the including file has switched on. See winograd_baseline.cpp for how, and
// engine.inl.h for the rules of such a file.

namespace convext {
namespace {
// Each file uses the ones before it.
// clang-format off
#include "simd.h"
#include "epilogue.h"
#include "microkernel.h"
#include "gather.h"
#include "winograd_transform.h"
#include "winograd_stage.h"
#include "winograd_product.h"
#include "winograd_weight.h"
#include "winograd.h"
#include "winograd_wgrad.h"
// clang-format on

// Does the items of a range, each by a member function of a Loops that is made once.
template <class Loops, class Job, void (Loops::*item)(int64_t)>
void run_items(const Job& job, int64_t begin, int64_t end, void* workspace) {
  Loops loops(job, workspace);
  for (int64_t i = begin; i < end; ++i) (loops.*item)(i);
}

template <class T, class A, int kKernel>
constexpr WinogradKernels winograd_kernels() {
  using Conv = WinogradConv<T, A, kKernel>;
  using Wgrad = WinogradWgrad<T, A, kKernel>;
  return {.run_parts = &run_items<Conv, WinogradJob, &Conv::run_part>,
          .run_wgrad = &run_items<Wgrad, WinogradWgradJob, &Wgrad::run>,
          .finish_wgrad = &run_items<Wgrad, WinogradWgradJob, &Wgrad::finish_row>};
}

template <int kKernel>
constexpr std::array<WinogradKernels, 4> winograd_kernels_of_types() {
  return {winograd_kernels<float, float, kKernel>(), winograd_kernels<double, double, kKernel>(),
          winograd_kernels<BFloat16, float, kKernel>(), winograd_kernels<Half, float, kKernel>()};
}
constexpr WinogradTable make_winograd_table() {
  return {winograd_kernels_of_types<3>(), winograd_kernels_of_types<5>()};
}

}  // namespace
}  // namespace convext
