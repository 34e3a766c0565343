// Host bodies of csrc/cuda/ptx.cuh, which documents them. The fragments are the tables of the PTX ISA manual, section
// "Matrix Fragments for mma", written down element by element and not in the kernels' way of thinking.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>

#include "../../csrc/elements.h"
#include "emulator.h"

namespace convext::cuda {

using Where = std::source_location;

inline void sync_threads(Where where = Where::current()) { emulator::barrier(where); }
inline void sync_warp(Where where = Where::current()) {
  emulator::collective([](void* const*) {}, nullptr, where);
}

template <class T>
T shuffle_xor(T x, int mask, Where where = Where::current()) {
  struct Lane {
    T given, taken;
    int mask;
  } lane{x, x, mask};
  emulator::collective(
      [](void* const* lanes) {
        for (int i = 0; i < emulator::kWarp; ++i) {
          Lane& to = *static_cast<Lane*>(lanes[i]);
          to.taken = static_cast<const Lane*>(lanes[(i ^ to.mask) % emulator::kWarp])->given;
        }
      },
      &lane, where);
  return lane.taken;
}

inline unsigned ballot(bool condition, Where where = Where::current()) {
  unsigned lane = condition;
  emulator::collective(
      [](void* const* lanes) {
        unsigned bits = 0;
        for (int i = 0; i < emulator::kWarp; ++i) bits |= *static_cast<const unsigned*>(lanes[i]) << i;
        for (int i = 0; i < emulator::kWarp; ++i) *static_cast<unsigned*>(lanes[i]) = bits;
      },
      &lane, where);
  return lane;
}

template <int Bytes>
void copy_async(void* to, const void* from, int read) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  emulator::copy_async(to, from, Bytes, read);
}
inline void commit_copies() { emulator::commit_copies(); }
template <int N>
void wait_for_copies() {
  emulator::wait_for_copies(N);
}

inline int32_t exchange(int32_t* to, int32_t value) { return std::exchange(*to, value); }

inline void require_inside(int64_t index, int64_t size) {
  if (index < 0 || index >= size)
    throw std::runtime_error("convext: expected places from 0 to " + std::to_string(size - 1) + ", got " +
                             std::to_string(index));
}

inline float widen_half(Half x) { return widen(x); }
inline Half narrow_half(float x) { return Narrow<Half>::from(x); }
inline BFloat16 narrow_bfloat16(float x) { return Narrow<BFloat16>::from(x); }

// To 10 bits of mantissa, ties away from zero; infinities and NaN stay what they are.
inline uint32_t round_to_tf32(float x) {
  const uint32_t bits = float_bits(x);
  if (!std::isfinite(x)) return bits;
  return (bits + 0x1000u) & 0xffffe000u;
}

namespace fragments {

// D (M x N) += A (M x K) * B (K x N), gathered from the lanes by `a` and `b` and spread by `d`; sums run through k.
template <class Lane, int M, int N, int K, class Real>
void combine(void* const* lanes) {
  Real a[M][K], b[K][N];
  for (int lane = 0; lane < emulator::kWarp; ++lane) static_cast<const Lane*>(lanes[lane])->give(lane, a, b);
  for (int lane = 0; lane < emulator::kWarp; ++lane)
    static_cast<Lane*>(lanes[lane])->each_sum(lane, [&](Real& sum, int row, int column) {
      for (int k = 0; k < K; ++k) sum += a[row][k] * b[k][column];
    });
}

// Accumulators of 16 rows, c0 to c3: row groupID for c0 and c1, groupID + 8 for c2 and c3; column threadID_in_group * 2
// + (i & 1).
struct SixteenRows {
  float* d;
  template <class Visit>
  void each_sum(int lane, const Visit& visit) {
    const int group = lane >> 2, in_group = lane % 4;
    for (int i = 0; i < 4; ++i) visit(d[i], i < 2 ? group : group + 8, in_group * 2 + (i & 1));
  }
};

// .m16n8k16 with .f16 or .bf16: a0 to a7 and b0 to b3, two in a register, the lower half first.
template <class T>
struct K16 : SixteenRows {
  const uint32_t *a, *b;
  static float element(const uint32_t* registers, int i) {
    return widen(T{static_cast<uint16_t>(registers[i / 2] >> (i % 2 * 16))});
  }
  void give(int lane, float (&whole_a)[16][16], float (&whole_b)[16][8]) const {
    const int group = lane >> 2, in_group = lane % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
      const int column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
      whole_a[row][column] = element(a, i);
    }
    for (int i = 0; i < 4; ++i) whole_b[in_group * 2 + (i & 1) + (i < 2 ? 0 : 8)][group] = element(b, i);
  }
};

// .m16n8k8 with .tf32: a0 to a3 and b0, b1. The hardware ignores the 13 low bits.
struct K8 : SixteenRows {
  const uint32_t *a, *b;
  static float element(uint32_t bits) { return bits_float(bits & 0xffffe000u); }
  void give(int lane, float (&whole_a)[16][8], float (&whole_b)[8][8]) const {
    const int group = lane >> 2, in_group = lane % 4;
    for (int i = 0; i < 4; ++i)
      whole_a[(i == 0 || i == 2) ? group : group + 8][i < 2 ? in_group : in_group + 4] = element(a[i]);
    for (int i = 0; i < 2; ++i) whole_b[in_group + 4 * i][group] = element(b[i]);
  }
};

// .m8n8k4 with .f64: one element of A and of B, two of the accumulators.
struct K4 {
  double* d;
  double a, b;
  void give(int lane, double (&whole_a)[8][4], double (&whole_b)[4][8]) const {
    whole_a[lane >> 2][lane % 4] = a;
    whole_b[lane % 4][lane >> 2] = b;
  }
  template <class Visit>
  void each_sum(int lane, const Visit& visit) {
    for (int i = 0; i < 2; ++i) visit(d[i], lane >> 2, lane % 4 * 2 + (i & 1));
  }
};

}  // namespace fragments

namespace fragments {

// ldmatrix .m8n8.x4: thread 8 i + j has the address of row j of matrix i, and each thread gets of every matrix the two
// elements of row lane / 4 that begin at column lane % 4 * 2; with .trans of column lane / 4, from that row on.
struct Matrices {
  const uint16_t* row;
  uint32_t* to;
  bool transposed;
};
inline void load(void* const* lanes) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t whole[8][8];
    for (int row = 0; row < 8; ++row)
      std::memcpy(whole[row], static_cast<const Matrices*>(lanes[8 * matrix + row])->row, 16);
    for (int lane = 0; lane < emulator::kWarp; ++lane) {
      const Matrices& thread = *static_cast<const Matrices*>(lanes[lane]);
      const int first = lane % 4 * 2, other = lane / 4;
      const uint16_t low = thread.transposed ? whole[first][other] : whole[other][first];
      const uint16_t high = thread.transposed ? whole[first + 1][other] : whole[other][first + 1];
      thread.to[matrix] = low | uint32_t{high} << 16;
    }
  }
}
inline void load(uint32_t (&to)[4], const void* row, bool transposed, const Where& where) {
  emulator::check_aligned(row, 16);
  Matrices lane{static_cast<const uint16_t*>(row), to, transposed};
  emulator::collective(load, &lane, where);
}

}  // namespace fragments

inline void load_matrices(uint32_t (&to)[4], const void* row, Where where = Where::current()) {
  fragments::load(to, row, false, where);
}
inline void load_matrices_transposed(uint32_t (&to)[4], const void* row, Where where = Where::current()) {
  fragments::load(to, row, true, where);
}

template <class T>
void multiply_accumulate(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], T,
                         Where where = Where::current()) {
  fragments::K16<T> lane{{d}, a, b};
  emulator::collective(fragments::combine<fragments::K16<T>, 16, 8, 16, float>, &lane, where);
}
inline void multiply_accumulate(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float,
                                Where where = Where::current()) {
  fragments::K8 lane{{d}, a, b};
  emulator::collective(fragments::combine<fragments::K8, 16, 8, 8, float>, &lane, where);
}
inline void multiply_accumulate(double (&d)[2], double a, double b, Where where = Where::current()) {
  fragments::K4 lane{d, a, b};
  emulator::collective(fragments::combine<fragments::K4, 8, 8, 4, double>, &lane, where);
}

}  // namespace convext::cuda
