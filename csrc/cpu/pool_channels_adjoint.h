// The adjoints of max and sum pooling for channels_last images: each pixel of the input gathers, a vector of channels
// at a time, from every window that reads it, in one fixed order. Include only from engine.inl.h.
//
// Gradient, offsets and result have their channels side by side. Work is counted in (image, depth, row) of the input.
#pragma once

template <class T, class A>
class ChannelAdjoint {
 public:
  ChannelAdjoint(const PoolJob& job, void* workspace) : job_(job), p_(job.problem) {
    PoolWorkspace room(workspace);
    readers_ = room.take<Reader>(most_readers(p_));
  }

  static int64_t workspace_bytes(const PoolProblem& p) {
    return most_readers(p) * sizeof(Reader) + 2 * PoolWorkspace::kAlignment;
  }

  // The windows that may read one pixel.
  static int64_t most_readers(const PoolProblem& p) {
    int64_t most = 1;
    for (const PoolAxis& a : p.axis) most *= a.adaptive ? a.output / a.input + 2 : std::min(a.kernel, a.output);
    return most;
  }

  void run(int64_t begin, int64_t end) {
    if (job_.kind == PoolKind::kSum) return run_rows<uint8_t, PoolKind::kSum>(begin, end);
    if (job_.offset_bytes == 1) return run_rows<uint8_t, PoolKind::kMax>(begin, end);
    if (job_.offset_bytes == 2) return run_rows<int16_t, PoolKind::kMax>(begin, end);
    run_rows<int32_t, PoolKind::kMax>(begin, end);
  }

 private:
  static constexpr int W = kLanes<A>;

  struct Reader {
    const T* grad;
    const void* offsets;
    int64_t code;
    A divisor;
  };

  template <class Offset, PoolKind K>
  void run_rows(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % p_.axis[1].input, depth = i / p_.axis[1].input % p_.axis[0].input;
      const int64_t image = i / (p_.axis[1].input * p_.axis[0].input);
      const Strides& s = job_.result_strides;
      T* to = static_cast<T*>(job_.result) + image * s.outer + depth * s.axis[0] + row * s.axis[1];
      for (int64_t x = 0; x < p_.axis[2].input; ++x, to += s.axis[2]) {
        find_readers<Offset, K>(image, depth, row, x);
        int64_t c = 0;
        for (; c + W <= p_.channels; c += W) store_narrowed<T, A>(to + c, gather<Offset, K>(c, W));
        if (c == p_.channels) continue;
        A rest[W];
        store(rest, gather<Offset, K>(c, p_.channels - c));
        store_line(to + c, 1, rest, 1, p_.channels - c);
      }
    }
  }

  template <class Offset, PoolKind K>
  void find_readers(int64_t image, int64_t depth, int64_t row, int64_t column) {
    count_ = 0;
    one_divisor_ = true;
    for_each_window(p_.axis[0], depth, [&](int64_t od, int64_t td) {
      for_each_window(p_.axis[1], row, [&](int64_t oh, int64_t th) {
        for_each_window(p_.axis[2], column, [&](int64_t ow, int64_t tw) {
          const auto at = [&](const Strides& s) {
            return image * s.outer + od * s.axis[0] + oh * s.axis[1] + ow * s.axis[2];
          };
          Reader& r = readers_[count_++];
          r.grad = static_cast<const T*>(job_.source) + at(job_.source_strides);
          if constexpr (K == PoolKind::kSum) {
            r.divisor =
                job_.divisor != 0 ? static_cast<A>(job_.divisor) : count_on(0, od) * count_on(1, oh) * count_on(2, ow);
            one_divisor_ = one_divisor_ && r.divisor == readers_[0].divisor;
          } else {
            r.offsets = static_cast<const Offset*>(job_.offsets) + at(job_.offset_strides);
            r.code = (td * job_.kernel_rows() + th) * job_.kernel_columns() + tw;
          }
        });
      });
    });
  }

  A count_on(int axis, int64_t o) const {
    return static_cast<A>(std::max<int64_t>(1, window_count(p_.axis[axis], o, job_.include_pad)));
  }

  template <class Offset, PoolKind K>
  Vector<A> gather(int64_t c, int64_t n) const {
    Vector<A> sum{};
    for (int64_t i = 0; i < count_; ++i) {
      const Reader& r = readers_[i];
      const Vector<A> g = n == W ? load_widened<A>(r.grad + c) : load_few<A>(r.grad + c, n);
      if constexpr (K == PoolKind::kSum) {
        sum += one_divisor_ ? g : g / r.divisor;
      } else {
        const Offset* offsets = static_cast<const Offset*>(r.offsets) + c;
        const Vector<Lane<A>> tap = load_few<Lane<A>>(offsets, n);
        sum += tap == static_cast<Lane<A>>(r.code) ? g : Vector<A>{};
      }
    }
    if (K == PoolKind::kSum && one_divisor_ && count_ > 0) sum /= readers_[0].divisor;
    return sum;
  }

  template <class B, class From>
  static Vector<B> load_few(const From* from, int64_t n) {
    B wide[W] = {};
    if (n == W) {
      for (int64_t i = 0; i < W; ++i) wide[i] = widen(from[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) wide[i] = widen(from[i]);
    }
    return load(wide);
  }

  const PoolJob& job_;
  const PoolProblem& p_;
  Reader* readers_;
  int64_t count_ = 0;
  bool one_divisor_ = true;
};
