// Vectors of the ISA that this file is compiled for, and a transpose made of them. Include only from engine.inl.h.
//
// kVectorBytes is set by the including file; everything here is GCC/Clang vector extensions, so that one text serves
// SSE2, AVX2, AVX-512 and NEON.
#pragma once

template <class A>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kVectorBytes)));
  // A lane may also be a pair of 16-bit elements, wherever one begins (pairs.h).
  typedef A unaligned __attribute__((vector_size(kVectorBytes), aligned(1), may_alias));
};
template <class A>
using Vector = typename VectorOf<A>::type;

template <class A>
inline Vector<A> load(const A* p) {
  return *reinterpret_cast<const typename VectorOf<A>::unaligned*>(p);
}
template <class A>
inline void store(A* p, Vector<A> v) {
  *reinterpret_cast<typename VectorOf<A>::unaligned*>(p) = v;
}

// N numbers, where less than a vector is moved.
template <class Bits, int N>
struct Group {
  typedef Bits type __attribute__((vector_size(N * sizeof(Bits))));
};

// Eight sums in flight hide the latency of an FMA.
inline constexpr int kMostInFlight = 8;

// Lane i of the result is lane index(i) of the concatenation of a and b.
template <class A, class Index, std::size_t... I>
inline Vector<A> shuffle(Vector<A> a, Vector<A> b, Index index, std::index_sequence<I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, static_cast<int>(index(I))...);
#else
  using Lane = std::conditional_t<sizeof(A) == 8, int64_t, std::conditional_t<sizeof(A) == 4, int32_t, int16_t>>;
  typedef Lane Mask __attribute__((vector_size(kVectorBytes)));
  return __builtin_shuffle(a, b, Mask{static_cast<Lane>(index(I))...});
#endif
}
template <class A>
using LaneSequence = std::make_index_sequence<kLanes<A>>;

template <class A>
inline Vector<A> interleave_low(Vector<A> a, Vector<A> b) {
  constexpr auto index = [](std::size_t i) { return i / 2 + (i % 2) * kLanes<A>; };
  return shuffle<A>(a, b, index, LaneSequence<A>{});
}
template <class A>
inline Vector<A> interleave_high(Vector<A> a, Vector<A> b) {
  constexpr auto index = [](std::size_t i) { return i / 2 + (i % 2) * kLanes<A> + kLanes<A> / 2; };
  return shuffle<A>(a, b, index, LaneSequence<A>{});
}
// Every second lane of the 2 * kLanes lanes of a and b.
template <class A>
inline Vector<A> even_lanes(Vector<A> a, Vector<A> b) {
  constexpr auto index = [](std::size_t i) { return 2 * i; };
  return shuffle<A>(a, b, index, LaneSequence<A>{});
}

template <class A>
inline Vector<A> odd_lanes(Vector<A> a, Vector<A> b) {
  constexpr auto index = [](std::size_t i) { return 2 * i + 1; };
  return shuffle<A>(a, b, index, LaneSequence<A>{});
}

// even_lanes where b was loaded one element early, so that it ends with the last even lane.
template <class A>
inline Vector<A> even_lanes_overlapping(Vector<A> a, Vector<A> b) {
  constexpr auto index = [](std::size_t i) { return 2 * i + (i >= kLanes<A> / 2); };
  return shuffle<A>(a, b, index, LaneSequence<A>{});
}

// Copies len < N elements with at most two overlapping moves of a power of two, so that nothing outside is touched.
template <int N, class A>
inline void copy_fewer(A* to, const A* from, int64_t len) {
  if constexpr (N > 1) {
    constexpr int half = N / 2;
    if (len >= half) {
      A head[half], tail[half];
      std::memcpy(head, from, sizeof head);
      std::memcpy(tail, from + len - half, sizeof tail);
      std::memcpy(to, head, sizeof head);
      std::memcpy(to + len - half, tail, sizeof tail);
    } else {
      copy_fewer<half>(to, from, len);
    }
  }
}

// Copies len elements, reading and writing nothing outside of them.
template <class A>
inline void copy_row(A* to, const A* from, int64_t len) {
  constexpr int W = kLanes<A>;
  if (len < W) return copy_fewer<W>(to, from, len);
  int64_t i = 0;
  for (; i + W <= len; i += W) store(to + i, load(from + i));
  if (i < len) store(to + len - W, load(from + len - W));
}

// log2(kRows) stages, each of which rotates the bits of the (row, column) index by one.
template <class A, int kRows>
[[gnu::always_inline]] inline void shuffle_stages(Vector<A> (&v)[kRows]) {
#pragma GCC unroll 4
  for (int stage = 1; stage < kRows; stage *= 2) {
    Vector<A> next[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows / 2; ++r) {
      next[2 * r] = interleave_low<A>(v[r], v[r + kRows / 2]);
      next[2 * r + 1] = interleave_high<A>(v[r], v[r + kRows / 2]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) v[r] = next[r];
  }
}

// Transposes kLanes x kLanes.
template <class A>
inline void transpose_square(Vector<A> (&v)[kLanes<A>]) {
  shuffle_stages<A>(v);
}

// to[i * kWidth + r] = from[r * kLanes + i]: what kWidth vectors have in a lane stands together. Rows from kFirst on
// are turned by powers of two, which takes log2 of as many stages: 9 rows of 16 lanes are 24 shuffles and 16 copies, as
// 16 rows of which 7 are empty they would be 64. Nothing is written beyond kWidth vectors.
template <class A, int kWidth, int kFirst = 0>
inline void interleave_rows(const A* from, A* to) {
  constexpr int W = kLanes<A>, kLeft = kWidth - kFirst;
  constexpr int kRows = kLeft >= W ? W : static_cast<int>(std::bit_floor(static_cast<unsigned>(kLeft)));
  const A* row = from + kFirst * W;
  if constexpr (kRows == 1) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) to[i * kWidth + kFirst] = row[i];
  } else {
    Vector<A> v[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) v[r] = load(row + r * W);
    shuffle_stages<A>(v);
    constexpr int kParts = W / kRows;  // of a vector: a lane's rows each
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i)
      std::memcpy(to + i * kWidth + kFirst, reinterpret_cast<const A*>(&v[i / kParts]) + i % kParts * kRows,
                  kRows * sizeof(A));
  }
  if constexpr (kRows < kLeft) interleave_rows<A, kWidth, kFirst + kRows>(from, to);
}

// A vector of elements, widened to the type they are summed in. bfloat16 and float16 are spelled out, as in
// store_narrowed.
template <class A, class T>
inline Vector<A> load_widened(const T* from) {
  if constexpr (std::is_same_v<T, A>) {
    return load(from);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
    typedef uint16_t Elements __attribute__((vector_size(kVectorBytes / 2)));
    Elements elements;
    std::memcpy(&elements, from, sizeof elements);
    return reinterpret_cast<Vector<A>>(__builtin_convertvector(elements, Bits) << 16);
  } else if constexpr (std::is_same_v<T, Half>) {
    typedef int32_t Bits __attribute__((vector_size(kVectorBytes)));  // which compare faster than unsigned ones
    typedef uint16_t Elements __attribute__((vector_size(kVectorBytes / 2)));
    Elements elements;
    std::memcpy(&elements, from, sizeof elements);
    const Bits bits = __builtin_convertvector(elements, Bits);
    const Bits magnitude = (bits & 0x7fff) << 13, sign = bits >> 15 << 31;
    const Bits scaled = reinterpret_cast<Bits>(reinterpret_cast<Vector<A>>(magnitude) * 0x1p112f);
    return reinterpret_cast<Vector<A>>((magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : scaled) | sign);
  } else {
    A wide[kLanes<A>];
    for (int i = 0; i < kLanes<A>; ++i) wide[i] = widen(from[i]);
    return load(wide);
  }
}

// The first `count` lanes from p on, reading nothing beyond them.
template <class A, class T>
inline Vector<A> load_first(const T* p, int64_t count) {
  if (count == kLanes<A>) return load_widened<A>(p);
  T part[kLanes<A>] = {};
  copy_fewer<kLanes<A>>(part, p, count);
  return load_widened<A>(part);
}

// A vector of every kStep-th element; of every second one it reads nothing beyond the last.
template <class A, int kStep, class T>
inline Vector<A> load_apart(const T* from) {
  if constexpr (kStep == 1) {
    return load_widened<A>(from);
  } else {
    static_assert(kStep == 2);
    return even_lanes_overlapping<A>(load(from), load(from + kLanes<A> - 1));
  }
}

// to[i * width + r] = rows[r][i * kStep], widened, for i < len and r < width.
//
// Whole vectors are stored: what spills over the end of a row of `to` is rewritten by the next row, and nothing is
// written beyond the last. `readable`: whole vectors may be loaded beyond the rows' ends too.
template <int kStep = 1, class A, class T>
inline void transpose_rows(const T* const* rows, int width, int64_t len, A* to, bool readable = false) {
  constexpr int W = kLanes<A>;
  const int last_block = (width - 1) / W * W;
  const A* end = to + len * width;
  for (int64_t i = 0; i < len; i += W) {
    if (len >= W) i = std::min<int64_t>(i, len - W);  // the last block overlaps the one before it
    const int64_t n = std::min<int64_t>(W, len - i);
    for (int r0 = last_block; r0 >= 0; r0 -= W) {  // descending: what a block spills over, the block before it rewrites
      const T* const* row = rows + r0;
      const int last = std::min(W, width - r0) - 1;  // which stands for those that are not there
      Vector<A> v[W];
      if (n == W || readable) {
#pragma GCC unroll 16
        for (int r = 0; r < W; ++r) v[r] = load_apart<A, kStep>(row[std::min(r, last)] + i * kStep);
      } else {
        for (int r = 0; r < W; ++r) {
          T part[W] = {};
          const T* from = row[std::min(r, last)] + i * kStep;
          if constexpr (kStep == 1) {
            copy_fewer<W>(part, from, n);
          } else {
            for (int64_t j = 0; j < n; ++j) part[j] = from[j * kStep];
          }
          v[r] = load_widened<A>(part);
        }
      }
      transpose_square<A>(v);
      A* at = to + i * width + r0;
      if (n == W && at + (W - 1) * width + W <= end) {
#pragma GCC unroll 16
        for (int j = 0; j < W; ++j) store(at + j * width, v[j]);
        continue;
      }
      A turned[W * W];
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) store(turned + j * W, v[j]);
      for (int64_t j = 0; j < n; ++j, at += width) {
        if (at + W <= end) {
          store(at, load(turned + j * W));
        } else {
          copy_row(at, turned + j * W, last + 1);
        }
      }
    }
  }
}

// The same back. bfloat16 is spelled out: where the loop over lanes is inlined into another, compilers leave it scalar.
template <class T, class A>
inline void store_narrowed(T* to, Vector<A> v) {
  if constexpr (std::is_same_v<T, A>) {
    store(to, v);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
    typedef uint16_t Elements __attribute__((vector_size(kVectorBytes / 2)));
    const Bits bits = reinterpret_cast<Bits>(v);
    const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Elements elements = __builtin_convertvector(v == v ? rounded : Bits{} + 0x7fc0, Elements);
    std::memcpy(to, &elements, sizeof elements);
  } else {
    A wide[kLanes<A>];
    store(wide, v);
    for (int i = 0; i < kLanes<A>; ++i) to[i] = Narrow<T>::from(wide[i]);
  }
}

// Writes the first `count` lanes of a vector.
template <class A, class T>
inline void store_first(T* p, Vector<A> v, int64_t count) {
  if (count == kLanes<A>) return store_narrowed<T, A>(p, v);
  T part[kLanes<A>];
  store_narrowed<T, A>(part, v);
  copy_fewer<kLanes<A>>(p, part, count);
}

// N sums narrowed to bfloat16, as store_narrowed.
template <int N>
inline void narrow_group(BFloat16* to, const float* from) {
  if constexpr (N == 1) {
    *to = Narrow<BFloat16>::from(*from);
  } else {
    using Bits = typename Group<uint32_t, N>::type;
    typename Group<float, N>::type v;
    std::memcpy(&v, from, sizeof v);
    const Bits bits = reinterpret_cast<Bits>(v);
    const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const auto elements =
        __builtin_convertvector(v == v ? rounded : Bits{} + 0x7fc0, typename Group<uint16_t, N>::type);
    std::memcpy(to, &elements, sizeof elements);
  }
}
// n < N of them, with at most two overlapping groups: a row put together in memory would wait for its parts.
template <int N>
inline void narrow_fewer(BFloat16* to, const float* from, int64_t n) {
  if constexpr (N > 1) {
    constexpr int kHalf = N / 2;
    if (n < kHalf) return narrow_fewer<kHalf>(to, from, n);
    narrow_group<kHalf>(to, from);
    narrow_group<kHalf>(to + n - kHalf, from + n - kHalf);
  }
}

// Writes n finished sums, fewer than a vector, narrowed to the element type.
template <class T, class A>
inline void store_few(T* to, const A* from, int64_t n) {
  constexpr int W = kLanes<A>;
  if constexpr (std::is_same_v<T, BFloat16> && std::is_same_v<A, float>) {
    narrow_fewer<W>(to, from, n);
  } else {
    A wide[W] = {};
    T narrow[W];
    copy_fewer<W>(wide, from, n);
    store_narrowed<T, A>(narrow, load(wide));
    copy_fewer<W>(to, narrow, n);
  }
}

// Writes n finished sums, narrowed to the element type.
template <class T, class A>
inline void store_line(T* to, int64_t to_step, const A* from, int64_t from_step, int64_t n) {
  if (to_step == 1 && from_step == 1) {
    constexpr int W = kLanes<A>;
    if (n < W) return store_few(to, from, n);
    int64_t i = 0;
    for (; i + W <= n; i += W) store_narrowed<T, A>(to + i, load(from + i));
    if (i < n) store_narrowed<T, A>(to + n - W, load(from + n - W));
  } else {
    for (int64_t i = 0; i < n; ++i) to[i * to_step] = Narrow<T>::from(from[i * from_step]);
  }
}
