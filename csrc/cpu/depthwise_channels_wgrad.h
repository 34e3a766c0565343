// wgrad of depthwise and grouped convolution on channels_last images. Include only from engine.inl.h.
//
//   result[k, c, tap] = sum over pixels of grad[pixel, k] * source[x(pixel, tap), group(k) + c]
//
// The lanes are depthwise_channels.h's. Where a channel has several filters (kFilters), grad's vectors are separated by
// them, lane by lane; inside of the image once a pixel for all taps of a row that are summed at once, as the compiler
// finds them equal.
#pragma once

// to[m * step] = every M-th of the M * kLanes lanes of v, from the m-th on.
template <class A, int M>
[[gnu::always_inline]] inline void separate_lanes(const Vector<A> (&v)[M], Vector<A>* to, int step = 1) {
  if constexpr (M == 1) {
    *to = v[0];
  } else {
    Vector<A> even[M / 2], odd[M / 2];
#pragma GCC unroll 4
    for (int i = 0; i < M / 2; ++i) {
      even[i] = even_lanes<A>(v[2 * i], v[2 * i + 1]);
      odd[i] = odd_lanes<A>(v[2 * i], v[2 * i + 1]);
    }
    separate_lanes<A, M / 2>(even, to, 2 * step);
    separate_lanes<A, M / 2>(odd, to + step, 2 * step);
  }
}

// wgrad; a unit is a block of channels: all images, row by row, in order.
//
// Lane l of sum (tap, c) is the product of grad's channel l and the source's channel c of the same group. Few taps
// leave an FMA waiting for the one before it, so that up to four pixels in turn have sums of their own.
template <class T, class A, int kGroup, int kFilters>
class DepthwiseChannelsWgrad {
  static constexpr int kProducts = kGroup * kFilters;  // of a tap and a lane

 public:
  // The workspace holds a pointer a tap row and two levels of sums for every (tap, channel of the unit).
  DepthwiseChannelsWgrad(const WgradJob& job, void* workspace)
      : job_(job), channels_(job.problem->groups * kGroup), sums_(kernel_taps(*job.problem) * kProducts * kLanes<A>) {
    rows_ = static_cast<const T**>(workspace);
    sum_ = reinterpret_cast<A*>(rows_ + kernel_taps(*job.problem));
    total_ = sum_ + sums_;
  }

  void run(int64_t unit) {
    constexpr int W = kLanes<A>;
    const Region& region = job_.source_region;
    // The last vector starts early where the channels do not fill it, and writes only the channels it does not share.
    first_ = std::min(unit * W, channels_ - W);
    first_own_ = unit * W - first_;
    std::fill_n(sum_, sums_, A{0});
    std::fill_n(total_, sums_, A{0});
    pending_ = 0;
    const ImageReader<T> image{static_cast<const T*>(job_.source) + first_, job_.source_strides, &region,
                               job_.problem->mode, job_.problem};
    TapRows<T> rows(image, rows_);
    for (int64_t n = 0; n < job_.problem->batch; ++n)
      for (int64_t qd = 0; qd < region.axis[0].count; ++qd)
        for (int64_t qh = 0; qh < region.axis[1].count; ++qh) {
          rows.enter(n, qd, qh);
          const Strides& s = job_.grad_strides;
          const T* grad =
              static_cast<const T*>(job_.grad) + first_ * kFilters + n * s.outer + qd * s.axis[0] + qh * s.axis[1];
          for (int64_t qw = 0; qw < region.axis[2].count; qw += kReductionBlock) {
            const int64_t last = std::min(qw + kReductionBlock, region.axis[2].count);
            for (int64_t row = 0; row < rows.rows(); ++row)
              if (rows_[row]) add_row(rows, row, grad, qw, last);
            if (++pending_ == kMostPending) fold();
          }
        }
    fold();
    write();
  }

 private:
  // Sums of at most 256 pixels add up in sum_, at most 64 of those in total_: chains of additions stay short.
  static constexpr int kMostPending = 64;
  void fold() {
    for (int64_t i = 0; i < sums_; ++i) total_[i] += sum_[i], sum_[i] = A{0};
    pending_ = 0;
  }

  // What the registers hold beside the factors, and the taps of a row that are summed at a time.
  static constexpr int kSums = kVectorBytes == 64 ? 24 : 10;
  static constexpr int kMostTaps = std::min(kMostInFlight, std::max(1, kSums / kProducts));

  // Adds pixels [first, last) of a row to the sums of the taps of one kernel row, kMostTaps taps at a time.
  void add_row(const TapRows<T>& rows, int64_t row, const T* grad, int64_t first, int64_t last) {
    const Panels parts(rows.columns(), kMostTaps);
    for (int64_t i = 0; i < parts.count; ++i)
      add_some_taps<kMostTaps>(parts.rows(i), rows, row, parts.start(i), grad, first, last);
  }
  template <int kCount>
  void add_some_taps(int64_t count, const TapRows<T>& rows, int64_t row, int64_t tw, const T* grad, int64_t first,
                     int64_t last) {
    if constexpr (kCount > 1)
      if (count < kCount) return add_some_taps<kCount - 1>(count, rows, row, tw, grad, first, last);
    add_taps<kCount>(rows, row, tw, grad, first, last, sum_ + (row * rows.columns() + tw) * kProducts * kLanes<A>);
  }

  template <int kCount>
  void add_taps(const TapRows<T>& rows, int64_t row, int64_t tw, const T* grad, int64_t first, int64_t last, A* sum) {
    constexpr int W = kLanes<A>, kTurns = std::clamp(kSums / (kCount * kProducts), 1, 4);
    const int64_t step = job_.grad_strides.axis[2], width = job_.source_region.axis[2].count;
    Vector<A> partial[kTurns][kCount][kProducts] = {};
    const auto add_edge = [&](int64_t begin, int64_t end) {
      for (int64_t qw = begin; qw < end; ++qw)
        for (int t = 0; t < kCount; ++t)
          if (const T* from = rows.at(row, tw + t, qw)) add<kCount>(partial[0], t, grad + qw * step, from);
    };
    // Where all taps read inside of the image, they advance evenly.
    const auto inner = rows.inner(tw, tw + kCount, width);
    const int64_t begin = std::clamp(inner.first, first, last), end = std::clamp(inner.second, begin, last);
    add_edge(first, begin);
    if (begin < end) {
      const T* from = rows.at(row, tw, begin);
      const T* g = grad + begin * step;
      const int64_t advance = rows.advance(), tap_step = rows.tap_step();
      int64_t qw = begin;
      for (; qw + kTurns <= end; qw += kTurns)
#pragma GCC unroll 4
        for (int turn = 0; turn < kTurns; ++turn, from += advance, g += step)
#pragma GCC unroll 8
          for (int t = 0; t < kCount; ++t) add<kCount>(partial[turn], t, g, from + t * tap_step);
      for (; qw < end; ++qw, from += advance, g += step)
#pragma GCC unroll 8
        for (int t = 0; t < kCount; ++t) add<kCount>(partial[0], t, g, from + t * tap_step);
    }
    add_edge(end, last);
    for (int t = 0; t < kCount; ++t)
      for (int c = 0; c < kProducts; ++c) {
        for (int turn = 1; turn < kTurns; ++turn) partial[0][t][c] += partial[turn][t][c];
        A* to = sum + (t * kProducts + c) * W;
        store(to, load(to) + partial[0][t][c]);
      }
  }

  template <int kCount>
  [[gnu::always_inline]] static void add(Vector<A> (&partial)[kCount][kProducts], int t, const T* grad,
                                         const T* source) {
    const Vector<A> x = load_widened<A>(source);
    if constexpr (kFilters > 1) {
      Vector<A> lines[kFilters], g[kFilters];
#pragma GCC unroll 4
      for (int m = 0; m < kFilters; ++m) lines[m] = load_widened<A>(grad + m * kLanes<A>);
      separate_lanes<A, kFilters>(lines, g);
#pragma GCC unroll 4
      for (int m = 0; m < kFilters; ++m) partial[t][m] += g[m] * x;
    } else {
      const Vector<A> g = load_widened<A>(grad);
      for_each_term<kGroup>([&]<int kTerm>() __attribute__((always_inline)) {
        partial[t][kTerm] += g * spread<A, kGroup, kTerm>(x);
      });
    }
  }

  void write() const {
    const Strides& s = job_.result_strides;
    for (int64_t t = 0; t < job_.source_region.taps(); ++t) {
      const Tap tap = tap_at(job_.source_region, t);
      T* to = static_cast<T*>(job_.result) + first_ * kFilters * s.outer + tap.t[0] * s.axis[0] + tap.t[1] * s.axis[1] +
              tap.t[2] * s.axis[2];
      for (int64_t c = 0; c < kProducts; ++c) {  // a channel of the group, or a filter
        const int64_t step = kFilters > 1 ? s.outer : s.channel;
        for (int64_t i = first_own_; i < kLanes<A>; ++i)
          to[i * kFilters * s.outer + c * step] = Narrow<T>::from(total_[(t * kProducts + c) * kLanes<A> + i]);
      }
    }
  }

  const WgradJob& job_;
  int64_t channels_, sums_, first_ = 0, first_own_ = 0;
  const T** rows_;
  A* sum_;
  A* total_;
  int pending_ = 0;
};
