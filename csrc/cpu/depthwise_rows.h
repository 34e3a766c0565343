// Depthwise convolution on NCHW images whose rows fill vectors, a plane at a time. Include only from engine.inl.h.
//
//   fprop, dgrad   result[y][x] = bias + sum over taps of weight[tap] * stage[y][x + offset(tap)]
//   wgrad          result[tap] = sum over y, x of grad[y][x] * stage[y][x + offset(tap)]
//
//                    taps of one column, up to four rows of them
//   stage row  0     x0 --w0--> sum[0]                A row of the stage is loaded once for all results below and above
//              1     x1 --w0--> sum[1]  w1 -> sum[0]  that it reaches: (R + K - 1) loads for R * K multiply-adds. Most
//              2     x2 --w0--> sum[2]  w1 -> sum[1]  loads cross a cache line, so one a cycle is all there are; with
//              ..    up to eight rows of results      one load a multiply-add they would take twice as long.
//
// The lanes of depthwise.h hold planes instead, at the price of two transpositions of every image; narrow rows, which
// would leave vectors empty here, and long lines of one row are better off there. A plane is staged whole, with padding
// (plane_stage.h); elements are what sums are kept in. Sums run over at most kReductionBlock taps, or as many pixels of
// a lane, before they are added up.
#pragma once

inline constexpr int kMostFilterRows = DepthwiseRowsWorkspace::kTileRows, kMostPassRows = 4;

// Taps of one column whose rows follow each other in the stage.
struct RowPass {
  int64_t source, weight, weight_step;  // of the first tap; between taps
  int count;
};

template <class A>
struct RowTile {
  const RowPass* passes;
  int64_t pass_count;
  const A* weight;
  A bias;
  const A* source;
  int64_t pitch;  // of the stage
  A* to;
  int64_t to_pitch;
};

template <class A, int kRows, int kTaps>
[[gnu::always_inline]] inline void add_taps(const RowPass& pass, const RowTile<A>& tile, Vector<A> (&sum)[kRows]) {
  Vector<A> w[kTaps];
#pragma GCC unroll 4
  for (int k = 0; k < kTaps; ++k) w[k] = Vector<A>{} + tile.weight[pass.weight + k * pass.weight_step];
  const A* from = tile.source + pass.source;
#pragma GCC unroll 16
  for (int i = 0; i < kRows + kTaps - 1; ++i) {
    const Vector<A> x = load(from + i * tile.pitch);
#pragma GCC unroll 4
    for (int k = 0; k < kTaps; ++k)
      if (i - k >= 0 && i - k < kRows) sum[i - k] += w[k] * x;
  }
}

template <class A, int kRows>
void filter_rows(const RowTile<A>& tile) {
  Vector<A> sum[kRows] = {};
  for (const RowPass *pass = tile.passes, *end = pass + tile.pass_count; pass < end; ++pass) switch (pass->count) {
      case 1: add_taps<A, kRows, 1>(*pass, tile, sum); break;
      case 2: add_taps<A, kRows, 2>(*pass, tile, sum); break;
      case 3: add_taps<A, kRows, 3>(*pass, tile, sum); break;
      default: add_taps<A, kRows, kMostPassRows>(*pass, tile, sum);
    }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) store(tile.to + i * tile.to_pitch, tile.bias + sum[i]);
}

template <class A, std::size_t... I>
constexpr auto filter_row_functions(std::index_sequence<I...>) {
  return std::array{&filter_rows<A, static_cast<int>(I) + 1>...};
}
template <class A>
inline constexpr auto kFilterRows = filter_row_functions<A>(std::make_index_sequence<kMostFilterRows>{});

// Calls visit(first tap, step between taps, how many) for the runs of an axis' taps that stand next to each other in
// the stage, cut into parts of at most `most`.
template <class Visit>
inline void for_each_tap_run(const GatherAxis& g, const StagedAxis& staged, int most, Visit visit) {
  for (int64_t group = 0; group < staged.groups; ++group) {
    int64_t first = 0, step = 0, count = 0;
    for (int64_t shift = 0; shift <= staged.span + 1; ++shift) {
      int64_t tap = 0;
      while (tap < g.taps && (staged.group_of(g, tap) != group || staged.shift_of(g, tap) != shift)) ++tap;
      if (tap < g.taps) {
        if (count == 0) first = tap;
        if (count == 1) step = tap - first;
        ++count;
        continue;
      }
      const Panels parts(count, most);
      for (int64_t i = 0; i < parts.count; ++i)
        visit(first + parts.start(i) * step, step, static_cast<int>(parts.rows(i)));
      count = step = 0;
    }
  }
}

// fprop, and dgrad of stride one; a unit is the planes of one group of one image.
template <class A>
class DepthwiseRows {
 public:
  DepthwiseRows(const ConvJob& job, const GroupedShape& shape, std::byte* workspace)
      : job_(job),
        shape_(shape),
        epilogue_(job),
        memory_(shape, false, W, sizeof(A)),
        passes_(reinterpret_cast<RowPass*>(workspace + memory_.passes)),
        stage_(reinterpret_cast<A*>(workspace + memory_.stage)),
        sums_(reinterpret_cast<A*>(workspace + memory_.sums)),
        stager_(shape.staged, shape.band, shape.mode, job.source_strides,
                reinterpret_cast<RowCopy*>(workspace + memory_.copies), stage_, shape.stage_elements()) {
    const Region& region = *job.wave.front().region;
    const GatherAxis &h = region.axis[1], &w = region.axis[2];
    for (int64_t c = 0; c < shape.depth; ++c)
      for (int64_t tw = 0; tw < w.taps; ++tw)
        for_each_tap_run(h, shape.band.h, kMostPassRows, [&](int64_t first, int64_t step, int count) {
          const int64_t weight = c * job.weight_depth + (w.tap0 + tw * w.tap_step) * job.weight_tap[2] +
                                 (h.tap0 + first * h.tap_step) * job.weight_tap[1];
          passes_[pass_count_++] = {shape.offset(region, c, first, tw), weight, step * h.tap_step * job.weight_tap[1],
                                    count};
        });
  }

  void run(int64_t index) {
    const int64_t groups = job_.problem->groups, n = index / groups, group = index % groups;
    const Strides &s = job_.source_strides, &r = job_.result_strides;
    stager_.fill(static_cast<const A*>(job_.source) + n * s.outer + group * job_.depth * s.channel, job_.depth);
    const bool direct = epilogue_.is_bias() && r.axis[2] == 1;
    for (int64_t m = 0; m < job_.rows; ++m) {
      const int64_t channel = group * job_.rows + m;
      const A bias = job_.epilogue.bias ? static_cast<const A*>(job_.epilogue.bias)[channel] : A{0};
      const A* weight = static_cast<const A*>(job_.weight) + group * job_.weight_group + m * job_.weight_row;
      A* plane = static_cast<A*>(job_.result) + n * r.outer + channel * r.channel;
      const Panels rows(shape_.pixels / shape_.width, kMostFilterRows);
      for (int64_t i = 0; i < rows.count; ++i)
        for (int64_t first = 0; first < shape_.width; first += W) {
          const int64_t y = rows.start(i), x = std::min(first, shape_.width - W);  // the last vector starts early
          A* to = plane + y * r.axis[1] + x * r.axis[2];
          kFilterRows<A>[rows.rows(i) - 1]({passes_, pass_count_, weight, bias, stage_ + y * shape_.band.pitch + x,
                                            shape_.band.pitch, direct ? to : sums_, direct ? r.axis[1] : W});
          if (!direct) epilogue_.write({to, r.axis[1], r.axis[2], sums_, W, 1, rows.rows(i), W});
        }
    }
  }

 private:
  static constexpr int W = kLanes<A>;

  const ConvJob& job_;
  const GroupedShape& shape_;
  const EpilogueOf<A, A> epilogue_;
  const DepthwiseRowsWorkspace memory_;
  RowPass* passes_;
  A *stage_, *sums_;
  PlaneStager<A, A> stager_;
  int64_t pass_count_ = 0;
};

// Their sums, the rows of grad and one of the stage fit 16 registers.
inline constexpr int kMostTapRows = 3, kMostTapColumns = 3;

// A block of taps whose rows and columns follow each other in the stage, and where their sums are.
struct TapBlock {
  int64_t source, sum, row_step, column_step;
  int rows, columns;
};

// `keep`: the lanes that count; null: all do.
template <class A>
struct TapTile {
  const A* grad;
  int64_t grad_pitch, height;
  const A* source;
  int64_t pitch;
  A* sums;  // [tap][lane], added to
  const TapBlock* block;
  const A* keep;
};

template <class A, int kRows, int kColumns, bool kMasked>
void correlate_rows(const TapTile<A>& tile) {
  constexpr int W = kLanes<A>;
  Vector<A> sum[kRows][kColumns] = {}, g[kRows] = {};
  Vector<A> keep = {};
  if constexpr (kMasked) keep = load(tile.keep);
  const auto kept = [&](Vector<A> v) {
    if constexpr (kMasked) return keep != Vector<A>{} ? v : Vector<A>{};
    return v;
  };
  const A* grad = tile.grad;
  const A* from = tile.source + tile.block->source;
  // Stage row i meets grad row i - k under tap row k; at the ends not all of them are there.
  const auto add_row = [&](auto has_tap) [[gnu::always_inline]] {
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) {
      const Vector<A> x = kept(load(from + j));
#pragma GCC unroll 3
      for (int k = 0; k < kRows; ++k)
        if (has_tap(k)) sum[k][j] += g[k] * x;
    }
    from += tile.pitch;
#pragma GCC unroll 3
    for (int k = kRows - 1; k > 0; --k) g[k] = g[k - 1];
  };
  const auto load_grad = [&]() [[gnu::always_inline]] {
    g[0] = kept(load(grad));
    grad += tile.grad_pitch;
  };
  const int64_t height = tile.height;
  int64_t i = 0;
  for (; i < std::min<int64_t>(kRows - 1, height); ++i) {
    load_grad();
    add_row([&](int k) { return k <= i; });
  }
  for (; i < height; ++i) {
    load_grad();
    add_row([](int) { return true; });
  }
  for (; i < height + kRows - 1; ++i) add_row([&](int k) { return k <= i && i - k < height; });
#pragma GCC unroll 3
  for (int k = 0; k < kRows; ++k)
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) {
      A* to = tile.sums + (tile.block->sum + k * tile.block->row_step + j * tile.block->column_step) * W;
      store(to, load(to) + sum[k][j]);
    }
}

template <class A, bool kMasked, int kRows, std::size_t... J>
constexpr std::array<void (*)(const TapTile<A>&), kMostTapColumns> correlate_rows_of(std::index_sequence<J...>) {
  return {&correlate_rows<A, kRows, static_cast<int>(J) + 1, kMasked>...};
}
template <class A, bool kMasked, std::size_t... I>
constexpr auto correlate_rows_functions(std::index_sequence<I...>) {
  return std::array{correlate_rows_of<A, kMasked, static_cast<int>(I) + 1>(
      std::make_index_sequence<static_cast<std::size_t>(kMostTapColumns)>{})...};
}
// kCorrelateRows<A, masked>[rows - 1][columns - 1]
template <class A, bool kMasked>
inline constexpr auto kCorrelateRows = correlate_rows_functions<A, kMasked>(std::make_index_sequence<kMostTapRows>{});

// wgrad; a unit is one filter: all images, in order.
template <class A>
class DepthwiseRowsWgrad {
 public:
  DepthwiseRowsWgrad(const WgradJob& job, const GroupedShape& shape, std::byte* workspace)
      : job_(job),
        shape_(shape),
        memory_(shape, true, W, sizeof(A)),
        grad_(reinterpret_cast<A*>(workspace + memory_.grad)),
        blocks_(reinterpret_cast<TapBlock*>(workspace + memory_.passes)),
        stage_(reinterpret_cast<A*>(workspace + memory_.stage)),
        sums_(reinterpret_cast<A*>(workspace + memory_.sums)),
        stager_(shape.staged, shape.band, shape.mode, job.source_strides,
                reinterpret_cast<RowCopy*>(workspace + memory_.copies), stage_, shape.stage_elements()) {
    const Region& region = job.source_region;
    const GatherAxis &h = region.axis[1], &w = region.axis[2];
    for_each_tap_run(h, shape.band.h, kMostTapRows, [&](int64_t y, int64_t row_step, int rows) {
      for_each_tap_run(w, shape.band.w, kMostTapColumns, [&](int64_t x, int64_t column_step, int columns) {
        blocks_[block_count_++] = {
            shape.offset(region, 0, y, x), y * w.taps + x, row_step * w.taps, column_step, rows, columns};
      });
    });
    const int64_t rest = shape.width % W;
    for (int64_t l = 0; l < W; ++l) keep_[l] = l >= W - rest;
  }

  void run(int64_t filter) {
    const ConvProblem& p = *job_.problem;
    const Strides &s = job_.source_strides, &g = job_.grad_strides;
    const int64_t taps = round_up(shape_.taps, W);
    A* total = sums_ + taps * W;
    std::fill_n(total, taps, A{0});
    for (int64_t n = 0; n < p.batch; ++n) {
      stager_.fill(static_cast<const A*>(job_.source) + n * s.outer + filter / p.out_channels * s.channel, 1);
      std::fill_n(sums_, taps * W, A{0});
      correlate(static_cast<const A*>(job_.grad) + n * g.outer + filter * g.channel);
      for (int64_t t = 0; t < taps; t += W) {
        Vector<A> lanes[W];
        for (int i = 0; i < W; ++i) lanes[i] = load(sums_ + (t + i) * W);
        store(total + t, load(total + t) + sum_of_lanes<A>(lanes));
      }
    }
    const Strides& r = job_.result_strides;
    for (int64_t t = 0; t < shape_.taps; ++t) {
      const Tap tap = tap_at(job_.source_region, t);
      static_cast<A*>(job_.result)[filter * r.outer + tap.t[1] * r.axis[1] + tap.t[2] * r.axis[2]] = total[t];
    }
  }

 private:
  static constexpr int W = kLanes<A>;

  // A lane adds up at most kReductionBlock rows at a time.
  void correlate(const A* grad) const {
    const Strides& g = job_.grad_strides;
    const int64_t height = shape_.pixels / shape_.width;
    int64_t pitch = g.axis[1];
    if (g.axis[2] != 1) {  // of an expanded tensor, say
      for (int64_t y = 0; y < height; ++y)
        copy_strided(grad_ + y * shape_.width, grad + y * g.axis[1], g.axis[2], shape_.width);
      grad = grad_, pitch = shape_.width;
    }
    for (int64_t y = 0; y < height; y += kReductionBlock)
      for (int64_t first = 0; first < shape_.width; first += W) {
        const int64_t x = std::min(first, shape_.width - W);
        for (const TapBlock* b = blocks_; b < blocks_ + block_count_; ++b)
          (first == x ? kCorrelateRows<A, false> : kCorrelateRows<A, true>)[b->rows - 1][b->columns - 1](
              {grad + y * pitch + x, pitch, std::min(kReductionBlock, height - y), stage_ + y * shape_.band.pitch + x,
               shape_.band.pitch, sums_, b, keep_});
      }
  }

  const WgradJob& job_;
  const GroupedShape& shape_;
  const DepthwiseRowsWorkspace memory_;
  A* grad_;
  TapBlock* blocks_;
  A *stage_, *sums_;
  PlaneStager<A, A> stager_;
  int64_t block_count_ = 0;
  A keep_[W];
};
