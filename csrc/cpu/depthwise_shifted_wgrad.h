// wgrad of depthwise_shifted.h. Include only from engine.inl.h.
//
//   result[tap] = sum over y, x of grad[y][x] * source[y'][x + offset(tap)]
//
//   source row i    x[-1] x[0] x[+1]       The sums of a block of taps stay in registers, a vector each, while the rows
//        times      \___________/          of a plane pass once: a row is loaded, and shifted under each column of
//        taps,
//   grad   row i      tap row 0            once for all rows of taps, which it meets with the last rows of grad.
//   grad   row i - 1  tap row 1
//   grad   row i - 2  tap row 2            The sums over lanes of several filters are taken together: whole squares.
//
// A unit is some filters: all images, in order. Lanes add up at most kReductionBlock rows at a time.
#pragma once

template <class A>
struct ShiftedBlock {
  int64_t column;             // of the taps, the first
  int64_t first, begin, end;  // as a pass has them
  int64_t sum, row_step;      // the first tap's; between rows of taps
  int rows, count;            // of taps, and columns of them
};

template <class A>
struct ShiftedTapTile {
  const ShiftedBlock<A>* block;
  const FetchPlan<A>* fetches;  // of grad and of each column of taps
  const A* grad;
  int64_t grad_pitch, height;  // at least as high as the block has rows
  const A* source;
  int64_t row, pitch;
  A* sums;  // [tap][lane], added to
};

template <class A, Fetch kFetch, int kRows, int kColumns>
void correlate_shifted(const ShiftedTapTile<A>& tile) {
  constexpr int W = kLanes<A>;
  const ShiftedBlock<A>& block = *tile.block;
  Vector<A> sum[kRows][kColumns] = {}, g[kRows] = {};
  const Fetcher<A, kFetch> fetch_grad(*tile.fetches);
  Fetcher<A, kFetch> fetch[kColumns];
  int64_t column[kColumns];
#pragma GCC unroll 3
  for (int j = 0; j < kColumns; ++j) {
    const FetchPlan<A>& plan = tile.fetches[1 + block.column + j];
    fetch[j] = Fetcher<A, kFetch>(plan);
    column[j] = plan.first;
  }
  const A* grad = tile.grad + tile.fetches->first;
  const A* from = tile.source + block.first + tile.row * tile.pitch;
  const int64_t begin = block.begin - tile.row, end = block.end - tile.row, height = tile.height;
  // Source row i meets grad row i - k under tap row k; at the ends not all of them are there.
  int64_t i = 0;
  const auto add_row = [&](int first, int last) [[gnu::always_inline]] {
    if (i >= begin && i < end) {
#pragma GCC unroll 3
      for (int j = 0; j < kColumns; ++j) {
        const Vector<A> x = fetch[j](from + column[j]);
#pragma GCC unroll 7
        for (int k = 0; k < kRows; ++k)
          if (k >= first && k <= last) sum[k][j] += g[k] * x;
      }
    }
    from += tile.pitch, ++i;
#pragma GCC unroll 7
    for (int k = kRows - 1; k > 0; --k) g[k] = g[k - 1];
  };
  const auto load_grad = [&]() [[gnu::always_inline]] {
    g[0] = fetch_grad(grad);
    grad += tile.grad_pitch;
  };
#pragma GCC unroll 7
  for (int last = 0; last < kRows - 1; ++last) load_grad(), add_row(0, last);
  while (i < height) load_grad(), add_row(0, kRows - 1);
#pragma GCC unroll 7
  for (int first = 1; first < kRows; ++first) add_row(first, kRows - 1);
#pragma GCC unroll 7
  for (int k = 0; k < kRows; ++k)
#pragma GCC unroll 3
    for (int j = 0; j < kColumns; ++j) {
      A* to = tile.sums + (block.sum + k * block.row_step + j) * W;
      store(to, load(to) + sum[k][j]);
    }
}

template <class A>
using ShiftedTapFunction = void (*)(const ShiftedTapTile<A>&);
template <class A, Fetch kFetch, int kRows, std::size_t... J>
constexpr std::array<ShiftedTapFunction<A>, kMostShiftedColumns> correlate_shifted_of(std::index_sequence<J...>) {
  return {&correlate_shifted<A, kFetch, kRows, static_cast<int>(J) + 1>...};
}
template <class A, Fetch kFetch, std::size_t... I>
constexpr auto correlate_shifted_functions(std::index_sequence<I...>) {
  return std::array{correlate_shifted_of<A, kFetch, static_cast<int>(I) + 1>(
      std::make_index_sequence<static_cast<std::size_t>(most_shifted_columns(static_cast<int>(I) + 1))>{})...};
}
// kCorrelateShifted<A, fetch>[rows - 1][columns - 1]
template <class A, Fetch kFetch>
inline constexpr auto kCorrelateShifted =
    correlate_shifted_functions<A, kFetch>(std::make_index_sequence<kMostShiftedRows>{});

// sum_of_lanes for the halves of vectors: lane j of half h of the i-th result is the sum of half h of v[2 * j + i].
template <class A>
inline void sum_of_halves(Vector<A> (&v)[kLanes<A>], Vector<A> (&result)[2]) {
  constexpr std::size_t W = kLanes<A>, kHalf = W / 2;
  // of the same half of two vectors, in turn
  constexpr auto low = [](std::size_t i) { return i / kHalf * kHalf + i % kHalf / 2 + i % 2 * W; };
  constexpr auto high = [](std::size_t i) { return i / kHalf * kHalf + i % kHalf / 2 + i % 2 * W + kHalf / 2; };
#pragma GCC unroll 4
  for (std::size_t count = kHalf; count > 1; count /= 2)
#pragma GCC unroll 8
    for (std::size_t i = 0; i < count; ++i)
      v[i] = shuffle<A>(v[i], v[i + count], low, LaneSequence<A>{}) +
             shuffle<A>(v[i], v[i + count], high, LaneSequence<A>{});
  result[0] = v[0], result[1] = v[1];
}

template <class T, class A>
class DepthwiseShiftedWgrad {
 public:
  DepthwiseShiftedWgrad(const WgradJob& job, const ShiftedShape& shape, std::byte* workspace)
      : DepthwiseShiftedWgrad(job, shape, workspace, ShiftedWgradWorkspace(shape, kLanes<A>, sizeof(A))) {}

  void run(int64_t unit) {
    const int64_t planes = shape_.planes, filters = job_.problem->groups * shape_.multiplier;
    const int64_t first = unit * shape_.filters, last = std::min(first + shape_.filters, filters);
    const int64_t terms = round_up(divide_up(last - first, planes) * shape_.taps, W);
    std::fill_n(total_, terms * planes, A{0});
    for (int64_t n = 0; n < job_.problem->batch; ++n) {
      std::fill_n(sums_, terms * W, A{0});
      for (int64_t filter = first; filter < last; filter += planes)
        correlate(n, filter, std::min(planes, last - filter), sums_ + (filter - first) / planes * shape_.taps * W);
      for (int64_t term = 0; term < terms; term += W) add_lanes(term);
    }
    write(first, last);
  }

 private:
  static constexpr int64_t W = kLanes<A>;

  DepthwiseShiftedWgrad(const WgradJob& job, const ShiftedShape& shape, std::byte* workspace,
                        const ShiftedWgradWorkspace& at)
      : job_(job),
        shape_(shape),
        blocks_(reinterpret_cast<ShiftedBlock<A>*>(workspace + at.blocks)),
        fetches_(reinterpret_cast<FetchPlan<A>*>(workspace + at.fetches)),
        lanes_(reinterpret_cast<LaneInteger<A>*>(workspace + at.lanes_of_taps)),
        sums_(reinterpret_cast<A*>(workspace + at.sums)),
        total_(reinterpret_cast<A*>(workspace + at.total)),
        rest_(reinterpret_cast<A*>(workspace + at.rest)),
        source_(job.source, job.source_strides, job.problem->batch, job.problem->groups, shape.source_height,
                shape.source_width, reinterpret_cast<A*>(workspace + at.source),
                shape.adjoint ? job.problem->axis[2].stride * std::max(shape.positions, W) : W),
        grad_(job.grad, job.grad_strides, job.problem->batch, job.problem->groups * shape.multiplier, shape.height,
              shape.width, reinterpret_cast<A*>(workspace + at.grad)) {
    static_assert(sizeof(ShiftedBlock<A>) <= ShiftedWorkspace::kPassBytes);
    static_assert(sizeof(FetchPlan<A>) <= ShiftedWorkspace::kFetchBytes);
    if (shape.adjoint) strips_.emplace(*job.problem, shape, fetches_, lanes_);
  }

  // fetches_[vector], of grad and then of each column of taps; blocks_ are those of every vector.
  void list_blocks() {
    const GatherAxis &h = job_.source_region.axis[1], &w = job_.source_region.axis[2];
    const int64_t columns = shape_.column_taps, stride = (columns + 1);
    for (int64_t v = 0; v < shape_.vectors; ++v) {
      // The last vector starts early, and leaves out what the one before it has added.
      const int64_t x = std::max<int64_t>(0, std::min(v * W, shape_.width - W)), begin = v * W - x;
      LaneInteger<A>* lanes = lanes_ + v * stride * 2 * W;
      FetchPlan<A>* fetch = fetches_ + v * stride;
      fetch[0] = FetchPlan<A>({shape_.planes, grad_.distance(), x, begin, shape_.width - x, 1, 0, shape_.width}, lanes);
      Fetch& kind = fetch[0].kind;
      for (int64_t t = 0; t < columns; ++t) {
        FetchPlan<A>& of_tap = fetch[1 + t];
        of_tap = FetchPlan<A>(
            {shape_.planes, source_.distance(), x, begin, shape_.width - x, w.step, tap_offset(w, t), w.extent},
            lanes + (1 + t) * 2 * W);
        kind = std::max(kind, of_tap.kind);  // one serves all
      }
    }
    block_count_ = 0;
    for_each_row_run(h, static_cast<int>(std::min<int64_t>(kMostShiftedRows, shape_.height)),
                     [&](int64_t first, int64_t step, int rows, int64_t row) {
                       const Panels parts(columns, most_shifted_columns(rows));
                       for (int64_t i = 0; i < parts.count; ++i)
                         blocks_[block_count_++] = {parts.start(i),
                                                    row * source_.pitch(),
                                                    positions_below(row, h.step),
                                                    positions_below(row - h.extent, h.step),
                                                    first * columns + parts.start(i),
                                                    step * columns,
                                                    rows,
                                                    static_cast<int>(parts.rows(i))};
                     });
  }

  // Adds an image's products for one filter, or two that share vectors.
  void correlate(int64_t n, int64_t filter, int64_t count, A* sums) {
    const bool moved = source_.enter(n, filter / shape_.multiplier, count, shape_.planes);
    const bool listed = !grad_.enter(n, filter, count, shape_.planes) && !moved;
    if (strips_) return run_strips(n, filter, sums);
    if (!listed) list_blocks();
    const int64_t pitch = job_.source_region.axis[1].step * source_.pitch();
    const Panels chunks(shape_.height, kReductionBlock);
    const int64_t stride = shape_.column_taps + 1;
    for (int64_t i = 0; i < chunks.count; ++i)
      for (int64_t v = 0; v < shape_.vectors; ++v)
        for (const ShiftedBlock<A>* b = blocks_; b < blocks_ + block_count_; ++b) {
          const FetchPlan<A>* fetches = fetches_ + v * stride;
          const int64_t y = chunks.start(i);
          const ShiftedTapTile<A> tile{
              b,     fetches, grad_.planes() + y * grad_.pitch(), grad_.pitch(), chunks.rows(i), source_.planes(), y,
              pitch, sums};
          function_of(fetches->kind, b->rows, b->count)(tile);
        }
  }

  // The same, and the gradient to the source where the job makes it.
  void run_strips(int64_t n, int64_t filter, A* sums) const {
    A weight[kAdjointTaps * kAdjointTaps];
    AdjointTile<A> tile = {};
    tile.grad = grad_.planes(), tile.grad_pitch = grad_.pitch();
    tile.source = source_.planes(), tile.pitch = source_.pitch();
    tile.sums = sums;
    if constexpr (std::is_same_v<T, A>)
      if (job_.source_grad) {
        const Strides &w = job_.weight_strides, &s = job_.source_grad_strides;
        const A* from = static_cast<const A*>(job_.weight) + filter * w.outer;
        for (int64_t t = 0; t < shape_.taps; ++t)
          weight[t] = from[t / kAdjointTaps * w.axis[1] + t % kAdjointTaps * w.axis[2]];
        tile.weight = weight;
        tile.to = static_cast<A*>(job_.source_grad) + n * s.outer + filter * s.channel;
        tile.to_pitch = s.axis[1];
        tile.rest = rest_;
      }
    strips_->run(tile);
  }
  static ShiftedTapFunction<A> function_of(Fetch kind, int rows, int columns) {
    const std::size_t i = static_cast<std::size_t>(rows - 1), j = static_cast<std::size_t>(columns - 1);
    switch (kind) {
      case Fetch::kWhole: return kCorrelateShifted<A, Fetch::kWhole>[i][j];
      case Fetch::kShifted: return kCorrelateShifted<A, Fetch::kShifted>[i][j];
      default: return kCorrelateShifted<A, Fetch::kJoined>[i][j];
    }
  }

  void add_lanes(int64_t term) const {
    Vector<A> lanes[W];
    for (int i = 0; i < W; ++i) lanes[i] = load(sums_ + (term + i) * W);
    if (shape_.planes == 1) {
      store(total_ + term, load(total_ + term) + sum_of_lanes<A>(lanes));
      return;
    }
    Vector<A> halves[2];
    sum_of_halves<A>(lanes, halves);
    A* total = total_ + 2 * term;  // two vectors, as sum_of_halves leaves them
    for (int i = 0; i < 2; ++i) store(total + i * W, load(total + i * W) + halves[i]);
  }

  void write(int64_t first, int64_t last) const {
    const Strides& r = job_.result_strides;
    const int64_t columns = shape_.column_taps;
    const bool dense = r.axis[2] == 1 && (r.axis[1] == columns || shape_.taps == columns);
    for (int64_t filter = first; filter < last; filter += shape_.planes) {
      const int64_t term = (filter - first) / shape_.planes * shape_.taps;
      for (int64_t half = 0; half < std::min(shape_.planes, last - filter); ++half) {
        T* to = static_cast<T*>(job_.result) + (filter + half) * r.outer;
        const A* sums = total_ + term;
        if (shape_.planes > 1) {  // of whole vectors, as add_lanes has left them
          for (int64_t t = 0; t < shape_.taps; ++t) {
            const uint64_t at = static_cast<uint64_t>(term + t);
            sums_[t] = total_[at / W * (2 * W) + at % 2 * W + at % W / 2 + static_cast<uint64_t>(half) * (W / 2)];
          }
          sums = sums_;
        }
        if (dense) {
          store_line(to, 1, sums, 1, shape_.taps);
        } else {
          for (int64_t h = 0; h < shape_.taps / columns; ++h)
            store_line(to + h * r.axis[1], r.axis[2], sums + h * columns, 1, columns);
        }
      }
    }
  }

  const WgradJob& job_;
  const ShiftedShape& shape_;
  ShiftedBlock<A>* blocks_;
  FetchPlan<A>* fetches_;
  LaneInteger<A>* lanes_;
  A *sums_, *total_, *rest_;
  PlaneReader<T, A> source_, grad_;
  int64_t block_count_ = 0;
  std::optional<AdjointStrips<A>> strips_;
};
