// The adjoints of max and sum pooling for images whose rows are contiguous. Include only from engine.inl.h.
//
//   max   x[i] = sum of g[o] over the windows o whose recorded winner is i
//   sum   x[i] = sum of g[o] / count[o] over the windows o that read i
//   root  x[i] = image[i] * sum of g[o] / y[o] * taps / count[o] over the windows o that read i
//
// A gather: each row of the input collects from every row of outputs whose windows reach it, in one fixed order, so
// that no two threads write to one place. Columns go the way of PlanePool backwards: tap t of all outputs adds to a run
// of consecutive places of the phases, which are then joined into the row. Rows that the same windows read have the
// same sums, which are found once. Work is counted in rows of the input (block of columns, plane, depth, row).
#pragma once

template <class T, class A>
class PlaneAdjoint {
 public:
  PlaneAdjoint(const PoolJob& job, void* workspace)
      : job_(job), p_(job.problem), columns_(p_.axis[2]), phases_{p_.axis[2], nullptr, columns_.phase_length, nullptr} {
    PoolWorkspace room(workspace);
    linear_ = room.take<A>(columns_.linear_length);
    phases_.data = room.take<A>(columns_.phases * columns_.phase_length);
    phases_.taps = room.take<A*>(columns_.phased ? p_.axis[2].kernel : 0);
    grad_ = room.take<A>(columns_.padded_outputs());
    sum_ = room.take<A>(columns_.padded_outputs());
    tap_ = room.take<Lane<A>>(columns_.padded_outputs());
    divisor_ = room.take<A>(columns_.padded_outputs());
    root_ = room.take<A>(columns_.padded_outputs());
    begin_ = room.take<int64_t>(columns_.phased ? 0 : columns_.padded_outputs());
    end_ = room.take<int64_t>(columns_.phased ? 0 : columns_.padded_outputs());
    if (columns_.phased) phases_.set_taps();
    std::fill_n(linear_, columns_.linear_length, A{0});
  }

  static int64_t workspace_bytes(const PoolProblem& p) {
    const PoolAdjointColumns columns(p.axis[2]);
    const int64_t elements = columns.linear_length + columns.phases * columns.phase_length +
                             7 * columns.padded_outputs() + (columns.phased ? p.axis[2].kernel : 0);
    return elements * 8 + 16 * PoolWorkspace::kAlignment;
  }

  // Rows [begin, end) of the input.
  void run(int64_t begin, int64_t end) {
    const int64_t rows = p_.axis[1].input, depths = p_.axis[0].input;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % rows, depth = i / rows % depths, cut = i / (rows * depths);
      set_block(cut % p_.planes(), cut / p_.planes());
      run_row(depth, row);
    }
  }

 private:
  static constexpr int W = kLanes<A>;

  void set_block(int64_t plane, int64_t block) {
    if (plane == plane_ && block == block_) return;
    plane_ = plane;
    held_.reset();
    const int64_t n = plane / p_.channels, c = plane % p_.channels;
    const auto at = [&](const Strides& s) { return n * s.outer + c * s.channel; };
    source_ = static_cast<const T*>(job_.source) + at(job_.source_strides);
    result_ = static_cast<T*>(job_.result) + at(job_.result_strides);
    output_ = static_cast<const T*>(job_.output) + at(job_.output_strides);
    image_ = static_cast<const T*>(job_.image) + at(job_.image_strides);
    offset_ = at(job_.offset_strides);
    if (block == block_) return;
    block_ = block;
    const PoolAxis& axis = p_.axis[2];
    first_input_ = block * columns_.inputs;
    inputs_ = std::min(columns_.inputs, axis.input - first_input_);
    const PoolRange outputs = windows_reading(axis, first_input_, first_input_ + inputs_);
    first_ = outputs.begin;
    count_ = std::max<int64_t>(0, outputs.end - outputs.begin);
    for (int64_t i = 0; i < count_; ++i) divisor_[i] = count_on(axis, first_ + i);
    if (!columns_.phased) return find_windows();
    if (count_ > 0) phases_.set_block(first_, count_);
    // what the taps of these outputs reach, and the lanes of the last vector
    reach_ = count_ > 0 ? std::min(columns_.phase_length, pool_round_up(phases_.length / axis.stride + 1 + W)) : 0;
  }

  // The part of each window that lies in the block.
  void find_windows() {
    const PoolAxis& axis = p_.axis[2];
    for (int64_t i = 0; i < count_; ++i) {
      const PoolWindow w = window_at(axis, first_ + i);
      const int64_t from = first_input_ - w.begin;
      const int64_t first = std::max(w.first, divide_up_signed(from, axis.dilation));
      const int64_t last = std::min(w.last, divide_up_signed(from + inputs_, axis.dilation));
      begin_[i] = w.begin + first * axis.dilation - first_input_;
      end_[i] = w.begin + last * axis.dilation - first_input_;
    }
  }

  A count_on(const PoolAxis& axis, int64_t o) const {
    if (job_.divisor != 0 || !is_sum(job_.kind)) return A{1};
    return static_cast<A>(std::max<int64_t>(1, window_count(axis, o, job_.include_pad)));
  }

  // The outputs that read one coordinate: with their step, which an axis fixes, the first and the last name them all.
  struct Readers {
    int64_t first = -1, last = -1;
    Readers() = default;
    Readers(const PoolAxis& axis, int64_t i) {
      for_each_window(axis, i, [&](int64_t o, int64_t) { first = first < 0 ? o : first, last = o; });
    }
    bool operator==(const Readers&) const = default;
  };
  struct RowReaders {
    Readers depth, row;
    bool operator==(const RowReaders&) const = default;
  };

  void run_row(int64_t depth, int64_t row) {
    if (count_ == 0) {
      std::fill_n(linear_, inputs_, A{0});
      return write(linear_, 0, inputs_, depth, row);
    }
    if (!is_sum(job_.kind)) {
      reduce(depth, row);
    } else if (const RowReaders readers{{p_.axis[0], depth}, {p_.axis[1], row}}; held_ != readers) {
      reduce(depth, row);
      held_ = readers;
    }
    if (!columns_.phased) return write(linear_, 0, inputs_, depth, row);
    const int64_t shift = first_input_ - phases_.origin;  // the place of the block's first column
    const int64_t begin = std::clamp<int64_t>(-shift, 0, inputs_);
    const int64_t seen = std::min(phases_.length - shift, p_.axis[2].limit() - first_input_);
    const int64_t end = std::clamp<int64_t>(seen, begin, inputs_);
    write((p_.axis[2].stride == 1 ? phases_.data : linear_) + shift, begin, end, depth, row);
  }

  // The sums of one row, in the phases or joined.
  void reduce(int64_t depth, int64_t row) {
    if (columns_.phased) {
      for (int64_t i = 0; i < phases_.count; ++i) std::fill_n(phases_.data + i * columns_.phase_length, reach_, A{0});
    } else {
      std::fill_n(linear_, inputs_, A{0});
    }
    if (is_sum(job_.kind)) std::fill_n(sum_, count_, A{0});
    for_each_window(p_.axis[0], depth, [&](int64_t od, int64_t td) {
      for_each_window(p_.axis[1], row, [&](int64_t oh, int64_t th) { collect(od, td, oh, th); });
    });
    if (is_sum(job_.kind)) columns_.phased ? spread_sum() : spread_windows();
    if (columns_.phased && p_.axis[2].stride != 1) phases_.join(linear_);
  }

  // One row of outputs, which reads this row of the input at (td, th).
  void collect(int64_t od, int64_t td, int64_t oh, int64_t th) {
    const auto at = [&](const Strides& s) { return od * s.axis[0] + oh * s.axis[1] + first_ * s.axis[2]; };
    const T* from = source_ + at(job_.source_strides);
    widen_row(from, job_.source_strides.axis[2], count_, false, grad_);
    if (is_sum(job_.kind)) {
      const A rest =
          job_.divisor != 0 ? static_cast<A>(job_.divisor) : count_on(p_.axis[0], od) * count_on(p_.axis[1], oh);
      if (job_.kind == PoolKind::kRoot) divide_by_root(output_ + at(job_.output_strides));
      for (int64_t i = 0; i < count_; ++i) sum_[i] += grad_[i] / (rest * divisor_[i]);
      return;
    }
    widen_offsets<A>(job_.offsets, job_.offset_bytes, offset_ + at(job_.offset_strides), job_.offset_strides.axis[2],
                     count_, tap_);
    std::fill_n(tap_ + count_, W, Lane<A>{kNoWinner});
    std::fill_n(grad_ + count_, W, A{0});
    const int64_t code = (td * job_.kernel_rows() + th) * job_.kernel_columns();
    for (int64_t t = 0; t < p_.axis[2].kernel; ++t) {
      A* to = phases_.taps[t];
      const Lane<A> winner = static_cast<Lane<A>>(code + t);
      for (int64_t i = 0; i < count_; i += W) {
        store(to + i, load(to + i) + where<A>(load(tap_ + i) == winner, load(grad_ + i)));
      }
    }
  }

  // grad_ = taps * grad_ / the row of roots
  void divide_by_root(const T* roots) {
    widen_row(roots, job_.output_strides.axis[2], count_, false, root_);
    const A taps = static_cast<A>(kernel_taps(p_));
    for (int64_t i = 0; i < count_; ++i) grad_[i] = root_quotient(grad_[i] * taps, root_[i]);
  }

  void spread_sum() {
    std::fill_n(sum_ + count_, W, A{0});
    for (int64_t t = 0; t < p_.axis[2].kernel; ++t) {
      A* to = phases_.taps[t];
      for (int64_t i = 0; i < count_; i += W) store(to + i, load(to + i) + load(sum_ + i));
    }
  }

  void spread_windows() {
    for (int64_t i = 0; i < count_; ++i)
      for (int64_t x = begin_[i]; x < end_[i]; x += p_.axis[2].dilation) linear_[x] += sum_[i];
  }

  // Columns [begin, end) of the block from `row`, zeros in the others.
  void write(const A* row, int64_t begin, int64_t end, int64_t depth, int64_t height) {
    const Strides& s = job_.result_strides;
    T* to = result_ + depth * s.axis[0] + height * s.axis[1] + first_input_ * s.axis[2];
    const T zero = Narrow<T>::from(A{0});
    for (int64_t i = 0; i < begin; ++i) to[i * s.axis[2]] = zero;
    if (job_.kind == PoolKind::kRoot) {
      const Strides& from = job_.image_strides;
      const T* image = image_ + depth * from.axis[0] + height * from.axis[1] + first_input_ * from.axis[2];
      for (int64_t i = begin; i < end; ++i)
        to[i * s.axis[2]] = Narrow<T>::from(row[i] * A{widen(image[i * from.axis[2]])});
    } else {
      store_line(to + begin * s.axis[2], s.axis[2], row + begin, 1, end - begin);
    }
    for (int64_t i = end; i < inputs_; ++i) to[i * s.axis[2]] = zero;
  }

  const PoolJob& job_;
  const PoolProblem& p_;
  const PoolAdjointColumns columns_;
  PoolPhases<A> phases_;
  A *linear_, *grad_, *sum_, *divisor_, *root_;
  Lane<A>* tap_;
  int64_t plane_ = -1, block_ = -1;
  const T *source_ = nullptr, *output_ = nullptr, *image_ = nullptr;
  T* result_ = nullptr;
  int64_t *begin_, *end_;                 // of windows that are spread one by one: their columns in the block
  int64_t reach_ = 0;                     // elements of a phase that are used
  std::optional<RowReaders> held_;        // the readers of the row of sums that is held
  int64_t offset_ = 0;                    // of the plane
  int64_t first_input_ = 0, inputs_ = 0;  // columns of the block
  int64_t first_ = 0, count_ = 0;         // outputs whose windows may reach it
};
