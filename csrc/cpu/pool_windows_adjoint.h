// The adjoints of pooling by small windows of stride 1 or 2, for images whose rows are contiguous: a vector of columns
// gathers from the outputs that read it, in registers. Include only from engine.inl.h.
//
//   stride 2, 3 taps      column   2j      2j + 1    (counted from the first one of padding)
//                         tap 0 of  j
//                         tap 1 of          j
//                         tap 2 of  j - 1
//
// so that for vectors of outputs j the even and the odd columns are two sums, which are interleaved. Where a winner was
// recorded, an output adds to the column of the tap that won. Columns near the ends of a row, which fewer outputs read,
// are done one by one. Sums have the order of the outputs: no two threads write to one place, and nothing is staged.
// Work is counted in (plane, depth, row) of the input.
#pragma once

template <class T, class A>
class WindowAdjoint {
 public:
  explicit WindowAdjoint(const PoolJob& job) : job_(job), p_(job.problem), w_(p_.axis[2]) {
    begin_ = std::max((w_.kernel - 1) / w_.stride, divide_up_signed(w_.lo, w_.stride));
    end_ = std::min(w_.output, divide_down_signed(w_.limit() - w_.stride + w_.lo, w_.stride) + 1);
    divisor_ = job.divisor != 0 ? static_cast<A>(job.divisor) : A{1};
    if (job.divisor == 0 && is_sum(job.kind))
      for (const PoolAxis& a : p_.axis) divisor_ *= static_cast<A>(window_count(a, 0, job.include_pad));
  }

  // Whether windows are few and small enough and rows long enough, and all sums have one divisor.
  static bool takes(const PoolJob& job) {
    const PoolProblem& p = job.problem;
    const PoolAxis& w = p.axis[2];
    for (const PoolAxis& a : p.axis) {
      if (a.adaptive || a.kernel > kMostTaps) return false;
      if (is_sum(job.kind) && job.divisor == 0 && !counts_alike(a, job.include_pad)) return false;
    }
    if (w.stride > 2 || w.dilation != 1 || kernel_taps(p) > kMostTaps) return false;
    if (job.source_strides.axis[2] != 1 || job.result_strides.axis[2] != 1) return false;
    if (job.kind == PoolKind::kRoot && (job.output_strides.axis[2] != 1 || job.image_strides.axis[2] != 1))
      return false;
    if (!is_sum(job.kind) && job.offset_strides.axis[2] != 1) return false;
    const WindowAdjoint adjoint(job);
    return adjoint.end_ - adjoint.begin_ >= W;
  }

  static int64_t units(const PoolProblem& p) { return p.planes() * p.axis[0].input * p.axis[1].input; }

  void run(int64_t begin, int64_t end) const {
    if (job_.kind == PoolKind::kSum) return run_rows<T, PoolKind::kSum>(begin, end);
    if (job_.kind == PoolKind::kRoot) return run_rows<T, PoolKind::kRoot>(begin, end);
    if (job_.offset_bytes == 1) return run_rows<uint8_t, PoolKind::kMax>(begin, end);
    if (job_.offset_bytes == 2) return run_rows<int16_t, PoolKind::kMax>(begin, end);
    run_rows<int32_t, PoolKind::kMax>(begin, end);
  }

 private:
  static constexpr int W = kLanes<A>;
  static constexpr int64_t kMostTaps = 27;

  // Counts differ at the ends of an axis if anywhere.
  static bool counts_alike(const PoolAxis& a, bool include_pad) {
    const int64_t count = window_count(a, 0, include_pad);
    return count > 0 && count == window_count(a, a.output - 1, include_pad) &&
           count == window_count(a, a.output / 2, include_pad);
  }

  // The outputs that read one coordinate, with the taps by which they do: both in even steps.
  struct Readers {
    int64_t count = 0, output = 0, tap = 0, output_step = 0, tap_step = 0;
    Readers(const PoolAxis& axis, int64_t i) {
      for_each_window(axis, i, [&](int64_t o, int64_t t) {
        if (count == 0) output = o, tap = t;
        if (count == 1) output_step = o - output, tap_step = t - tap;
        ++count;
      });
    }
  };

  // The rows of outputs that read a row of the input, with what was recorded of them: winners, or roots. Passed by
  // value, see WindowPool::Scan.
  template <class Record>
  struct Rows {
    const T* grad;
    const Record* record;
    int64_t depths, rows;
    int64_t grad_depth, grad_row, record_depth, record_row;  // steps
    Lane<A> code, code_depth, code_row;                      // of the first tap, and its steps
  };

  template <class Record, PoolKind K>
  void run_rows(int64_t begin, int64_t end) const {
    PlaneRows at(p_, &PoolAxis::input, begin);
    for (int64_t i = begin; i < end; ++i, at.next()) {
      const Rows<Record> rows = rows_reading<Record, K>(at);
      const T* image = K == PoolKind::kRoot ? static_cast<const T*>(job_.image) + at.at(job_.image_strides) : nullptr;
      T* to = static_cast<T*>(job_.result) + at.at(job_.result_strides);
      w_.stride == 1 ? run_row<K, 1>(rows, image, to) : run_row<K, 2>(rows, image, to);
    }
  }

  template <class Record, PoolKind K>
  Rows<Record> rows_reading(const PlaneRows& row) const {
    const Readers d(p_.axis[0], row.depth), h(p_.axis[1], row.row);
    const auto at = [&](const Strides& s) {
      return row.image * s.outer + row.channel * s.channel + d.output * s.axis[0] + h.output * s.axis[1];
    };
    const Strides& g = job_.source_strides;
    const Strides& r = K == PoolKind::kRoot ? job_.output_strides : job_.offset_strides;
    const void* record = K == PoolKind::kRoot ? job_.output : job_.offsets;
    const int64_t row_code = job_.kernel_columns(), depth_code = job_.kernel_rows() * row_code;
    return {.grad = static_cast<const T*>(job_.source) + at(g),
            .record = K == PoolKind::kSum ? nullptr : static_cast<const Record*>(record) + at(r),
            .depths = d.count,
            .rows = h.count,
            .grad_depth = d.output_step * g.axis[0],
            .grad_row = h.output_step * g.axis[1],
            .record_depth = d.output_step * r.axis[0],
            .record_row = h.output_step * r.axis[1],
            .code = static_cast<Lane<A>>(d.tap * depth_code + h.tap * row_code),
            .code_depth = static_cast<Lane<A>>(d.tap_step * depth_code),
            .code_row = static_cast<Lane<A>>(h.tap_step * row_code)};
  }

  // Calls visit(grad, record, code) for each row of outputs.
  template <class Record, class Visit>
  static void for_each_row(const Rows<Record>& rows, Visit visit) {
    for (int64_t d = 0; d < rows.depths; ++d)
      for (int64_t h = 0; h < rows.rows; ++h)
        visit(rows.grad + d * rows.grad_depth + h * rows.grad_row,
              rows.record + d * rows.record_depth + h * rows.record_row,
              rows.code + static_cast<Lane<A>>(d) * rows.code_depth + static_cast<Lane<A>>(h) * rows.code_row);
  }

  template <PoolKind K, int S, class Record>
  void run_row(const Rows<Record> rows, const T* image, T* to) const {
    const int64_t taps = w_.kernel, begin = begin_, end = end_, lo = w_.lo;
    const A divisor = divisor_, scale = static_cast<A>(kernel_taps(p_));
    for (int64_t j = begin;;) {
      Vector<A> sums[S];
      gather<K, S>(rows, j, taps, sums);
      for (int p = 0; p < S; ++p)
        if constexpr (is_sum(K)) sums[p] /= divisor;
      if constexpr (S == 2) {
        const Vector<A> low = interleave_low<A>(sums[0], sums[1]), high = interleave_high<A>(sums[0], sums[1]);
        sums[0] = low, sums[1] = high;
      }
      for (int p = 0; p < S; ++p) {
        const int64_t x = j * S - lo + p * W;
        if constexpr (K == PoolKind::kRoot) sums[p] *= scale * load_widened<A>(image + x);
        store_narrowed<T, A>(to + x, sums[p]);
      }
      if (j + W == end) break;
      j = std::min(j + W, end - W);
    }
    for (int64_t x = 0; x < begin * S - lo; ++x) to[x] = Narrow<T>::from(one<K>(rows, image, x));
    for (int64_t x = end * S - lo; x < w_.input; ++x) to[x] = Narrow<T>::from(one<K>(rows, image, x));
  }

  // sums[p][i] = what column (j + i) * S + p gathers, columns counted from the first one of padding.
  template <PoolKind K, int S, class Record>
  static void gather(const Rows<Record>& rows, int64_t j, int64_t taps, Vector<A> (&sums)[S]) {
    for (int p = 0; p < S; ++p) sums[p] = Vector<A>{};
    for_each_row(rows, [&](const T* grad, const Record* record, Lane<A> code) {
      for (int64_t t = 0, i = j; t < taps; t += S, --i) {
        Vector<A> g = load_widened<A>(grad + i);
        if constexpr (K == PoolKind::kRoot) g = root_quotient<Vector<A>>(g, load_widened<A>(record + i));
        if constexpr (is_sum(K)) {
          sums[0] += g;
          if (S == 2 && t + 1 < taps) sums[S - 1] += g;
        } else {
          const Vector<Lane<A>> won = load_offset_lanes<A>(record + i) - (code + static_cast<Lane<A>>(t));
          sums[0] += where<A>(won == 0, g);
          if (S == 2 && t + 1 < taps) sums[S - 1] += where<A>(won == 1, g);
        }
      }
    });
  }

  // What column x gathers.
  template <PoolKind K, class Record>
  A one(const Rows<Record>& rows, const T* image, int64_t x) const {
    A sum{0};
    for_each_row(rows, [&](const T* grad, const Record* record, Lane<A> code) {
      for_each_window(w_, x, [&](int64_t o, int64_t t) {
        const A g = widen(grad[o]);
        if constexpr (K == PoolKind::kSum) {
          sum += g;
        } else if constexpr (K == PoolKind::kRoot) {
          sum += root_quotient(g, A{widen(record[o])});
        } else if (static_cast<Lane<A>>(record[o]) == code + static_cast<Lane<A>>(t)) {
          sum += g;
        }
      });
    });
    if constexpr (is_sum(K)) sum /= divisor_;
    if constexpr (K == PoolKind::kRoot) sum *= static_cast<A>(kernel_taps(p_)) * A{widen(image[x])};
    return sum;
  }

  const PoolJob& job_;
  const PoolProblem& p_;
  const PoolAxis& w_;
  int64_t begin_, end_;  // the outputs whose columns are read by as many others as they can be, in vectors
  A divisor_;
};
