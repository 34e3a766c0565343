// The product of a level with bfloat16 dot products. Include only from engine_pairs.inl.h.
#pragma once

// An element of a panel is the bits of two neighbouring bfloat16 terms: one instruction adds both products of a lane.
// It takes subnormal numbers for zero and rounds in its own way (to nearest even, whatever the thread's mode).
struct DotProduct {
  static constexpr int kTerms = 2;
  // The broadcast must not add to zero: the sum flushes a pair whose second term is zero, a subnormal float, where the
  // thread flushes those.
  static Vector<float> add(Vector<float> sum, Vector<float> b, float a) {
    return add(sum, b, (Vector<float>)_mm512_set1_epi32(__builtin_bit_cast(int, a)));
  }
  static Vector<float> add(Vector<float> sum, Vector<float> a, Vector<float> b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
  // Lane i: the two elements at from[index[2 * i]] and from[index[2 * i + 1]], of the kReach that are read.
  static constexpr int kReach = 64;
  template <class T>
  static Vector<float> pick(const T* from, Vector<uint16_t> index) {
    const __m512i low = _mm512_loadu_si512(from), high = _mm512_loadu_si512(from + kReach / 2);
    return (__m512)_mm512_permutex2var_epi16(low, (__m512i)index, high);
  }
  // Element i: from[index[i]] where bit i of `reads` is set, else zero.
  static __m512i pick_or_zero(const uint16_t* from, Vector<uint16_t> index, uint32_t reads) {
    const __m512i low = _mm512_loadu_si512(from), high = _mm512_loadu_si512(from + kReach / 2);
    return _mm512_maskz_permutex2var_epi16(reads, low, (__m512i)index, high);
  }
};
