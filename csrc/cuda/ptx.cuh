// Every instruction that C++ has no word for: barriers, shuffles, cp.async, conversions, tensor cores (PTX ISA, sm_80
// on).
//
// The same functions with host bodies are in tests/cuda_emulation/ptx_emulation.h; the two files declare one interface.
//
//   sync_threads()                     all threads of the block, with what they wrote to memory
//   sync_warp()                        the same of the 32 lanes of a warp
//   shuffle_xor(x, mask)               x of the lane whose number is this one's xor mask
//   ballot(condition)                  bit i: the condition of lane i
//   copy_async<Bytes>(to, from, read)  4, 8 or 16 bytes to shared memory, those from `read` on are zero
//   commit_copies()                    what was copied since the last call is a group
//   wait_for_copies<N>()               for all of this thread's groups but the last N
//   exchange(to, value)                atomically: what was there, for value
//   require_inside(index, size)        stops the kernel, as torch's assertions do, unless 0 <= index < size
//   widen_half(x), narrow_half(x), narrow_bfloat16(x), round_to_tf32(x)
//   load_matrices(to, line)            ldmatrix: four 8 x 8 matrices of elements of 2 bytes in shared memory; `line` of
//                                      lane 8 i + j is the address of line j of matrix i, 16 bytes; to[i] is the pair
//                                      (g, 2t), (g, 2t + 1) of matrix i. Elements of 4 bytes: line g, element t
//   load_matrices_transposed(to, line) the same of the transposed matrices: to[i] is (2t, g), (2t + 1, g)
//   multiply_accumulate(d, a, b)       d += a b, mma.sync: fragments as the PTX ISA has them, see below
//
// Fragments, with g = lane / 4 and t = lane % 4; a register holds one element, or two of consecutive k:
//
//   m16n8k16 bfloat16, float16   a: (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)   b: (k 2t, g), (k 2t + 8, g)
//   m16n8k8 tf32                 a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)       b: (k t, g), (k t + 4, g)
//   m8n8k4 float64               a: (g, t)                                               b: (k t, g)
//   d, 16 rows: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1);   8 rows: (g, 2t), (g, 2t + 1)
#pragma once

#include <cstdint>
#include <cstdio>

#include "../elements.h"
#include "launch.cuh"

#if defined(CONVEXT_EMULATED)
#include "ptx_emulation.h"
#else

namespace convext::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline void sync_threads() { __syncthreads(); }
__device__ inline void sync_warp() { __syncwarp(); }

template <class T>
__device__ T shuffle_xor(T x, int mask) {
  return __shfl_xor_sync(kAllLanes, x, mask);
}
__device__ inline unsigned ballot(bool condition) { return __ballot_sync(kAllLanes, condition); }

template <int Bytes>
__device__ void copy_async(void* to, const void* from, int read) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  // .cg keeps what is read once out of the L1 cache, and exists for 16 bytes alone
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(read) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from), "n"(Bytes), "r"(read)
                 : "memory");
  }
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ inline int32_t exchange(int32_t* to, int32_t value) { return atomicExch(to, value); }

__device__ inline void require_inside(int64_t index, int64_t size) {
  if (index >= 0 && index < size) return;
  printf("convext: expected places from 0 to %lld, got %lld\n", static_cast<long long>(size - 1),
         static_cast<long long>(index));
  __trap();
}

__device__ inline float widen_half(Half x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
__device__ inline Half narrow_half(float x) {
  Half y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
__device__ inline BFloat16 narrow_bfloat16(float x) {
  BFloat16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
__device__ inline uint32_t round_to_tf32(float x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

__device__ inline void load_matrices(uint32_t (&to)[4], const void* line) {
  const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(line));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared)
               : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&to)[4], const void* line) {
  const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(line));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared)
               : "memory");
}

__device__ inline void multiply_accumulate(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], BFloat16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void multiply_accumulate(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// tf32: the elements as round_to_tf32 gives them.
__device__ inline void multiply_accumulate(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void multiply_accumulate(double (&d)[2], double a, double b) {
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+d"(d[0]), "+d"(d[1])
      : "d"(a), "d"(b));
}

}  // namespace convext::cuda

#endif
