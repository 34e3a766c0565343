// Local response normalisation, forward and backward, in one pass over the input. Include only from engine.inl.h.
//
//   r_c  = k + scale * sum of x_j^2,  j in [c - before, c + after]           scale = alpha / size
//   y_c  = x_c / r_c^beta
//   dx_i = g_i / r_i^beta - 2 scale beta x_i * sum of t_c,  c in [i - after, i + before],   t_c = g_c x_c /
//   r_c^(beta+1)
//
// A unit is a block of pixels with all of its channels. Its squares lie in a buffer with rows of zeros at both ends, so
// that the window needs no edges:
//
//     pixels p ->   0 0 0 0     `before` rows
//                   x_0^2       one row a channel: the sum for channel c is rows c .. c + before + after,
//                   x_1^2       each added to the whole row as vectors; no sum is taken over by subtracting, for one
//                   ...         infinity would stay in it for ever
//                   0 0 0 0     `after` rows
//
// In NCHW a block is many pixels of one sample; channels_last has one pixel a row, and the block is many rows. The
// buffer is the same, with the pixels' count for the distance of two channels. Narrow types are computed in float32.
#pragma once

// Values computed at once: on the stack, in L1.
inline constexpr int64_t kNormChunk = 256;

// r^e for positive finite r by logarithm and exponential in double: 2^-40 off at most, correctly rounded to float
// nearly always. Written so that the compiler makes vectors of it at every level, hence the integers of 64 bits by
// hand.
inline double power_of_normal(double r, double e) {
  constexpr uint64_t kOneBits = 0x3ff0000000000000u, kMantissa = 0x000fffffffffffffu;
  constexpr uint64_t kHalfRoot = 0x0006a09e667f3bcdu;   // the mantissa of sqrt(2)
  constexpr uint64_t kMagicBits = 0x4330000000000000u;  // 2^52, whose last bits count ones
  constexpr double kMagic = 4503599627370496.0;
  uint64_t bits;
  std::memcpy(&bits, &r, sizeof bits);
  // r = 2^exponent * m with m in [sqrt(1/2), sqrt(2))
  const uint64_t shifted = bits + (kOneBits - (kOneBits - (uint64_t{1} << 52) + kHalfRoot));
  const uint64_t biased = shifted >> 52;
  const uint64_t m_bits = (shifted & kMantissa) + (kOneBits - (uint64_t{1} << 52) + kHalfRoot);
  double m, exponent;
  std::memcpy(&m, &m_bits, sizeof m);
  const uint64_t exponent_bits = biased | kMagicBits;
  std::memcpy(&exponent, &exponent_bits, sizeof exponent);
  exponent -= kMagic + 1023.0;
  // log m = 2 artanh s, s = (m - 1) / (m + 1), |s| < 0.172: the first term left out is below 2^-40
  const double s = (m - 1.0) / (m + 1.0), q = s * s;
  double series = 1.0 / 15.0;
  series = series * q + 1.0 / 13.0;
  series = series * q + 1.0 / 11.0;
  series = series * q + 1.0 / 9.0;
  series = series * q + 1.0 / 7.0;
  series = series * q + 1.0 / 5.0;
  series = series * q + 1.0 / 3.0;
  series = series * q + 1.0;
  constexpr double kTwoOverLog2 = 2.8853900817779268;
  double t = e * (exponent + kTwoOverLog2 * s * series);
  t = t < -1000.0 ? -1000.0 : t > 1000.0 ? 1000.0 : t;  // beyond float's range either way
  constexpr double kRound = 6755399441055744.0;         // 1.5 * 2^52: the sum's last bits are the nearest integer
  const double rounded = t + kRound;
  uint64_t n_bits;
  std::memcpy(&n_bits, &rounded, sizeof n_bits);
  const double f = (t - (rounded - kRound)) * 0.69314718055994531;  // |f| < 0.347
  double exponential = 1.0 / 3628800.0;
  exponential = exponential * f + 1.0 / 362880.0;
  exponential = exponential * f + 1.0 / 40320.0;
  exponential = exponential * f + 1.0 / 5040.0;
  exponential = exponential * f + 1.0 / 720.0;
  exponential = exponential * f + 1.0 / 120.0;
  exponential = exponential * f + 1.0 / 24.0;
  exponential = exponential * f + 1.0 / 6.0;
  exponential = exponential * f + 0.5;
  exponential = exponential * f + 1.0;
  exponential = exponential * f + 1.0;
  const uint64_t scale_bits = (n_bits << 52) + kOneBits;
  double scale;
  std::memcpy(&scale, &scale_bits, sizeof scale);
  return exponential * scale;
}

// to[i] = r[i]^e, as std::pow.
inline void power(const double* r, double e, double* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = std::pow(r[i], e);
}
inline void power(const float* r, double e, float* to, int64_t n) {
  bool ordinary = true;
  for (int64_t i = 0; i < n; ++i) ordinary &= r[i] > 0 && r[i] <= std::numeric_limits<float>::max();
  if (!(e >= -500 && e <= 500)) ordinary = false;
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(power_of_normal(r[i], e));
  if (ordinary) return;
  for (int64_t i = 0; i < n; ++i)  // zeros, negative numbers, infinities, NaN
    if (!(r[i] > 0 && r[i] <= std::numeric_limits<float>::max()) || !(e >= -500 && e <= 500))
      to[i] = static_cast<float>(std::pow(static_cast<double>(r[i]), e));
}

template <class T, class A>
class ResponseNorm {
 public:
  ResponseNorm(const ResponseNormJob& job, void* workspace)
      : job_(job),
        squares_(static_cast<A*>(workspace)),
        terms_(squares_ + job.buffer() + kBufferSlack),
        powers_(terms_ + job.buffer() + kBufferSlack) {}

  void forward(int64_t unit) {
    find(unit);
    clear(squares_, job_.before, job_.after);
    each_run([&](int64_t at, int64_t padded, int64_t n) {
      const T* x = input() + at;
      A* to = squares_ + padded + job_.before * pixels_;
      for (int64_t i = 0; i < n; ++i) to[i] = widen(x[i]) * widen(x[i]);
    });
    each_chunk([&](int64_t at, int64_t padded, int64_t n) {
      A r[kNormChunk], d[kNormChunk];
      base(padded, n, r);
      denominator(r, d, n);
      const T* x = input() + at;
      T* y = static_cast<T*>(job_.result) + at;
      for (int64_t i = 0; i < n; ++i) y[i] = Narrow<T>::from(widen(x[i]) / d[i]);
    });
  }

  void backward(int64_t unit) {
    find(unit);
    clear(squares_, job_.before, job_.after);
    clear(terms_, job_.after, job_.before);
    each_run([&](int64_t at, int64_t padded, int64_t n) {
      const T* x = input() + at;
      A* to = squares_ + padded + job_.before * pixels_;
      for (int64_t i = 0; i < n; ++i) to[i] = widen(x[i]) * widen(x[i]);
    });
    each_chunk([&](int64_t at, int64_t padded, int64_t n) {
      A r[kNormChunk], d[kNormChunk];
      base(padded, n, r);
      denominator(r, d, n);
      const T *x = input() + at, *g = grad() + at;
      A *t = terms_ + padded + job_.after * pixels_, *direct = powers_ + padded;
      for (int64_t i = 0; i < n; ++i) {
        direct[i] = widen(g[i]) / d[i];
        t[i] = direct[i] * widen(x[i]) / r[i];
      }
    });
    const A factor = static_cast<A>(2 * job_.scale * job_.beta);
    each_chunk([&](int64_t at, int64_t padded, int64_t n) {
      A sum[kNormChunk];
      window(terms_ + padded, n, sum);
      const T* x = input() + at;
      const A* direct = powers_ + padded;
      T* to = static_cast<T*>(job_.result) + at;
      for (int64_t i = 0; i < n; ++i) to[i] = Narrow<T>::from(direct[i] - factor * widen(x[i]) * sum[i]);
    });
  }

 private:
  const T* input() const { return static_cast<const T*>(job_.input); }
  const T* grad() const { return static_cast<const T*>(job_.grad); }

  void find(int64_t unit) {
    row0_ = unit / job_.pixel_blocks() * job_.rows;
    pixel0_ = unit % job_.pixel_blocks() * job_.pixels;
    rows_ = std::min(job_.rows, job_.outer - row0_);
    pixels_ = std::min(job_.pixels, job_.inner - pixel0_);
  }

  // Zeros before and after the channels of each row of the block.
  void clear(A* buffer, int64_t before, int64_t after) const {
    const int64_t row = job_.padded() * pixels_;
    for (int64_t i = 0; i < rows_; ++i, buffer += row) {
      std::fill_n(buffer, before * pixels_, A{0});
      std::fill_n(buffer + row - after * pixels_, after * pixels_, A{0});
    }
    std::fill_n(buffer, kBufferSlack, A{0});
  }

  // Calls visit(offset in the tensor, offset in a buffer without its first zeros, elements) for every contiguous run.
  template <class Visit>
  void each_run(const Visit& visit) const {
    const bool whole = pixels_ == job_.inner;
    for (int64_t i = 0; i < rows_; ++i) {
      const int64_t at = (row0_ + i) * job_.channels * job_.inner + pixel0_, padded = i * job_.padded() * pixels_;
      if (whole) {
        visit(at, padded, job_.channels * pixels_);
      } else {
        for (int64_t c = 0; c < job_.channels; ++c) visit(at + c * job_.inner, padded + c * pixels_, pixels_);
      }
    }
  }
  template <class Visit>
  void each_chunk(const Visit& visit) const {
    each_run([&](int64_t at, int64_t padded, int64_t n) {
      for (int64_t i = 0; i < n; i += kNormChunk) visit(at + i, padded + i, std::min(kNormChunk, n - i));
    });
  }

  // sum[i] = from[i] + from[i + pixels] + ... over the window; whole vectors, into the slack.
  void window(const A* from, int64_t n, A* sum) const {
    constexpr int W = kLanes<A>;
    const int64_t size = job_.before + 1 + job_.after;
    int64_t i = 0;
    do {  // at least once: the compiler sees that `sum` is written
      Vector<A> s = load(from + i);
      for (int64_t j = 1; j < size; ++j) s += load(from + i + j * pixels_);
      store(sum + i, s);
      i += W;
    } while (i < n);
  }
  void base(int64_t padded, int64_t n, A* r) const {
    const A scale = static_cast<A>(job_.scale), k = static_cast<A>(job_.k);
    window(squares_ + padded, n, r);
    for (int64_t i = 0; i < n; ++i) r[i] = k + scale * r[i];
  }
  // d = r^beta; AlexNet's 0.75 by square roots.
  void denominator(const A* r, A* d, int64_t n) const {
    if (job_.beta == 0.75) {
      for (int64_t i = 0; i < n; ++i) {
        const A root = std::sqrt(r[i]);
        d[i] = root * std::sqrt(root);
      }
    } else if (job_.beta == 0.5) {
      for (int64_t i = 0; i < n; ++i) d[i] = std::sqrt(r[i]);
    } else if (job_.beta == 1) {
      std::copy_n(r, n, d);
    } else {
      power(r, job_.beta, d, n);
    }
  }

  const ResponseNormJob& job_;
  A *squares_, *terms_, *powers_;
  int64_t row0_ = 0, pixel0_ = 0, rows_ = 1, pixels_ = 1;
};
