// Pooling of images whose rows are contiguous by small windows of stride 1 or 2: a vector of outputs scans its windows
// straight from the image, in registers. Include only from engine.inl.h.
//
//   stride 2, 3 taps        columns   0 1 2 3 4 5 6 7 8 ..
//                           load a    . . . .              even lanes of (a, b): tap 0 of outputs 0, 1, 2, ..
//                           load b            . . . .      odd lanes:            tap 1
//                           loads at 1  . . . . . . . .    odd lanes of these:   tap 2, and nothing beyond it is read
//
// Nothing is staged, so the image goes through the registers once for each row of a window that reads it, and what is
// left is the time to move the image: small windows are scanned sooner than their shared parts are kept. Outputs whose
// windows reach over the ends of a row are done one by one; the last vector of a row overlaps the one before it. Work
// is counted in (block of columns, plane, depth, row) of the output.
#pragma once

template <class T, class A>
class WindowPool {
 public:
  explicit WindowPool(const PoolJob& job)
      : job_(job), p_(job.problem), w_(p_.axis[2]), filler_(pool_filler<T, A>(job.kind, job.minimum)) {
    const int64_t first = divide_up_signed(w_.lo, w_.stride);
    const int64_t end = divide_down_signed(w_.limit() - w_.kernel + w_.lo, w_.stride) + 1;
    inside_ = std::clamp<int64_t>(first, 0, w_.output);
    inside_end_ = std::clamp<int64_t>(end, inside_, w_.output);
  }

  // Whether windows are few and small enough, and rows long enough.
  static bool takes(const PoolJob& job) {
    const PoolProblem& p = job.problem;
    const PoolAxis& w = p.axis[2];
    for (const PoolAxis& a : p.axis)
      if (a.adaptive || a.kernel > kMostTaps) return false;
    if (w.stride > 2 || w.dilation != 1 || kernel_taps(p) > kMostTaps) return false;
    if (job.source_strides.axis[2] != 1 || job.result_strides.axis[2] != 1) return false;
    if (job.kind == PoolKind::kMaxWithOffsets && job.offset_strides.axis[2] != 1) return false;
    const WindowPool pool(job);
    return pool.inside_end_ - pool.inside_ >= W;
  }

  static int64_t units(const PoolProblem& p) { return blocks(p) * p.planes() * p.axis[0].output * p.axis[1].output; }

  void run(int64_t begin, int64_t end) {
    switch (job_.kind) {
      case PoolKind::kMax: return run_rows<PoolKind::kMax>(begin, end);
      case PoolKind::kMaxWithOffsets: return run_rows<PoolKind::kMaxWithOffsets>(begin, end);
      case PoolKind::kSum:
        if constexpr (kSums<T>) run_rows<PoolKind::kSum>(begin, end);
        return;
      case PoolKind::kRoot:
        if constexpr (!std::is_integral_v<T>) run_rows<PoolKind::kRoot>(begin, end);
    }
  }

 private:
  static constexpr int W = kLanes<A>;
  static constexpr int64_t kMostTaps = 27;
  static constexpr int64_t kBlock = 4096;  // outputs

  static int64_t blocks(const PoolProblem& p) { return (p.axis[2].output + kBlock - 1) / kBlock; }

  // The rows of a window that lie inside of the image. Passed by value, so that it stays in registers: what the loop
  // over outputs read from memory, Zen 5 would take for what the loop has just written, and wait for that (four times
  // slower).
  struct Scan {
    const T* first;  // where the window of output 0 begins: before the row, if there is padding
    int64_t depths, rows, taps;
    int64_t depth_step, row_step;
    Lane<A> code, depth_code, row_code;  // of the first tap, and how much further the next depth's and row's are
    bool flip;
    A divisor;  // of the rows
    Lane<A> first_tap(int64_t column) const {
      return depths > 0 && rows > 0 ? code + static_cast<Lane<A>>(column) : Lane<A>{kNoWinner};
    }
  };

  template <PoolKind K>
  void run_rows(int64_t begin, int64_t end) {
    PlaneRows at(p_, &PoolAxis::output, begin);
    for (int64_t i = begin; i < end; ++i, at.next()) {
      const Scan scan = scan_of(at);
      T* result = static_cast<T*>(job_.result) + at.at(job_.result_strides);
      const int64_t offset = at.at(job_.offset_strides), first = at.block * kBlock;
      w_.stride == 1 ? run_block<K, 1>(scan, first, result, offset) : run_block<K, 2>(scan, first, result, offset);
    }
  }

  Scan scan_of(const PlaneRows& at) const {
    const PoolAxis *d = &p_.axis[0], *h = &p_.axis[1];
    const PoolWindow wd = window_at(*d, at.depth), wh = window_at(*h, at.row);
    const Strides& s = job_.source_strides;
    Scan scan;
    scan.first = static_cast<const T*>(job_.source) + at.image * s.outer + at.channel * s.channel +
                 (wd.begin + wd.first * d->dilation) * s.axis[0] + (wh.begin + wh.first * h->dilation) * s.axis[1] -
                 w_.lo;
    scan.depths = wd.last - wd.first, scan.rows = wh.last - wh.first, scan.taps = w_.kernel;
    scan.depth_step = d->dilation * s.axis[0], scan.row_step = h->dilation * s.axis[1];
    scan.row_code = static_cast<Lane<A>>(job_.kernel_columns());
    scan.depth_code = static_cast<Lane<A>>(job_.kernel_rows()) * scan.row_code;
    scan.code = static_cast<Lane<A>>(wd.first) * scan.depth_code + static_cast<Lane<A>>(wh.first) * scan.row_code;
    scan.flip = job_.minimum;
    scan.divisor = job_.divisor != 0 ? static_cast<A>(job_.divisor) : count_on(*d, at.depth) * count_on(*h, at.row);
    return scan;
  }

  A count_on(const PoolAxis& axis, int64_t o) const {
    if (job_.divisor != 0) return A{1};
    return static_cast<A>(std::max<int64_t>(1, window_count(axis, o, job_.include_pad)));
  }

  template <PoolKind K, int S>
  void run_block(const Scan& scan, int64_t first, T* result, int64_t offset) const {
    const int64_t last = std::min(first + kBlock, w_.output);
    const int64_t begin = std::clamp(inside_, first, last), end = std::clamp(inside_end_, begin, last);
    for (int64_t o = first; o < begin; ++o) one<K>(scan, o, result, offset);
    const int64_t rest = run_lanes<K, S>(scan, begin, end, result, offset);
    for (int64_t o = rest; o < last; ++o) one<K>(scan, o, result, offset);
  }

  // Outputs [begin, end), whose windows lie inside of the row, unless they are fewer than a vector; returns the first
  // that is left.
  template <PoolKind K, int S>
  int64_t run_lanes(const Scan scan, int64_t begin, int64_t end, T* result, int64_t offset) const {
    if (end - begin < W) return begin;
    const A divisor = scan.divisor * (job_.divisor != 0 ? A{1} : static_cast<A>(scan.taps));
    const A taps = static_cast<A>(kernel_taps(p_));
    const int bytes = job_.offset_bytes;
    void* const offsets = job_.offsets;
    for (int64_t o = begin;;) {
      const Best<K> best = lanes<K, S>(scan, o);
      if constexpr (is_sum(K)) {
        const Vector<A> mean = best.value / divisor;
        store_narrowed<T, A>(result + o, K == PoolKind::kRoot ? root<A>(mean * taps) : mean);
      } else {
        store_narrowed<T, A>(result + o, scan.flip ? flipped_lanes<A>(best.value) : best.value);
      }
      if constexpr (K == PoolKind::kMaxWithOffsets) narrow_offset_lanes<A>(best.tap, offsets, bytes, offset + o);
      if (o + W == end) return end;
      o = std::min(o + W, end - W);
    }
  }

  template <PoolKind K>
  struct Best {
    Vector<A> value;
    Vector<Lane<A>> tap;
    void take(Vector<A> x, Lane<A> code, bool flip) {
      if constexpr (is_sum(K)) {
        value += summand<K>(x);
      } else {
        if (flip) x = flipped_lanes<A>(x);
        const auto won = wins_lanes<A>(x, value);
        value = won ? x : value;
        if constexpr (K == PoolKind::kMaxWithOffsets) tap = won ? Vector<Lane<A>>{} + code : tap;
      }
    }
  };

  // The windows of outputs [o, o + W).
  template <PoolKind K, int S>
  Best<K> lanes(const Scan& scan, int64_t o) const {
    Best<K> best{Vector<A>{} + filler_, Vector<Lane<A>>{} + scan.first_tap(0)};
    const T* depth = scan.first + o * S;
    Lane<A> depth_code = scan.code;
    for (int64_t td = 0; td < scan.depths; ++td, depth += scan.depth_step, depth_code += scan.depth_code) {
      const T* x = depth;
      Lane<A> code = depth_code;
      for (int64_t th = 0; th < scan.rows; ++th, x += scan.row_step, code += scan.row_code)
        take_row<K, S>(x, scan.taps, code, scan.flip, best);
    }
    return best;
  }

  template <PoolKind K, int S>
  static void take_row(const T* x, int64_t taps, Lane<A> code, bool flip, Best<K>& best) {
    int64_t t = 0;
    if constexpr (S == 1) {
      for (; t < taps; ++t) best.take(load_widened<A>(x + t), code + static_cast<Lane<A>>(t), flip);
    } else {
      for (; t + 2 <= taps; t += 2) {
        const Vector<A> a = load_widened<A>(x + t), b = load_widened<A>(x + t + W);
        best.take(even_lanes<A>(a, b), code + static_cast<Lane<A>>(t), flip);
        best.take(odd_lanes<A>(a, b), code + static_cast<Lane<A>>(t + 1), flip);
      }
      if (t == taps) return;
      const Vector<A> a = load_widened<A>(x + t), b = load_widened<A>(x + t + W - 1);
      best.take(even_lanes_overlapping<A>(a, b), code + static_cast<Lane<A>>(t), flip);
    }
  }

  // One output, whose window may reach over the ends of the row.
  template <PoolKind K>
  void one(const Scan& scan, int64_t o, T* result, int64_t offset) const {
    const PoolWindow w = window_at(w_, o);
    A best = filler_;
    Lane<A> tap = w.empty() ? Lane<A>{kNoWinner} : scan.first_tap(w.first);
    for (int64_t td = 0; td < scan.depths; ++td) {
      for (int64_t th = 0; th < scan.rows; ++th) {
        const T* row = scan.first + td * scan.depth_step + th * scan.row_step + o * w_.stride;
        const Lane<A> code =
            scan.code + static_cast<Lane<A>>(td) * scan.depth_code + static_cast<Lane<A>>(th) * scan.row_code;
        for (int64_t t = w.first; t < w.last; ++t) {
          const A wide = widen(row[t]);
          const A x = scan.flip ? flipped(wide) : wide;
          if constexpr (is_sum(K)) {
            best += summand<K>(x);
          } else if (wins(x, best)) {
            best = x;
            tap = code + static_cast<Lane<A>>(t);
          }
        }
      }
    }
    if constexpr (is_sum(K)) {
      best /= scan.divisor * count_on(w_, o);
      if constexpr (K == PoolKind::kRoot) best = std::sqrt(best * static_cast<A>(kernel_taps(p_)));
    } else if (scan.flip) {
      best = flipped(best);
    }
    result[o] = Narrow<T>::from(best);
    if constexpr (K == PoolKind::kMaxWithOffsets)
      narrow_offsets<A>(&tap, 1, job_.offsets, job_.offset_bytes, offset + o, 1);
  }

  const PoolJob& job_;
  const PoolProblem& p_;
  const PoolAxis& w_;
  const A filler_;
  int64_t inside_, inside_end_;  // the outputs whose windows lie inside of a row
};
