// Pooling of whole planes to one number each, for contiguous planes: a plane is one run of elements, whatever its rank.
// Include only from engine.inl.h.
//
// kVectors vectors collect side by side and are combined at the end, in one fixed order. Work is counted in planes.
#pragma once

template <class T, class A>
class WholePool {
 public:
  explicit WholePool(const PoolJob& job)
      : job_(job), n_(job.problem.input_pixels()), filler_(pool_filler<T, A>(job.kind, job.minimum)) {}

  void run(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* from = static_cast<const T*>(job_.source) + at(job_.source_strides, i);
      T* to = static_cast<T*>(job_.result) + at(job_.result_strides, i);
      if (job_.kind == PoolKind::kMax) {
        const A best = reduce<PoolKind::kMax>(from);
        *to = Narrow<T>::from(job_.minimum ? flipped(best) : best);
      } else if (job_.kind == PoolKind::kMaxWithOffsets) {
        const Winner winner = find_winner(from);
        *to = Narrow<T>::from(job_.minimum ? flipped(winner.value) : winner.value);
        narrow_offsets<A>(&winner.place, 1, job_.offsets, job_.offset_bytes, at(job_.offset_strides, i), 1);
      } else if constexpr (kSums<T>) {
        *to = Narrow<T>::from(static_cast<A>(reduce<PoolKind::kSum>(from) / divisor()));
      }
    }
  }

  // The adjoint of the sum: every element of a plane gets the plane's gradient, divided.
  void run_adjoint(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const A grad = widen(static_cast<const T*>(job_.source)[at(job_.source_strides, i)]);
      T* to = static_cast<T*>(job_.result) + at(job_.result_strides, i);
      std::fill_n(to, n_, Narrow<T>::from(static_cast<A>(grad / divisor())));
    }
  }

 private:
  static constexpr int W = kLanes<A>;
  static constexpr int kVectors = 4;

  int64_t at(const Strides& s, int64_t plane) const {
    return plane / job_.problem.channels * s.outer + plane % job_.problem.channels * s.channel;
  }
  A divisor() const { return static_cast<A>(job_.divisor != 0 ? job_.divisor : n_); }

  template <PoolKind K>
  static void take(Vector<A>& best, Vector<A> x) {
    if constexpr (K == PoolKind::kSum) {
      best += x;
    } else {
      best = wins_lanes<A>(x, best) ? x : best;
    }
  }

  template <PoolKind K>
  A reduce(const T* from) const {
    const bool flip = K == PoolKind::kMax && job_.minimum;
    Vector<A> best[kVectors];
    for (auto& b : best) b = Vector<A>{} + filler_;
    int64_t i = 0;
    for (; i + kVectors * W <= n_; i += kVectors * W) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vector<A> x = load_widened<A>(from + i + v * W);
        take<K>(best[v], flip ? flipped_lanes<A>(x) : x);
      }
    }
    for (; i + W <= n_; i += W) {
      const Vector<A> x = load_widened<A>(from + i);
      take<K>(best[0], flip ? flipped_lanes<A>(x) : x);
    }
    for (int v = 1; v < kVectors; ++v) take<K>(best[0], best[v]);
    A lanes[W];
    store(lanes, best[0]);
    A result = filler_;
    const auto take_one = [&](A x) {
      if constexpr (K == PoolKind::kSum) {
        result += x;
      } else if (wins(x, result)) {
        result = x;
      }
    };
    for (int lane = 0; lane < W; ++lane) take_one(lanes[lane]);
    for (; i < n_; ++i) take_one(flip ? flipped(A{widen(from[i])}) : A{widen(from[i])});
    return result;
  }

  struct Winner {
    A value;
    Lane<A> place;
  };

  // Each lane keeps the first of its largest elements, or its last NaN; the lanes are then compared in the same sense.
  Winner find_winner(const T* from) const {
    Vector<A> best[kVectors];
    Vector<Lane<A>> won_at[kVectors];  // the first place of the step at which the lane's last winner came
    for (int v = 0; v < kVectors; ++v) best[v] = Vector<A>{} + filler_, won_at[v] = Vector<Lane<A>>{} - Lane<A>{1};
    int64_t i = 0;
    for (; i + kVectors * W <= n_; i += kVectors * W) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vector<A> wide = load_widened<A>(from + i + v * W), x = job_.minimum ? flipped_lanes<A>(wide) : wide;
        const auto won = wins_lanes<A>(x, best[v]);
        best[v] = won ? x : best[v];
        won_at[v] = won ? Vector<Lane<A>>{} + static_cast<Lane<A>>(i) : won_at[v];
      }
    }
    Winner winner{filler_, Lane<A>{0}};  // where nothing is larger than padding, the first
    const auto compare = [&](A x, Lane<A> place) {
      const bool nan = x != x, winner_nan = winner.value != winner.value;
      const bool equal = nan ? winner_nan && place > winner.place : x == winner.value && place < winner.place;
      if ((!winner_nan && wins(x, winner.value)) || equal) winner = {x, place};
    };
    for (int v = 0; v < kVectors; ++v)
      for (int lane = 0; lane < W; ++lane)
        if (won_at[v][lane] >= 0) compare(best[v][lane], won_at[v][lane] + static_cast<Lane<A>>(v * W + lane));
    for (; i < n_; ++i) {
      const A wide = widen(from[i]), x = job_.minimum ? flipped(wide) : wide;
      if (wins(x, winner.value)) winner = {x, static_cast<Lane<A>>(i)};
    }
    return winner;
  }

  const PoolJob& job_;
  const int64_t n_;
  const A filler_;
};
