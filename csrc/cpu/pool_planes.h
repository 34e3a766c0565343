// Pooling of images whose rows are contiguous, vectorised over the columns of the output. Include only from
// engine.inl.h.
//
//   m[h, o] = max over tw of x[h, o * stride + tw * dilation]      each row of the input, once (a row cache)
//   y[r, o] = max over th of m[r * stride + th * dilation, o]      the rows of a window
//
// Rows first and columns of rows after them keeps the order of torch's scan, so that of equal elements the first of a
// window wins. A sum goes the same two ways; it is never slid along by subtraction. All work is counted in output rows
// (block of columns, plane, depth, row), of which a worker gets a contiguous range. Where no two windows share a row,
// and no place of a winner is asked for, the rows of a window are combined first and their columns once.
#pragma once

template <class T, class A>
class PlanePool {
 public:
  PlanePool(const PoolJob& job, void* workspace)
      : job_(job),
        p_(job.problem),
        columns_(p_.axis[2]),
        cache_(p_, columns_.padded_outputs()),
        filler_(pool_filler<T, A>(job.kind, job.minimum)),
        flip_(job.minimum),
        width_(columns_.padded_outputs()),
        phases_{p_.axis[2], nullptr, columns_.phase_length, nullptr} {
    PoolWorkspace room(workspace);
    linear_ = room.take<A>(columns_.linear_length);
    phases_.data = room.take<A>(columns_.phases * columns_.phase_length);
    phases_.taps = room.take<A*>(columns_.phased ? p_.axis[2].kernel : 0);
    cached_ = room.take<A>(cache_.count() * width_);
    cached_tap_ = room.take<Lane<A>>(cache_.count() * width_);
    cached_row_ = room.take<int64_t>(cache_.count());
    best_ = room.take<A>(width_);
    best_tap_ = room.take<Lane<A>>(width_);
    first_tap_ = room.take<Lane<A>>(width_);
    divisor_ = room.take<A>(width_);
    begin_ = room.take<int64_t>(columns_.phased ? 0 : width_);
    taps_ = room.take<int64_t>(columns_.phased ? 0 : width_);
    if (columns_.phased) phases_.set_taps();
    const auto apart = [](const PoolAxis& a) { return !a.adaptive && a.stride > (a.kernel - 1) * a.dilation; };
    rows_apart_ = columns_.phased && apart(p_.axis[0]) && apart(p_.axis[1]);
  }

  static int64_t workspace_bytes(const PoolProblem& p) {
    const PoolColumns columns(p.axis[2]);
    const int64_t width = columns.padded_outputs();
    const PoolRowCache cache(p, width);
    const int64_t elements = columns.linear_length + columns.phases * columns.phase_length +
                             (2 * cache.count() + 6) * width + cache.count() + (columns.phased ? p.axis[2].kernel : 0);
    return elements * 8 + 16 * PoolWorkspace::kAlignment;
  }

  // Output rows [begin, end).
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
  static constexpr int kRows = 8;  // combined in one pass over the output row

  template <PoolKind K>
  void run_rows(int64_t begin, int64_t end) {
    const int64_t rows = p_.axis[1].output, depths = p_.axis[0].output;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % rows, depth = i / rows % depths, cut = i / (rows * depths);
      set_block(cut % p_.planes(), cut / p_.planes());
      if (K != PoolKind::kMaxWithOffsets && rows_apart_) {
        run_apart<K>(depth, row);
      } else {
        run_row<K>(depth, row);
      }
    }
  }

  void set_block(int64_t plane, int64_t block) {
    if (plane == plane_ && block == block_) return;
    std::fill_n(cached_row_, cache_.count(), -1);
    plane_ = plane;
    const int64_t n = plane / p_.channels, c = plane % p_.channels;
    source_ = static_cast<const T*>(job_.source) + n * job_.source_strides.outer + c * job_.source_strides.channel;
    result_ = n * job_.result_strides.outer + c * job_.result_strides.channel;
    offset_ = n * job_.offset_strides.outer + c * job_.offset_strides.channel;
    if (block == block_) return;
    block_ = block;
    first_ = block * columns_.outputs;
    count_ = std::min(columns_.outputs, p_.axis[2].output - first_);
    for (int64_t i = 0; i < width_; ++i) {
      const PoolWindow w = window_at(p_.axis[2], std::min(first_ + i, p_.axis[2].output - 1));
      first_tap_[i] = w.empty() ? Lane<A>{kNoWinner} : static_cast<Lane<A>>(w.first);
      if (!columns_.phased) {
        begin_[i] = w.begin + w.first * p_.axis[2].dilation;
        taps_[i] = w.last - w.first;
      }
      divisor_[i] = is_sum(job_.kind) ? count_on(p_.axis[2], std::min(first_ + i, p_.axis[2].output - 1)) : A{1};
    }
    if (!columns_.phased) return;
    phases_.set_block(first_, count_);
    inside_ = std::clamp<int64_t>(-phases_.origin, 0, phases_.length);
    inside_end_ = std::clamp<int64_t>(p_.axis[2].limit() - phases_.origin, inside_, phases_.length);
    std::fill_n(linear_, columns_.linear_length, filler_);
    std::fill_n(phases_.data, columns_.phases * columns_.phase_length, filler_);
  }

  A count_on(const PoolAxis& axis, int64_t o) const {
    if (job_.divisor != 0) return A{1};
    return static_cast<A>(std::max<int64_t>(1, window_count(axis, o, job_.include_pad)));
  }

  // Reduces one row of the input along its columns.
  template <PoolKind K>
  void reduce_columns(const T* row, A* to, Lane<A>* tap) {
    const int64_t step = job_.source_strides.axis[2];
    if (!columns_.phased) return reduce_windows<K>(row, to, tap);
    A* stage = p_.axis[2].stride == 1 ? phases_.data : linear_;
    if (inside_ < inside_end_)
      load_row<K>(row + (phases_.origin + inside_) * step, step, inside_end_ - inside_, stage + inside_);
    reduce_phases<K>(to, tap);
  }

  template <PoolKind K>
  void load_row(const T* from, int64_t step, int64_t n, A* to) {
    widen_row(from, step, n, flip_, to);
    if constexpr (K == PoolKind::kRoot)
      for (int64_t i = 0; i < n; ++i) to[i] *= to[i];
  }

  template <PoolKind K>
  void reduce_phases(A* to, [[maybe_unused]] Lane<A>* tap) {
    if (p_.axis[2].stride != 1) phases_.split(linear_);
    const int64_t taps = p_.axis[2].kernel;
    A* const* from = phases_.taps;
    for (int64_t i = 0; i < count_; i += W) {
      Vector<A> best = load(from[0] + i);
      if constexpr (is_sum(K)) {
        for (int64_t t = 1; t < taps; ++t) best += load(from[t] + i);
      } else if constexpr (K == PoolKind::kMax) {
        for (int64_t t = 1; t < taps; ++t) {
          const Vector<A> x = load(from[t] + i);
          best = wins_lanes<A>(x, best) ? x : best;
        }
      } else {
        best = Vector<A>{} + filler_;
        Vector<Lane<A>> best_tap = load(first_tap_ + i);
        for (int64_t t = 0; t < taps; ++t) {
          const Vector<A> x = load(from[t] + i);
          const auto wins = wins_lanes<A>(x, best);
          best = wins ? x : best;
          best_tap = wins ? Vector<Lane<A>>{} + static_cast<Lane<A>>(t) : best_tap;
        }
        store(tap + i, best_tap);
      }
      store(to + i, best);
    }
  }

  template <PoolKind K>
  void reduce_windows(const T* row, A* to, Lane<A>* tap) {
    const PoolAxis& axis = p_.axis[2];
    const int64_t step = job_.source_strides.axis[2], advance = axis.dilation * step;
    for (int64_t i = 0; i < count_; ++i) {
      const T* from = row + begin_[i] * step;
      A best = filler_;
      Lane<A> best_tap = first_tap_[i];
      if constexpr (is_sum(K)) {
        for (int64_t piece = 0; piece < taps_[i]; piece += kPoolChain) {
          A sum{0};
          for (int64_t t = piece; t < std::min(taps_[i], piece + kPoolChain); ++t, from += advance)
            sum += summand<K>(A{widen(*from)});
          best += sum;
        }
      } else {
        for (int64_t t = 0; t < taps_[i]; ++t, from += advance) {
          const A x = flip_ ? flipped(A{widen(*from)}) : A{widen(*from)};
          if (!wins(x, best)) continue;
          best = x;
          best_tap = first_tap_[i] + static_cast<Lane<A>>(t);
        }
      }
      to[i] = best;
      if constexpr (K == PoolKind::kMaxWithOffsets) tap[i] = best_tap;
    }
  }

  // One row of outputs whose windows share no row with others.
  template <PoolKind K>
  void run_apart(int64_t depth, int64_t row) {
    const PoolWindow d = window_at(p_.axis[0], depth), h = window_at(p_.axis[1], row);
    const Strides& s = job_.source_strides;
    A* stage = (p_.axis[2].stride == 1 ? phases_.data : linear_) + inside_;
    const int64_t n = inside_end_ - inside_;
    bool first = true;
    for (int64_t td = d.first; td < d.last; ++td) {
      for (int64_t th = h.first; th < h.last; ++th) {
        const T* from = source_ + (d.begin + td * p_.axis[0].dilation) * s.axis[0] +
                        (h.begin + th * p_.axis[1].dilation) * s.axis[1] + (phases_.origin + inside_) * s.axis[2];
        if (n > 0) first ? load_row<K>(from, s.axis[2], n, stage) : merge_row<K>(from, s.axis[2], n, stage);
        first = false;
      }
    }
    if (first) std::fill_n(stage, n, filler_);
    reduce_phases<K>(best_, nullptr);
    finish<K>(depth, row);
  }

  template <PoolKind K>
  void merge_row(const T* from, int64_t step, int64_t n, A* to) {
    int64_t i = 0;
    for (; step == 1 && i + W <= n; i += W) {
      Vector<A> x = load_widened<A>(from + i);
      const Vector<A> best = load(to + i);
      if constexpr (is_sum(K)) {
        store(to + i, best + summand<K>(x));
      } else {
        if (flip_) x = flipped_lanes<A>(x);
        store(to + i, wins_lanes<A>(x, best) ? x : best);
      }
    }
    for (; i < n; ++i) {
      const A wide = widen(from[i * step]);
      const A x = flip_ ? flipped(wide) : wide;
      if constexpr (is_sum(K)) {
        to[i] += summand<K>(x);
      } else if (wins(x, to[i])) {
        to[i] = x;
      }
    }
  }

  // The place in the cache of row h of depth d, reduced there if it is not already.
  template <PoolKind K>
  int64_t cached(int64_t d, int64_t h) {
    const int64_t place = d % cache_.depths * cache_.rows + h % cache_.rows;
    const int64_t name = d * p_.axis[1].input + h;
    if (cached_row_[place] != name) {
      const int64_t at = d * job_.source_strides.axis[0] + h * job_.source_strides.axis[1];
      reduce_columns<K>(source_ + at, cached_ + place * width_, cached_tap_ + place * width_);
      cached_row_[place] = name;
    }
    return place;
  }

  template <PoolKind K>
  void run_row(int64_t depth, int64_t row) {
    const PoolWindow d = window_at(p_.axis[0], depth), h = window_at(p_.axis[1], row);
    bool first = true;
    const int limit = cache_.count() == 1 ? 1 : kRows;
    int waiting = 0;
    for (int64_t td = d.first; td < d.last; ++td) {
      for (int64_t th = h.first; th < h.last; ++th) {
        const int64_t place = cached<K>(d.begin + td * p_.axis[0].dilation, h.begin + th * p_.axis[1].dilation);
        rows_[waiting] = cached_ + place * width_;
        row_taps_[waiting] = cached_tap_ + place * width_;
        codes_[waiting] = static_cast<Lane<A>>((td * job_.kernel_rows() + th) * job_.kernel_columns());
        if (++waiting < limit) continue;
        combine<K>(waiting, first);
        first = false;
        waiting = 0;
      }
    }
    if (waiting > 0 || first) combine<K>(waiting, first);
    finish<K>(depth, row);
  }

  // Takes `rows` reduced rows into the output row; the first ones begin it, and may be none.
  template <PoolKind K>
  void combine(int rows, bool begin) {
    [[maybe_unused]] const Lane<A> code = rows > 0 ? codes_[0] : Lane<A>{0};
    for (int64_t i = 0; i < count_; i += W) {
      Vector<A> best = begin ? Vector<A>{} + filler_ : load(best_ + i);
      if constexpr (is_sum(K)) {
        for (int r = 0; r < rows; ++r) best += load(rows_[r] + i);
      } else if constexpr (K == PoolKind::kMax) {
        for (int r = 0; r < rows; ++r) {
          const Vector<A> x = load(rows_[r] + i);
          best = wins_lanes<A>(x, best) ? x : best;
        }
      } else {
        // until something wins, the first element inside has: all may be as small as what padding holds
        const Vector<Lane<A>> none = Vector<Lane<A>>{} + Lane<A>{kNoWinner}, first = load(first_tap_ + i);
        Vector<Lane<A>> best_tap = !begin ? load(best_tap_ + i) : rows == 0 ? none : first < 0 ? none : first + code;
        for (int r = 0; r < rows; ++r) {
          const Vector<A> x = load(rows_[r] + i);
          const auto wins = wins_lanes<A>(x, best);
          best = wins ? x : best;
          best_tap = wins ? load(row_taps_[r] + i) + codes_[r] : best_tap;
        }
        store(best_tap_ + i, best_tap);
      }
      store(best_ + i, best);
    }
  }

  template <PoolKind K>
  void finish(int64_t depth, int64_t row) {
    if constexpr (is_sum(K)) {
      const A rest =
          job_.divisor != 0 ? static_cast<A>(job_.divisor) : count_on(p_.axis[0], depth) * count_on(p_.axis[1], row);
      for (int64_t i = 0; i < count_; ++i) best_[i] /= rest * divisor_[i];
      if constexpr (K == PoolKind::kRoot) {
        const A taps = static_cast<A>(kernel_taps(p_));
        for (int64_t i = 0; i < count_; ++i) best_[i] = std::sqrt(best_[i] * taps);
      }
    } else if (flip_) {
      for (int64_t i = 0; i < count_; ++i) best_[i] = flipped(best_[i]);
    }
    const auto at = [&](const Strides& s) { return depth * s.axis[0] + row * s.axis[1] + first_ * s.axis[2]; };
    const Strides &to = job_.result_strides, &tap = job_.offset_strides;
    store_line(static_cast<T*>(job_.result) + result_ + at(to), to.axis[2], best_, 1, count_);
    if constexpr (K == PoolKind::kMaxWithOffsets)
      narrow_offsets<A>(best_tap_, count_, job_.offsets, job_.offset_bytes, offset_ + at(tap), tap.axis[2]);
  }

  const PoolJob& job_;
  const PoolProblem& p_;
  const PoolColumns columns_;
  const PoolRowCache cache_;
  const A filler_;
  const bool flip_;
  const int64_t width_;  // elements of a row in the workspace
  PoolPhases<A> phases_;
  A *linear_, *cached_, *best_, *divisor_;
  Lane<A>*cached_tap_, *best_tap_, *first_tap_;
  int64_t* cached_row_;
  int64_t *begin_, *taps_;  // of windows that are read one by one: the first column inside, and how many
  bool rows_apart_ = false;
  const A* rows_[kRows];
  const Lane<A>* row_taps_[kRows];
  Lane<A> codes_[kRows];
  int64_t plane_ = -1, block_ = -1;
  const T* source_ = nullptr;
  int64_t result_ = 0, offset_ = 0;      // of the plane
  int64_t first_ = 0, count_ = 0;        // outputs of the block
  int64_t inside_ = 0, inside_end_ = 0;  // places of the staged row that lie inside of the image
};
