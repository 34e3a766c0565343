// What follows a finished sum (../epilogue.h), on its way from cache to the result. Include only from engine.inl.h.
//
//   result = narrow(activation(sum + residual))          the sum begins with the bias
//
// A tile that the micro-kernel writes in place is finished in its registers if the activation is a clamp (none, relu,
// relu6): to write it first and come back costs more than a pass over the whole result, for the lines of the result are
// not in cache yet. All others lie in scratch memory, and `write` takes them from there to the result instead
// of copying them.
#pragma once

template <class A>
using LaneInteger = std::conditional_t<sizeof(A) == 8, uint64_t, uint32_t>;

// e^x, at most 1.5 ulp off; below the smallest number 0 or a subnormal one, above the largest infinity, NaN for NaN.
//
// e^x = 2^n e^f, n the integer nearest to x / log 2. |f| <= 0.3466, where the first term of the series that is left out
// is below a tenth of the last bit. 2^n comes as two factors, for n reaches beyond the exponents.
template <class A>
inline Vector<A> exponential(Vector<A> x) {
  typedef LaneInteger<A> Bits __attribute__((vector_size(kVectorBytes)));
  constexpr bool kDouble = sizeof(A) == 8;
  constexpr int kMantissa = kDouble ? 52 : 23;
  constexpr LaneInteger<A> kBias = kDouble ? 1023 : 127;
  constexpr A kFarthest = kDouble ? A{750} : A{105};                         // e^x is 0 or infinite there
  constexpr A kRound = kDouble ? A{6755399441055744} : A{12582912};          // 1.5 * 2^52: see response_norm.h
  constexpr A kLogTwoHead = kDouble ? A{0x1.62e42fefap-1} : A{0x1.62e4p-1};  // n * head is exact
  constexpr A kLogTwoTail = kDouble ? A{0x1.cf79abc9e3b3ap-40} : A(0x1.7f7d1cf79abcap-20);
  x = x > kFarthest ? Vector<A>{} + kFarthest : x;
  x = x < -kFarthest ? Vector<A>{} - kFarthest : x;
  const Vector<A> shifted = x * A(1.4426950408889634) + kRound, n = shifted - kRound;
  const Vector<A> f = (x - n * kLogTwoHead) - n * kLogTwoTail;
  Vector<A> series = {};
  if constexpr (kDouble) {
    series += 1 / 6227020800.0;
    series = series * f + 1 / 479001600.0;
    series = series * f + 1 / 39916800.0;
    series = series * f + 1 / 3628800.0;
    series = series * f + 1 / 362880.0;
    series = series * f + 1 / 40320.0;
    series = series * f + 1 / 5040.0;
  } else {
    series += A(1 / 5040.0);
  }
  series = series * f + A(1 / 720.0);
  series = series * f + A(1 / 120.0);
  series = series * f + A(1 / 24.0);
  series = series * f + A(1 / 6.0);
  series = series * f + A(0.5);
  series = series * f + A(1);
  series = series * f + A(1);
  // n + 2 * bias > 0 in two halves: each is the biased exponent of a factor
  constexpr LaneInteger<A> kRoundBits = std::bit_cast<LaneInteger<A>>(kRound);
  const Bits biased = reinterpret_cast<Bits>(shifted) - (kRoundBits - 2 * kBias);
  const Bits half = biased >> 1, rest = biased - half;
  return series * reinterpret_cast<Vector<A>>(half << kMantissa) * reinterpret_cast<Vector<A>>(rest << kMantissa);
}

// `activated`, on a vector.
template <Activation kind, class A>
inline Vector<A> activate(Vector<A> x, A slope) {
  const Vector<A> zero = {};
  const auto up_to_six = [&](Vector<A> v) {
    v = v < zero ? zero : v;
    return v > A{6} ? zero + A{6} : v;
  };
  if constexpr (kind == Activation::kRelu) return x < zero ? zero : x;
  if constexpr (kind == Activation::kRelu6) return up_to_six(x);
  if constexpr (kind == Activation::kLeakyRelu) return x > zero ? x : x * slope;
  if constexpr (kind == Activation::kSilu) return x / (A{1} + exponential<A>(-x));
  if constexpr (kind == Activation::kSigmoid) return A{1} / (A{1} + exponential<A>(-x));
  if constexpr (kind == Activation::kHardswish) return x * up_to_six(x + A{3}) / A{6};
  if constexpr (kind == Activation::kGeluTanh) {
    constexpr double kRootTwoOverPi = 0.79788456080286535588;
    const Vector<A> minus_two_u = x * (A(-2 * kRootTwoOverPi) + A(-2 * kRootTwoOverPi * 0.044715) * x * x);
    return x / (A{1} + exponential<A>(minus_two_u));
  }
}

// min(max(sum + residual, least), most); NaN stays.
template <class A>
struct Clamp {
  A least, most;
};
template <class A>
inline Vector<A> clamped(Vector<A> v, const Clamp<A>& clamp) {
  const Vector<A> least = Vector<A>{} + clamp.least, most = Vector<A>{} + clamp.most;
  v = v < least ? least : v;
  return v > most ? most : v;
}

// `rows` lines of `length` finished sums, and where their results go.
template <class T, class A>
struct SumLines {
  T* to;
  int64_t to_row, to_step;
  const A* from;
  int64_t from_row, from_step;
  int64_t rows, length;
};

// The epilogue of a job. An algorithm that has finished sums in scratch memory calls `write` where it would have called
// store_line, or, where it writes vectors of its own making, `with_activation`.
template <class T, class A>
class EpilogueOf {
  static constexpr A kInfinity = std::numeric_limits<A>::infinity();

 public:
  explicit EpilogueOf(const ConvJob& job)
      : epilogue_(job.epilogue),
        residual_(static_cast<const T*>(job.epilogue.residual)),
        result_(static_cast<const T*>(job.result)),
        clamp_{job.epilogue.activation == Activation::kNone ? -kInfinity : A{0},
               job.epilogue.activation == Activation::kRelu6 ? A{6} : kInfinity} {}

  // Whether the sums are the result.
  bool is_bias() const { return epilogue_.is_bias(); }
  bool has_residual() const { return residual_; }
  // The residual of a result element.
  const T* residual_of(const T* to) const { return residual_ + (to - result_); }

  bool is_clamp() const { return epilogue_.activation <= Activation::kRelu6; }
  const Clamp<A>& clamp() const { return clamp_; }

  // Calls visit(activate) with the activation as a function of a vector, compiled for it.
  template <class Visit>
  void with_activation(Visit visit) const {
    using V = Vector<A>;
    const A slope = static_cast<A>(epilogue_.slope);
    switch (epilogue_.activation) {
      case Activation::kNone: return visit([](V v) { return v; });
      case Activation::kRelu: return visit([](V v) { return activate<Activation::kRelu, A>(v, 0); });
      case Activation::kRelu6: return visit([](V v) { return activate<Activation::kRelu6, A>(v, 0); });
      case Activation::kLeakyRelu: return visit([=](V v) { return activate<Activation::kLeakyRelu, A>(v, slope); });
      case Activation::kSilu: return visit([](V v) { return activate<Activation::kSilu, A>(v, 0); });
      case Activation::kSigmoid: return visit([](V v) { return activate<Activation::kSigmoid, A>(v, 0); });
      case Activation::kHardswish: return visit([](V v) { return activate<Activation::kHardswish, A>(v, 0); });
      case Activation::kGeluTanh: return visit([](V v) { return activate<Activation::kGeluTanh, A>(v, 0); });
    }
  }

  // The sums of `count` results from to[0] on, step apart, with their residuals.
  Vector<A> add_residual(Vector<A> sum, const T* to, int64_t step, int64_t count) const {
    if (!residual_) return sum;
    const T* from = residual_of(to);
    if (step == 1 && count == kLanes<A>) return sum + load_widened<A>(from);
    A part[kLanes<A>] = {};
    for (int64_t i = 0; i < count; ++i) part[i] = widen(from[i * step]);
    return sum + load(part);
  }

  // values[i * step] += the residual of to[i * to_step], for n of them.
  void add_residuals(A* values, int64_t step, const T* to, int64_t to_step, int64_t n) const {
    const T* from = residual_of(to);
    for (int64_t i = 0; i < n; ++i) values[i * step] += widen(from[i * to_step]);
  }
  // Activates rows of whole vectors where they are: for scratch whose lines are too short for `write`.
  [[gnu::noinline]] void activate_rows(A* values, int64_t distance, int64_t rows, int64_t columns) const {
    with_activation([&](auto activate) {
      for (int64_t i = 0; i < rows; ++i, values += distance)
        for (int64_t j = 0; j < columns; j += kLanes<A>) store(values + j, activate(load(values + j)));
    });
  }

  // Writes the results of lines of sums. Where from_step is 1 a vector may be read from beyond a line's last sum. Many
  // lines a call, for a call costs about forty cycles.
  [[gnu::noinline]] void write(const SumLines<T, A>& lines) const {
    const EpilogueOf epilogue = *this;  // a store to the result cannot change it
    const bool contiguous = lines.to_step == 1 && lines.from_step == 1;
    with_activation([&](auto activate) {
      T* to = lines.to;
      const A* from = lines.from;
      for (int64_t row = 0; row < lines.rows; ++row, to += lines.to_row, from += lines.from_row) {
        if (contiguous && lines.length >= kLanes<A>) {
          epilogue.write_vectors(to, from, lines.length, activate);
        } else {
          epilogue.write_parts(to, lines.to_step, from, lines.from_step, lines.length, activate);
        }
      }
    });
  }

 private:
  template <class Activate>
  void write_vectors(T* to, const A* from, int64_t n, Activate activate) const {
    constexpr int W = kLanes<A>;
    for (int64_t i = 0; i < n; i += W) {
      const int64_t at = std::min(i, n - W);  // the last vector writes some results again
      store_narrowed<T, A>(to + at, activate(add_residual(load(from + at), to + at, 1, W)));
    }
  }
  template <class Activate>
  void write_parts(T* to, int64_t to_step, const A* from, int64_t from_step, int64_t n, Activate activate) const {
    constexpr int W = kLanes<A>;
    for (int64_t i = 0; i < n; i += W, from += W * from_step, to += W * to_step) {
      const int64_t count = std::min<int64_t>(W, n - i);
      A part[W] = {};
      if (from_step != 1)
        for (int64_t k = 0; k < count; ++k) part[k] = from[k * from_step];
      const Vector<A> sum = from_step == 1 ? load(from) : load(part);
      store(part, activate(add_residual(sum, to, to_step, count)));
      for (int64_t k = 0; k < count; ++k) to[k * to_step] = Narrow<T>::from(part[k]);
    }
  }

  const Epilogue& epilogue_;
  const T* residual_;
  const T* result_;
  Clamp<A> clamp_;
};
