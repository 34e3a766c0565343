// Comparing and carrying vectors for pooling. Include only from engine.inl.h.
//
// Smallest elements are found as the largest of flipped ones: a flip reverses the order (-x; for integers ~x, which
// never overflows), so that there is one kernel for both.
#pragma once

template <class A>
using Lane = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;

// Average pooling takes these types, as torch's does.
template <class T>
inline constexpr bool kSums = !std::is_integral_v<T> || sizeof(T) == 8;

template <class A>
inline A flipped(A x) {
  if constexpr (std::is_integral_v<A>) {
    return ~x;
  } else {
    return -x;
  }
}
template <class A>
inline Vector<A> flipped_lanes(Vector<A> x) {
  if constexpr (std::is_integral_v<A>) {
    return ~x;
  } else {
    return -x;
  }
}

// What padding holds: nothing is smaller. A window of nothing else keeps it, so it is the least of the stored type.
template <class T, class A>
inline A pool_filler(PoolKind kind, bool minimum) {
  if (is_sum(kind)) return A{0};
  if constexpr (std::is_integral_v<A>) {
    return minimum ? flipped<A>(std::numeric_limits<T>::max()) : A{std::numeric_limits<T>::min()};
  } else {
    return -std::numeric_limits<A>::infinity();
  }
}

// A NaN wins over everything before it, as in torch, so that the last one of a window stays.
template <class A>
inline bool wins(A x, A best) {
  return x > best || x != x;
}
template <class A>
inline auto wins_lanes(Vector<A> x, Vector<A> best) {
  return (x > best) | (x != x);
}

// The derivative of a root: t / y, and 0 where the root is.
template <class X>
inline X root_quotient(X t, X y) {
  return y == X{} ? X{} : t / y;
}

// Elements added one after the other before their sum is added to others': rounding errors grow with the chain.
inline constexpr int64_t kPoolChain = 256;

// What is added up: elements, or their squares.
template <PoolKind K, class X>
inline X summand(X x) {
  return K == PoolKind::kRoot ? x * x : x;
}

template <class T, class A>
inline void widen_row(const T* from, int64_t step, int64_t n, bool flip, A* to) {
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) to[i] = widen(from[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = widen(from[i * step]);
  }
  if (flip)
    for (int64_t i = 0; i < n; ++i) to[i] = flipped(to[i]);
}

template <class A>
inline void narrow_offsets(const Lane<A>* from, int64_t n, void* to, int bytes, int64_t at, int64_t step) {
  const auto write = [&](auto* row) {
    using Stored = std::remove_pointer_t<decltype(row)>;
    row += at;
    if (step == 1) {
      for (int64_t i = 0; i < n; ++i) row[i] = static_cast<Stored>(from[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) row[i * step] = static_cast<Stored>(from[i]);
    }
  };
  if (bytes == 1) return write(static_cast<uint8_t*>(to));
  if (bytes == 2) return write(static_cast<int16_t*>(to));
  write(static_cast<int32_t*>(to));
}

template <class A>
inline void widen_offsets(const void* from, int bytes, int64_t at, int64_t step, int64_t n, Lane<A>* to) {
  const auto read = [&](auto* row) {
    row += at;
    if (step == 1) {
      for (int64_t i = 0; i < n; ++i) to[i] = row[i];
    } else {
      for (int64_t i = 0; i < n; ++i) to[i] = row[i * step];
    }
  };
  if (bytes == 1) return read(static_cast<const uint8_t*>(from));
  if (bytes == 2) return read(static_cast<const int16_t*>(from));
  read(static_cast<const int32_t*>(from));
}

// N integers of one width to another, doubling it at each step: GCC 12 takes a wider step element by element.
template <class To, int N, class From, class Packed>
inline auto widen_lanes(Packed from) {
  if constexpr (sizeof(From) == sizeof(To)) {
    typedef To Wide __attribute__((vector_size(N * sizeof(To))));
    return static_cast<Wide>(from);
  } else {
    using Next =
        std::conditional_t<sizeof(From) == 1, int16_t, std::conditional_t<sizeof(From) == 2, int32_t, int64_t>>;
    typedef Next Wider __attribute__((vector_size(N * sizeof(Next))));
    return widen_lanes<To, N, Next>(__builtin_convertvector(from, Wider));
  }
}

// A vector of winners to the recorded type.
template <class A>
inline void narrow_offset_lanes(Vector<Lane<A>> taps, void* to, int bytes, int64_t at) {
  const auto write = [&](auto* row) {
    using Stored = std::remove_pointer_t<decltype(row)>;
    typedef Stored Packed __attribute__((vector_size(kLanes<A> * sizeof(Stored)), aligned(sizeof(Stored)), may_alias));
    *reinterpret_cast<Packed*>(row + at) = __builtin_convertvector(taps, Packed);
  };
  if (bytes == 1) return write(static_cast<uint8_t*>(to));
  if (bytes == 2) return write(static_cast<int16_t*>(to));
  write(static_cast<int32_t*>(to));
}

// x where the condition holds, 0 elsewhere. x was loaded without the condition: GCC would make one masked load of the
// two, which waits for the condition, and on Zen 5 the whole adjoint takes 1.7 times as long.
template <class A>
inline Vector<A> where(Vector<Lane<A>> condition, Vector<A> x) {
#if defined(__x86_64__)
  asm("" : "+v"(x));
#endif
  return condition ? x : Vector<A>{};
}

// A vector of recorded winners. An unsigned byte of no winner gives 255, which no window has for a tap.
template <class A, class Offset>
inline Vector<Lane<A>> load_offset_lanes(const Offset* from) {
  typedef Offset Packed __attribute__((vector_size(kLanes<A> * sizeof(Offset)), aligned(alignof(Offset)), may_alias));
  return widen_lanes<Lane<A>, kLanes<A>, Offset>(*reinterpret_cast<const Packed*>(from));
}

template <class A>
inline Vector<A> root(Vector<A> x) {
  for (int i = 0; i < kLanes<A>; ++i) x[i] = std::sqrt(x[i]);
  return x;
}

// The regular windows of a block of outputs over the phases of one row (see PoolColumns).
template <class A>
struct PoolPhases {
  const PoolAxis& axis;
  A* data;  // count rows of phase_length
  int64_t phase_length;
  A** taps;            // tap t of output i of the block is taps[t][i]
  int64_t origin = 0;  // the input column of the first place
  int64_t length = 0;  // columns from the first tap of the first output to the last tap of the last
  int64_t count = 0;

  void set_taps() {
    count = 0;
    for (int64_t t = 0; t < axis.kernel; ++t) {
      const int64_t x = t * axis.dilation;
      int64_t u = 0;  // an earlier tap of the same phase
      while (u < t && (t - u) * axis.dilation % axis.stride != 0) ++u;
      A* row = u < t ? taps[u] - u * axis.dilation / axis.stride : data + phase_length * count++;
      taps[t] = row + x / axis.stride;
    }
  }

  void set_block(int64_t first_output, int64_t outputs) {
    origin = first_output * axis.stride - axis.lo;
    length = (outputs - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
  }

  // Calls visit(phase, row) for each phase that some tap reads.
  template <class Visit>
  void for_each_phase(Visit visit) const {
    int64_t seen = 0;
    for (int64_t t = 0; t < axis.kernel && seen < count; ++t) {
      A* row = data + phase_length * seen;
      if (taps[t] - t * axis.dilation / axis.stride == row) {
        visit(t * axis.dilation % axis.stride, row);
        ++seen;
      }
    }
  }

  // linear -> phases
  void split(const A* linear) const {
    constexpr int W = kLanes<A>;
    const int64_t s = axis.stride;
    for_each_phase([&](int64_t phase, A* row) {
      const int64_t n = (length - phase + s - 1) / s;
      if (s == 2) {
        for (int64_t i = 0; i < n; i += W) {
          const Vector<A> a = load(linear + 2 * i), b = load(linear + 2 * i + W);
          store(row + i, phase == 0 ? even_lanes<A>(a, b) : odd_lanes<A>(a, b));
        }
      } else {
        for (int64_t i = 0; i < n; ++i) row[i] = linear[phase + i * s];
      }
    });
  }

  // phases -> linear; columns of phases that no tap reads are left alone.
  void join(A* linear) const {
    constexpr int W = kLanes<A>;
    const int64_t s = axis.stride;
    if (s == 2 && count == 2) {
      const A *even = data, *odd = data + phase_length;  // tap 0 has phase 0
      for (int64_t i = 0; 2 * i < length; i += W) {
        const Vector<A> a = load(even + i), b = load(odd + i);
        store(linear + 2 * i, interleave_low<A>(a, b));
        store(linear + 2 * i + W, interleave_high<A>(a, b));
      }
      return;
    }
    for_each_phase([&](int64_t phase, const A* row) {
      const int64_t n = (length - phase + s - 1) / s;
      for (int64_t i = 0; i < n; ++i) linear[phase + i * s] = row[i];
    });
  }
};
