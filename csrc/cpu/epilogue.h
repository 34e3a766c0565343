// What follows a finished sum (../epilogue.h), applied where the sums lie in L1: in a tile or a band of scratch memory
// that is about to be written, or in the tile of the result that the micro-kernel has just written. Include only from
// engine.inl.h.
//
//   for each tile or band, when its last reduction block is added:
//     add_residual   line by line, for its lines are the result's
//     activate       all of it, in whole vectors
//     write, narrowed once
//
// The bias is not here: it is what the first block's sum is added to. The micro-kernel knows nothing of all this, so a
// convolution without an epilogue runs the same instructions as ever; one with it costs a load, the function and a
// store a vector, in L1, and no memory traffic.
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

// `activated` on a vector.
template <Activation kind, class A>
inline Vector<A> activate_vector(Vector<A> x, A slope) {
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

// Rows of whole vectors, in place.
template <Activation kind, class A>
void activate_rows(A* values, int64_t distance, int64_t rows, int64_t columns, A slope) {
  for (int64_t i = 0; i < rows; ++i, values += distance)
    for (int64_t j = 0; j < columns; j += kLanes<A>)
      store(values + j, activate_vector<kind, A>(load(values + j), slope));
}

// The epilogue of a job, for whoever has finished sums of it.
template <class T, class A>
class EpilogueOf {
 public:
  explicit EpilogueOf(const ConvJob& job)
      : epilogue_(job.epilogue),
        residual_(static_cast<const T*>(job.epilogue.residual)),
        result_(static_cast<const T*>(job.result)) {}

  // Whether there is nothing to do.
  bool is_bias() const { return epilogue_.is_bias(); }
  bool has_residual() const { return residual_; }

  // The residual of a result element.
  const T* residual_of(const T* to) const { return residual_ + (to - result_); }

  // values[i * step] += the residual of to[i * to_step], for n results.
  void add_residual(A* values, int64_t step, const T* to, int64_t to_step, int64_t n) const {
    if (!residual_) return;
    const T* from = residual_of(to);
    int64_t i = 0;
    if (step == 1 && to_step == 1)
      for (; i + kLanes<A> <= n; i += kLanes<A>) store(values + i, load(values + i) + load_widened<A>(from + i));
    for (; i < n; ++i) values[i * step] += widen(from[i * to_step]);
  }

  // Activates rows of whole vectors in place; `columns` is rounded up to them.
  void activate(A* values, int64_t distance, int64_t rows, int64_t columns) const {
    const A slope = static_cast<A>(epilogue_.slope);
    switch (epilogue_.activation) {
      case Activation::kNone: return;
      case Activation::kRelu: return activate_rows<Activation::kRelu>(values, distance, rows, columns, slope);
      case Activation::kRelu6: return activate_rows<Activation::kRelu6>(values, distance, rows, columns, slope);
      case Activation::kLeakyRelu: return activate_rows<Activation::kLeakyRelu>(values, distance, rows, columns, slope);
      case Activation::kSilu: return activate_rows<Activation::kSilu>(values, distance, rows, columns, slope);
      case Activation::kSigmoid: return activate_rows<Activation::kSigmoid>(values, distance, rows, columns, slope);
      case Activation::kHardswish: return activate_rows<Activation::kHardswish>(values, distance, rows, columns, slope);
      case Activation::kGeluTanh: return activate_rows<Activation::kGeluTanh>(values, distance, rows, columns, slope);
    }
  }

 private:
  const Epilogue& epilogue_;
  const T* residual_;
  const T* result_;
};
