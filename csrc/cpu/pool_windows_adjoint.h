// The adjoints of pooling by windows that lie side by side, two columns wide, for images whose rows are contiguous.
// Include only from engine.inl.h.
//
//   gradient   g0  g1  g2  ..           each output has its elements of the input for itself: a vector of
//   winner     0   1   0   ..           outputs is compared with the codes of two taps, and the two are interleaved
//   input row  g0  0 | 0  g1 | g2  0 | ..
//
// Every element is written once, by the one output that reads it, or is zero. Work is counted in (plane, depth, row) of
// the output; a row of outputs has the rows of the input from its own first to the next one's.
#pragma once

template <class T, class A>
class WindowAdjoint {
 public:
  explicit WindowAdjoint(const PoolJob& job)
      : job_(job), p_(job.problem), inside_(std::min(p_.axis[2].output, p_.axis[2].limit() / 2)) {}

  static bool takes(const PoolJob& job) {
    const PoolProblem& p = job.problem;
    const PoolAxis& w = p.axis[2];
    for (const PoolAxis& a : p.axis)
      if (a.adaptive || a.stride <= (a.kernel - 1) * a.dilation) return false;
    if (w.kernel != 2 || w.stride != 2 || w.lo != 0) return false;
    if (job.source_strides.axis[2] != 1 || job.result_strides.axis[2] != 1) return false;
    if (job.kind == PoolKind::kRoot && (job.output_strides.axis[2] != 1 || job.image_strides.axis[2] != 1))
      return false;
    if (!is_sum(job.kind) && job.offset_strides.axis[2] != 1) return false;
    return WindowAdjoint(job).inside_ >= W;
  }

  static int64_t units(const PoolProblem& p) { return p.planes() * p.axis[0].output * p.axis[1].output; }

  void run(int64_t begin, int64_t end) {
    if (job_.kind == PoolKind::kSum) return run_units<T, PoolKind::kSum>(begin, end);
    if (job_.kind == PoolKind::kRoot) return run_units<T, PoolKind::kRoot>(begin, end);
    if (job_.offset_bytes == 1) return run_units<uint8_t, PoolKind::kMax>(begin, end);
    if (job_.offset_bytes == 2) return run_units<int16_t, PoolKind::kMax>(begin, end);
    run_units<int32_t, PoolKind::kMax>(begin, end);
  }

 private:
  static constexpr int W = kLanes<A>;
  static constexpr int64_t kUnread = -1;  // in place of a tap

  // The rows of the input [begin, end) that output o has for itself.
  struct Share {
    int64_t begin, end;
    Share(const PoolAxis& a, int64_t o) {
      const auto from = [&](int64_t i) { return std::clamp<int64_t>(window_begin(a, i), 0, a.input); };
      begin = o == 0 ? 0 : from(o);
      end = o + 1 == a.output ? a.input : from(o + 1);
    }
  };

  // The tap of output o that reads coordinate i of its share.
  static int64_t tap_at(const PoolAxis& a, int64_t o, int64_t i) {
    const int64_t distance = i - window_begin(a, o);
    if (distance < 0 || distance % a.dilation != 0 || i >= a.limit()) return kUnread;
    return distance / a.dilation < a.kernel ? distance / a.dilation : kUnread;
  }

  // A row of outputs, and what was recorded of it: the offsets of winners, or the roots.
  template <class Record>
  struct Outputs {
    const T* grad;
    const Record* record;
    A rows;  // the part of the divisor that they share
  };

  template <class Record, PoolKind K>
  void run_units(int64_t begin, int64_t end) const {
    const PoolAxis &d = p_.axis[0], &h = p_.axis[1];
    const void* record = K == PoolKind::kRoot ? job_.output : K == PoolKind::kSum ? nullptr : job_.offsets;
    const Strides& record_strides = K == PoolKind::kRoot ? job_.output_strides : job_.offset_strides;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t oh = i % h.output, rest = i / h.output, od = rest % d.output, plane = rest / d.output;
      const int64_t n = plane / p_.channels, c = plane % p_.channels;
      const auto at = [&](const Strides& s, int64_t z, int64_t y) {
        return n * s.outer + c * s.channel + z * s.axis[0] + y * s.axis[1];
      };
      const Outputs<Record> outputs{
          static_cast<const T*>(job_.source) + at(job_.source_strides, od, oh),
          K == PoolKind::kSum ? nullptr : static_cast<const Record*>(record) + at(record_strides, od, oh),
          job_.divisor != 0 ? static_cast<A>(job_.divisor) : count_on(d, od) * count_on(h, oh)};
      const Share depths(d, od), rows(h, oh);
      for (int64_t z = depths.begin; z < depths.end; ++z) {
        for (int64_t y = rows.begin; y < rows.end; ++y) {
          const int64_t td = tap_at(d, od, z), th = tap_at(h, oh, y);
          T* to = static_cast<T*>(job_.result) + at(job_.result_strides, z, y);
          if (td == kUnread || th == kUnread) {
            std::fill_n(to, p_.axis[2].input, Narrow<T>::from(A{0}));
            continue;
          }
          const Lane<A> code = static_cast<Lane<A>>((td * job_.kernel_rows() + th) * job_.kernel_columns());
          const T* image =
              K == PoolKind::kRoot ? static_cast<const T*>(job_.image) + at(job_.image_strides, z, y) : nullptr;
          run_row<K>(outputs, code, image, to);
        }
      }
    }
  }

  A count_on(const PoolAxis& axis, int64_t o) const {
    if (job_.divisor != 0 || !is_sum(job_.kind)) return A{1};
    return static_cast<A>(std::max<int64_t>(1, window_count(axis, o, job_.include_pad)));
  }

  template <PoolKind K, class Record>
  void run_row(const Outputs<Record> outputs, Lane<A> code, const T* image, T* to) const {
    const A divisor = outputs.rows * count_on(p_.axis[2], 0), taps = static_cast<A>(kernel_taps(p_));
    for (int64_t o = 0;;) {
      const Vector<A> g = load_widened<A>(outputs.grad + o);
      Vector<A> even, odd;
      if constexpr (is_sum(K)) {
        even = odd = g / divisor;
      } else {
        const Vector<Lane<A>> tap = load_offset_lanes<A>(outputs.record + o);
        even = tap == code ? g : Vector<A>{};
        odd = tap == code + 1 ? g : Vector<A>{};
      }
      if constexpr (K == PoolKind::kRoot)
        even = odd = root_quotient<Vector<A>>(even * taps, load_widened<A>(outputs.record + o));
      Vector<A> low = interleave_low<A>(even, odd), high = interleave_high<A>(even, odd);
      if constexpr (K == PoolKind::kRoot) {
        low *= load_widened<A>(image + 2 * o);
        high *= load_widened<A>(image + 2 * o + W);
      }
      store_narrowed<T, A>(to + 2 * o, low);
      store_narrowed<T, A>(to + 2 * o + W, high);
      if (o + W == inside_) break;
      o = std::min(o + W, inside_ - W);
    }
    for (int64_t x = 2 * inside_; x < p_.axis[2].input; ++x) to[x] = Narrow<T>::from(one<K>(outputs, code, image, x));
  }

  // The gradient to column x of a row of the input.
  template <PoolKind K, class Record>
  A one(const Outputs<Record>& outputs, Lane<A> code, const T* image, int64_t x) const {
    const PoolAxis& w = p_.axis[2];
    const int64_t o = x / 2;
    if (o >= w.output || x >= w.limit()) return A{0};
    const A g = widen(outputs.grad[o]), mean = g / (outputs.rows * count_on(w, o));
    if constexpr (K == PoolKind::kSum) {
      return mean;
    } else if constexpr (K == PoolKind::kRoot) {
      return root_quotient(mean * static_cast<A>(kernel_taps(p_)), A{widen(outputs.record[o])}) * A{widen(image[x])};
    } else {
      return static_cast<Lane<A>>(outputs.record[o]) == code + static_cast<Lane<A>>(x % 2) ? g : A{0};
    }
  }

  const PoolJob& job_;
  const PoolProblem& p_;
  const int64_t inside_;  // outputs whose windows lie inside of a row
};
