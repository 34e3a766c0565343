// Pooling of channels_last images, vectorised over the channels. Include only from engine.inl.h.
//
// A unit is one row of the output and a chunk of channels; each output pixel scans its window once, with kVectors
// vectors of channels in registers. Work is counted in (image, depth, row, chunk).
#pragma once

template <class T, class A>
class ChannelPool {
 public:
  explicit ChannelPool(const PoolJob& job)
      : job_(job), p_(job.problem), filler_(pool_filler<T, A>(job.kind, job.minimum)), flip_(job.minimum) {}

  static constexpr int W = kLanes<A>;
  static constexpr int kVectors = 4;
  static constexpr int64_t kChunk = kVectors * W;

  static int64_t units(const PoolProblem& p) {
    return p.batch * p.axis[0].output * p.axis[1].output * ((p.channels + kChunk - 1) / kChunk);
  }

  void run(int64_t begin, int64_t end) {
    switch (job_.kind) {
      case PoolKind::kMax: return run_units<PoolKind::kMax>(begin, end);
      case PoolKind::kMaxWithOffsets: return run_units<PoolKind::kMaxWithOffsets>(begin, end);
      case PoolKind::kSum:
        if constexpr (kSums<T>) run_units<PoolKind::kSum>(begin, end);
        return;
      case PoolKind::kRoot:
        if constexpr (!std::is_integral_v<T>) run_units<PoolKind::kRoot>(begin, end);
    }
  }

 private:
  template <PoolKind K>
  void run_units(int64_t begin, int64_t end) {
    const int64_t chunks = (p_.channels + kChunk - 1) / kChunk;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t chunk = i % chunks, row = i / chunks;
      const int64_t h = row % p_.axis[1].output, d = row / p_.axis[1].output % p_.axis[0].output;
      channel_ = chunk * kChunk;
      image_ = row / (p_.axis[1].output * p_.axis[0].output);
      d_ = window_at(p_.axis[0], d);
      h_ = window_at(p_.axis[1], h);
      const A rows = is_sum(K) ? divisor_of_rows(d, h) : A{1};
      for (int64_t w = 0; w < p_.axis[2].output; ++w) {
        w_ = window_at(p_.axis[2], w);
        const A divisor = is_sum(K) ? rows * count_on(2, w) : A{1};
        const auto at = [&](const Strides& s) {
          return image_ * s.outer + channel_ * s.channel + d * s.axis[0] + h * s.axis[1] + w * s.axis[2];
        };
        run_pixel<K>(at(job_.result_strides), at(job_.offset_strides), divisor);
      }
    }
  }

  A count_on(int axis, int64_t o) const {
    if (job_.divisor != 0) return A{1};
    return static_cast<A>(std::max<int64_t>(1, window_count(p_.axis[axis], o, job_.include_pad)));
  }
  A divisor_of_rows(int64_t d, int64_t h) const {
    return job_.divisor != 0 ? static_cast<A>(job_.divisor) : count_on(0, d) * count_on(1, h);
  }

  template <PoolKind K>
  void run_pixel(int64_t result, int64_t offset, A divisor) {
    const int64_t n = std::min(kChunk, p_.channels - channel_);
    const T* from = static_cast<const T*>(job_.source) + image_ * job_.source_strides.outer + channel_;
    if (n == kChunk) return scan<K, kVectors, true>(from, result, offset, divisor, kChunk);
    int64_t c = 0;
    for (; c + W <= n; c += W)
      scan<K, 1, true>(from + c, result + c * job_.result_strides.channel, offset + c * job_.offset_strides.channel,
                       divisor, W);
    if (c < n)
      scan<K, 1, false>(from + c, result + c * job_.result_strides.channel, offset + c * job_.offset_strides.channel,
                        divisor, n - c);
  }

  // V vectors of channels of one output pixel; not kWhole: fewer channels than a vector has lanes.
  template <PoolKind K, int V, bool kWhole>
  void scan(const T* channels, int64_t result, int64_t offset, A divisor, int64_t n) const {
    Best<K, V> best;
    const bool none = d_.empty() || h_.empty() || w_.empty();
    const Lane<A> first = none ? Lane<A>{kNoWinner} : code(d_.first, h_.first) + static_cast<Lane<A>>(w_.first);
    for (int v = 0; v < V; ++v) best.value[v] = Vector<A>{} + filler_, best.tap[v] = Vector<Lane<A>>{} + first;
    if (is_sum(K) && kernel_taps(p_) > kPoolChain) {
      add_in_pieces<K, V, kWhole>(channels, n, best.value);
    } else {
      const int64_t step = p_.axis[2].dilation * job_.source_strides.axis[2];
      for (int64_t td = d_.first; td < d_.last; ++td) {
        for (int64_t th = h_.first; th < h_.last; ++th) {
          const T* pixel = first_pixel(channels, td, th);
          Lane<A> tap = code(td, th) + static_cast<Lane<A>>(w_.first);
          for (int64_t i = w_.last - w_.first; i > 0; --i, ++tap, pixel += step) {
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v)
              best.take(v, kWhole ? load_widened<A>(pixel + v * W) : load_few(pixel, n), tap, flip_);
          }
        }
      }
    }
    finish<K, V>(best, result, offset, divisor, kWhole ? V * W : std::min<int64_t>(n, W));
  }

  template <PoolKind K, int V>
  struct Best {
    Vector<A> value[V];
    Vector<Lane<A>> tap[V];
    void take(int v, Vector<A> x, Lane<A> code, bool flip) {
      if constexpr (is_sum(K)) {
        value[v] += summand<K>(x);
      } else {
        if (flip) x = flipped_lanes<A>(x);
        const auto won = wins_lanes<A>(x, value[v]);
        value[v] = won ? x : value[v];
        if constexpr (K == PoolKind::kMaxWithOffsets) tap[v] = won ? Vector<Lane<A>>{} + code : tap[v];
      }
    }
  };

  const T* first_pixel(const T* channels, int64_t td, int64_t th) const {
    const PoolAxis* axis = p_.axis;
    const Strides& s = job_.source_strides;
    return channels + (d_.begin + td * axis[0].dilation) * s.axis[0] + (h_.begin + th * axis[1].dilation) * s.axis[1] +
           (w_.begin + w_.first * axis[2].dilation) * s.axis[2];
  }

  // Large windows: pieces of rows, then rows, then slices, so that no chain of additions is long.
  template <PoolKind K, int V, bool kWhole>
  void add_in_pieces(const T* channels, int64_t n, Vector<A> (&total)[V]) const {
    const int64_t step = p_.axis[2].dilation * job_.source_strides.axis[2];
    for (int64_t td = d_.first; td < d_.last; ++td) {
      Vector<A> slice[V] = {};
      for (int64_t th = h_.first; th < h_.last; ++th) {
        const T* pixel = first_pixel(channels, td, th);
        for (int64_t piece = w_.first; piece < w_.last; piece += kPoolChain) {
          Vector<A> sum[V] = {};
          for (int64_t tw = piece; tw < std::min(w_.last, piece + kPoolChain); ++tw, pixel += step)
            for (int v = 0; v < V; ++v)
              sum[v] += summand<K>(kWhole ? load_widened<A>(pixel + v * W) : load_few(pixel, n));
          for (int v = 0; v < V; ++v) slice[v] += sum[v];
        }
      }
      for (int v = 0; v < V; ++v) total[v] += slice[v];
    }
  }

  template <PoolKind K, int V>
  void finish(Best<K, V>& best, int64_t result, int64_t offset, A divisor, int64_t written) const {
    for (int v = 0; v < V; ++v) {
      if constexpr (is_sum(K)) {
        best.value[v] /= divisor;
      } else if (flip_) {
        best.value[v] = flipped_lanes<A>(best.value[v]);
      }
      if constexpr (K == PoolKind::kRoot) best.value[v] = root<A>(best.value[v] * static_cast<A>(kernel_taps(p_)));
    }
    T* to = static_cast<T*>(job_.result) + result;
    if (written == V * W && job_.result_strides.channel == 1) {
      for (int v = 0; v < V; ++v) store_narrowed<T, A>(to + v * W, best.value[v]);
    } else {
      A values[V * W];
      for (int v = 0; v < V; ++v) store(values + v * W, best.value[v]);
      store_line(to, job_.result_strides.channel, values, 1, written);
    }
    if constexpr (K != PoolKind::kMaxWithOffsets) return;
    if (written == V * W && job_.offset_strides.channel == 1) {
      for (int v = 0; v < V; ++v) narrow_offset_lanes<A>(best.tap[v], job_.offsets, job_.offset_bytes, offset + v * W);
    } else {
      Lane<A> taps[V * W];
      for (int v = 0; v < V; ++v) store(taps + v * W, best.tap[v]);
      narrow_offsets<A>(taps, written, job_.offsets, job_.offset_bytes, offset, job_.offset_strides.channel);
    }
  }

  static Vector<A> load_few(const T* from, int64_t n) {
    A wide[W] = {};
    for (int64_t i = 0; i < n; ++i) wide[i] = widen(from[i]);
    return load(wide);
  }

  Lane<A> code(int64_t td, int64_t th) const {
    return static_cast<Lane<A>>((td * job_.kernel_rows() + th) * job_.kernel_columns());
  }

  const PoolJob& job_;
  const PoolProblem& p_;
  const A filler_;
  const bool flip_;
  int64_t channel_ = 0, image_ = 0;
  PoolWindow d_{}, h_{}, w_{};
};
