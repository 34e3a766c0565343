// The adjoints of max and sum pooling for channels_last images: each pixel of the input gathers, some vectors of
// channels at a time, from every window that reads it, in one fixed order. Include only from engine.inl.h.
//
// Which outputs read a column is the same for all rows and listed once. Gradient, offsets and result have their
// channels side by side. Work is counted in (image, depth, row) of the input.
#pragma once

template <class T, class A>
class ChannelAdjoint {
 public:
  ChannelAdjoint(const PoolJob& job, void* workspace) : job_(job), p_(job.problem) {
    PoolWorkspace room(workspace);
    rows_ = room.take<Row>(row_readers(p_));
    columns_ = room.take<Column>(column_readers(p_));
    first_ = room.take<int64_t>(p_.axis[2].input + 1);
    list_columns();
  }

  static int64_t workspace_bytes(const PoolProblem& p) {
    return row_readers(p) * static_cast<int64_t>(sizeof(Row)) +
           column_readers(p) * static_cast<int64_t>(sizeof(Column)) + (p.axis[2].input + 1) * 8 +
           4 * PoolWorkspace::kAlignment;
  }

  void run(int64_t begin, int64_t end) {
    if (job_.kind == PoolKind::kSum) return run_rows<uint8_t, PoolKind::kSum>(begin, end);
    if (job_.kind == PoolKind::kRoot) return run_rows<T, PoolKind::kRoot>(begin, end);
    if (job_.offset_bytes == 1) return run_rows<uint8_t, PoolKind::kMax>(begin, end);
    if (job_.offset_bytes == 2) return run_rows<int16_t, PoolKind::kMax>(begin, end);
    run_rows<int32_t, PoolKind::kMax>(begin, end);
  }

 private:
  static constexpr int W = kLanes<A>;
  static constexpr int kVectors = 4;

  // A row of outputs that reads the current row of the input, and an output of it that reads a column. What was
  // recorded of it: the offsets of winners, or the roots.
  struct Row {
    const T* grad;
    const void* record;
    int64_t code;
    A divisor;
  };
  struct Column {
    int64_t grad, record, tap;
    A divisor;
  };

  // How many windows may read one row, and all columns together.
  static int64_t row_readers(const PoolProblem& p) {
    const auto most = [](const PoolAxis& a) {
      return a.adaptive ? a.output / a.input + 2 : std::min(a.kernel, a.output);
    };
    return most(p.axis[0]) * most(p.axis[1]);
  }
  static int64_t column_readers(const PoolProblem& p) {
    const PoolAxis& a = p.axis[2];
    return a.adaptive ? a.input + 2 * a.output : a.output * std::min(a.kernel, a.input);
  }

  const Strides& record_strides() const {
    return job_.kind == PoolKind::kRoot ? job_.output_strides : job_.offset_strides;
  }

  void list_columns() {
    int64_t count = 0;
    for (int64_t x = 0; x < p_.axis[2].input; ++x) {
      first_[x] = count;
      for_each_window(p_.axis[2], x, [&](int64_t o, int64_t t) {
        columns_[count++] = {o * job_.source_strides.axis[2], o * record_strides().axis[2], t, count_on(2, o)};
      });
    }
    first_[p_.axis[2].input] = count;
  }

  template <class Record, PoolKind K>
  void run_rows(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % p_.axis[1].input, depth = i / p_.axis[1].input % p_.axis[0].input;
      const int64_t image = i / (p_.axis[1].input * p_.axis[0].input);
      list_rows<Record, K>(image, depth, row);
      const Strides& s = job_.result_strides;
      T* to = static_cast<T*>(job_.result) + image * s.outer + depth * s.axis[0] + row * s.axis[1];
      const Strides& from = job_.image_strides;
      const T* pixels =
          static_cast<const T*>(job_.image) + image * from.outer + depth * from.axis[0] + row * from.axis[1];
      for (int64_t x = 0; x < p_.axis[2].input; ++x)
        run_pixel<Record, K>(x, to + x * s.axis[2], pixels + x * from.axis[2]);
    }
  }

  template <class Record, PoolKind K>
  void list_rows(int64_t image, int64_t depth, int64_t row) {
    row_count_ = 0;
    for_each_window(p_.axis[0], depth, [&](int64_t od, int64_t td) {
      for_each_window(p_.axis[1], row, [&](int64_t oh, int64_t th) {
        const auto at = [&](const Strides& s) { return image * s.outer + od * s.axis[0] + oh * s.axis[1]; };
        Row& r = rows_[row_count_++];
        r.grad = static_cast<const T*>(job_.source) + at(job_.source_strides);
        const void* record = K == PoolKind::kRoot ? job_.output : job_.offsets;
        r.record = K == PoolKind::kSum ? nullptr : static_cast<const Record*>(record) + at(record_strides());
        r.code = (td * job_.kernel_rows() + th) * job_.kernel_columns();
        r.divisor = job_.divisor != 0 ? static_cast<A>(job_.divisor) : count_on(0, od) * count_on(1, oh);
      });
    });
  }

  A count_on(int axis, int64_t o) const {
    if (job_.divisor != 0 || !is_sum(job_.kind)) return A{1};
    return static_cast<A>(std::max<int64_t>(1, window_count(p_.axis[axis], o, job_.include_pad)));
  }

  // Where all windows of a pixel count alike, as most do, one division ends the sum.
  bool one_divisor(int64_t x) const {
    for (int64_t i = 1; i < row_count_; ++i)
      if (rows_[i].divisor != rows_[0].divisor) return false;
    for (int64_t j = first_[x] + 1; j < first_[x + 1]; ++j)
      if (columns_[j].divisor != columns_[first_[x]].divisor) return false;
    return row_count_ > 0 && first_[x] < first_[x + 1];
  }

  template <class Record, PoolKind K>
  void run_pixel(int64_t x, T* to, const T* pixel) {
    const bool alike = is_sum(K) && one_divisor(x);
    const A divisor = alike ? rows_[0].divisor * columns_[first_[x]].divisor : A{1};
    int64_t c = 0;
    for (; c + kVectors * W <= p_.channels; c += kVectors * W)
      gather<Record, K, kVectors, true>(x, c, W, alike, divisor, to + c, pixel + c);
    for (; c + W <= p_.channels; c += W) gather<Record, K, 1, true>(x, c, W, alike, divisor, to + c, pixel + c);
    if (c < p_.channels) gather<Record, K, 1, false>(x, c, p_.channels - c, alike, divisor, to + c, pixel + c);
  }

  // V vectors from channel c on; not kWhole: n channels, fewer than a vector has lanes.
  template <class Record, PoolKind K, int V, bool kWhole>
  void gather(int64_t x, int64_t c, int64_t n, bool alike, A divisor, T* to, const T* pixel) const {
    Vector<A> sum[V] = {};
    for (int64_t i = 0; i < row_count_; ++i) {
      const Row& r = rows_[i];
      for (int64_t j = first_[x]; j < first_[x + 1]; ++j) {
        const Column& column = columns_[j];
        const T* grad = r.grad + column.grad + c;
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const Vector<A> g = kWhole ? load_widened<A>(grad + v * W) : load_few<A>(grad, n);
          if constexpr (K == PoolKind::kSum) {
            sum[v] += alike ? g : g / (r.divisor * column.divisor);
          } else if constexpr (K == PoolKind::kRoot) {
            const T* roots = static_cast<const T*>(r.record) + column.record + c + v * W;
            const Vector<A> y = kWhole ? load_widened<A>(roots) : load_few<A>(roots, n);
            const Vector<A> quotient = root_quotient(g, y);
            sum[v] += alike ? quotient : quotient / (r.divisor * column.divisor);
          } else {
            const Record* offsets = static_cast<const Record*>(r.record) + column.record + c + v * W;
            const Vector<Lane<A>> tap = kWhole ? load_offset_lanes<A>(offsets) : load_few<Lane<A>>(offsets, n);
            sum[v] += where<A>(tap == static_cast<Lane<A>>(r.code + column.tap), g);
          }
        }
      }
    }
    for (int v = 0; v < V; ++v) {
      if (alike) sum[v] /= divisor;
      if constexpr (K == PoolKind::kRoot) {
        const Vector<A> image = kWhole ? load_widened<A>(pixel + v * W) : load_few<A>(pixel, n);
        sum[v] *= image * static_cast<A>(kernel_taps(p_));
      }
      if (kWhole) {
        store_narrowed<T, A>(to + v * W, sum[v]);
      } else {
        A rest[W];
        store(rest, sum[v]);
        store_few(to, rest, n);
      }
    }
  }

  template <class B, class From>
  static Vector<B> load_few(const From* from, int64_t n) {
    B wide[W] = {};
    for (int64_t i = 0; i < n; ++i) wide[i] = widen(from[i]);
    return load(wide);
  }

  const PoolJob& job_;
  const PoolProblem& p_;
  Row* rows_;
  Column* columns_;
  int64_t* first_;  // of each column's readers
  int64_t row_count_ = 0;
};
