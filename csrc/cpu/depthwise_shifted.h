// Depthwise convolution on NCHW images that are read where they lie: rows are shifted in registers. Include only from
// engine.inl.h.
//
//   fprop, dgrad   result[y][x] = bias + sum over taps of weight[tap] * source[y'][x + offset(tap)]
//   wgrad          depthwise_shifted_wgrad.h; both gradients of 3 x 3 taps depthwise_shifted_adjoint.h
//
//   source row   | . . . a b c d e f g |    A vector of a row's results reads, under one column of taps, a vector that
//     tap -1     | 0 . . . a b c d e f |    begins some columns to the left or right: loaded there if it lies inside
//     tap  0     | . . . a b c d e f g |    of the row, else loaded inside and its lanes moved, zeros where they leave
//     tap +1     | . . a b c d e f g 0 |    the image. A stride of two takes every second lane of two vectors. Rows
//                                           outside of the image are skipped.
//
// A vector holds a row of one plane, or of two planes where it would be half empty (7 x 7 images). It is loaded and
// shifted once for all results above and below that it reaches: the sums of as many rows of results as there are rows
// of taps are in registers while the rows of the source pass, and the first of them is complete after each. No plane is
// staged, as in depthwise_rows.h: to copy one with its padding took as long as half of its products. Phases of a
// strided dgrad are summed apart, a vector each, and interleaved as they are written.
//
// Lanes move by an index in a register, which takes vectors of 64 bytes; the plan sends narrower ones elsewhere. Sums
// run over at most kReductionBlock taps, in an order that the shape alone decides.
#pragma once

// Calls visit(first tap, step between taps, how many, source row that the first reads from position 0) for the runs of
// an axis' taps that read rows one position apart, in parts of at most `most`.
template <class Visit>
inline void for_each_row_run(const GatherAxis& g, int most, Visit visit) {
  if (g.taps == 0) return;
  StagedAxis rows;
  const int64_t last = tap_offset(g, g.taps - 1);
  rows.first = std::min(g.off0, last);
  rows.groups = std::min(g.step, std::max(g.off0, last) - rows.first + 1);
  rows.span = (std::max(g.off0, last) - rows.first) / g.step;
  for_each_tap_run(g, rows, most,
                   [&](int64_t first, int64_t step, int count) { visit(first, step, count, tap_offset(g, first)); });
}

// Rows of taps of a pass, and columns: their weights, the sums of as many rows of results and the indices fit 32
// registers.
inline constexpr int kMostShiftedRows = 7, kMostShiftedColumns = 3;
constexpr int most_shifted_columns(int rows) { return rows <= 5 ? kMostShiftedColumns : 2; }

// Taps of some columns, and of rows that read source rows one position apart.
template <class A>
struct ShiftedPass {
  const FetchPlan<A>* columns;
  int64_t first, begin, end;  // of the source's elements; position rows from which the first tap reads the image
  int64_t weight, row_step, column_step;  // of the first tap; between taps
  int rows, count;                        // of taps, and columns of them
};

template <class A>
struct ShiftedTile {
  const ShiftedPass<A>* pass;
  const A* weight;  // a number a tap, or a vector where planes share one
  const A* source;
  int64_t row, height, pitch;  // position rows, and elements between what two of them read
  A* to;
  int64_t to_pitch, to_distance;  // between rows; where planes share a vector, between them, or zero to store it whole
  const A* bias;                  // a vector, which begins the sums; null: they are added to what stands there
  int64_t in_place;               // rows that go there; the others, a vector each, to `rest`
  A* rest;
};

template <class A>
inline void store_half(A* to, Vector<A> v, int half) {
  std::memcpy(to, reinterpret_cast<const std::byte*>(&v) + half * (kVectorBytes / 2), kVectorBytes / 2);
}

template <class A, Fetch kFetch, bool kShared, int kRows, int kColumns>
void filter_shifted(const ShiftedTile<A>& tile) {
  const ShiftedPass<A>& pass = *tile.pass;
  Vector<A> w[kRows][kColumns], sum[kRows] = {};
  int64_t column[kColumns];
  Fetcher<A, kFetch> fetch[kColumns];
#pragma GCC unroll 3
  for (int j = 0; j < kColumns; ++j) {
    fetch[j] = Fetcher<A, kFetch>(pass.columns[j]);
    column[j] = pass.columns[j].first;
#pragma GCC unroll 7
    for (int k = 0; k < kRows; ++k) {
      const int64_t tap = pass.weight + k * pass.row_step + j * pass.column_step;
      if constexpr (kShared) {
        w[k][j] = load(tile.weight + tap * kLanes<A>);
      } else {
        w[k][j] = tile.weight[tap] - Vector<A>{};  // which leaves -0 as it is
      }
    }
  }
  const int64_t pitch = tile.pitch, to_distance = tile.to_distance;
  const int64_t begin = pass.begin - tile.row, end = pass.end - tile.row;
  // No result is complete before the last row of taps has had its first row.
  int64_t i = std::clamp<int64_t>(begin, 0, kRows - 1);
  const A* from = tile.source + pass.first + (tile.row + i) * pitch;
  const auto add_row = [&]() [[gnu::always_inline]] {
    if (i >= begin && i < end) {
#pragma GCC unroll 3
      for (int j = 0; j < kColumns; ++j) {
        const Vector<A> x = fetch[j](from + column[j]);
#pragma GCC unroll 7
        for (int k = 0; k < kRows; ++k) sum[k] += w[k][j] * x;
      }
    }
    from += pitch;
  };
  const auto shift = [&]() [[gnu::always_inline]] {
#pragma GCC unroll 7
    for (int k = kRows - 1; k > 0; --k) sum[k] = sum[k - 1];
    sum[0] = Vector<A>{};
  };
  for (; i < kRows - 1; ++i) add_row(), shift();
  const int64_t height = tile.height + kRows - 1;
  if (!tile.bias) {
    for (A* to = tile.to; i < height; ++i, to += tile.to_pitch)
      add_row(), store(to, load(to) + sum[kRows - 1]), shift();
    return;
  }
  const Vector<A> bias = load(tile.bias);
  A* to = tile.to;
  for (const int64_t stop = tile.in_place + kRows - 1; i < stop; ++i, to += tile.to_pitch) {
    add_row();
    const Vector<A> result = bias + sum[kRows - 1];
    if (kShared && to_distance != 0) {
      store_half(to, result, 0);
      store_half(to + to_distance, result, 1);
    } else {
      store(to, result);
    }
    shift();
  }
  for (to = tile.rest; i < height; ++i, to += kLanes<A>) add_row(), store(to, bias + sum[kRows - 1]), shift();
}

template <class A>
using ShiftedFunction = void (*)(const ShiftedTile<A>&);
template <class A, Fetch kFetch, bool kShared, int kRows, std::size_t... J>
constexpr std::array<ShiftedFunction<A>, kMostShiftedColumns> filter_shifted_of(std::index_sequence<J...>) {
  return {&filter_shifted<A, kFetch, kShared, kRows, static_cast<int>(J) + 1>...};
}
template <class A, Fetch kFetch, bool kShared, std::size_t... I>
constexpr auto filter_shifted_functions(std::index_sequence<I...>) {
  return std::array{filter_shifted_of<A, kFetch, kShared, static_cast<int>(I) + 1>(
      std::make_index_sequence<static_cast<std::size_t>(most_shifted_columns(static_cast<int>(I) + 1))>{})...};
}
// kFilterShifted<A, fetch, shared>[rows - 1][columns - 1]
template <class A, Fetch kFetch, bool kShared>
inline constexpr auto kFilterShifted =
    filter_shifted_functions<A, kFetch, kShared>(std::make_index_sequence<kMostShiftedRows>{});

template <class A>
inline void filter_tile(const ShiftedTile<A>& tile, bool shared) {
  const std::size_t i = static_cast<std::size_t>(tile.pass->rows - 1),
                    j = static_cast<std::size_t>(tile.pass->count - 1);
  if (shared) return kFilterShifted<A, Fetch::kJoined, true>[i][j](tile);
  switch (tile.pass->columns->kind) {
    case Fetch::kWhole: return kFilterShifted<A, Fetch::kWhole, false>[i][j](tile);
    case Fetch::kShifted: return kFilterShifted<A, Fetch::kShifted, false>[i][j](tile);
    default: return kFilterShifted<A, Fetch::kJoined, false>[i][j](tile);
  }
}

// fprop and dgrad; a unit is a group of an image, or two that share vectors.
template <class T, class A>
class DepthwiseShifted {
 public:
  DepthwiseShifted(const ConvJob& job, const ShiftedShape& shape, std::byte* workspace)
      : DepthwiseShifted(job, shape, workspace, ShiftedWorkspace(shape, kLanes<A>, sizeof(A))) {}

  void run(int64_t unit) {
    const int64_t groups = job_.problem->groups, of_image = (groups + shape_.planes - 1) / shape_.planes;
    const int64_t n = unit / of_image, group = (unit - n * of_image) * shape_.planes;
    planes_ = std::min(shape_.planes, groups - group);
    if (reader_.enter(n, group * shape_.depth, planes_ * shape_.depth, shape_.planes * shape_.depth)) list_passes();
    for (int64_t m = 0; m < shape_.multiplier; ++m) {
      const int64_t channel = group * shape_.multiplier + m;
      enter_filter(group, m, channel);
      const Strides& r = job_.result_strides;
      T* result = static_cast<T*>(job_.result) + n * r.outer + channel * r.channel;
      for (int64_t i = 0; i < tiles_.count; ++i)
        for (int64_t v = 0; v < shape_.vectors; ++v) run_tile(v, tiles_.start(i), tiles_.rows(i), result);
    }
  }

 private:
  static constexpr int64_t W = kLanes<A>;

  DepthwiseShifted(const ConvJob& job, const ShiftedShape& shape, std::byte* workspace, const ShiftedWorkspace& at)
      : job_(job),
        shape_(shape),
        epilogue_(job),
        tiles_(divide_up(shape.height, shape.row_phases), kShiftedTileRows),
        passes_(reinterpret_cast<ShiftedPass<A>*>(workspace + at.passes)),
        fetches_(reinterpret_cast<FetchPlan<A>*>(workspace + at.fetches)),
        lanes_(reinterpret_cast<LaneInteger<A>*>(workspace + at.lanes_of_taps)),
        weight_(reinterpret_cast<A*>(workspace + at.weight)),
        sums_(reinterpret_cast<A*>(workspace + at.sums)),
        reader_(job.source, job.source_strides, job.problem->batch, job.problem->groups * shape.depth,
                shape.source_height, shape.source_width, reinterpret_cast<A*>(workspace + at.source)) {
    static_assert(sizeof(ShiftedPass<A>) <= ShiftedWorkspace::kPassBytes);
    static_assert(sizeof(FetchPlan<A>) <= ShiftedWorkspace::kFetchBytes);
    const int64_t* axis = job.weight_tap;
    const int64_t columns = shape.column_taps;
    chunk_ = W / shape.planes * shape.column_phases;
    const int64_t room = shape.height * shape.width - chunk_;
    if (shape.vectors == 1 && job.result_strides.axis[1] == shape.width && room >= 0)
      spilling_ = room / shape.width + 1;
    dense_weight_ = std::is_same_v<T, A> && shape.planes == 1 && (columns == 1 || axis[2] == 1) &&
                    (shape.taps == columns || axis[1] == columns);
  }

  const Region& region(int64_t row_phase, int64_t column_phase) const {
    return *job_.wave.data()[row_phase * shape_.column_phases + column_phase].region;
  }
  // The vector's first position: the last vector starts early.
  int64_t start(int64_t vector) const { return std::max<int64_t>(0, std::min(vector * W, shape_.positions - W)); }

  // passes_[vector][row phase][column phase], those of a region each; fetches_[vector][row phase][column of taps].
  void list_passes() {
    const int64_t depth_step = dense_weight_ ? job_.weight_depth : shape_.taps, columns = shape_.column_taps;
    int64_t made = 0;
    for (int64_t v = 0; v < shape_.vectors; ++v)
      for (int64_t ph = 0; ph < shape_.row_phases; ++ph) {
        FetchPlan<A>* fetches = fetches_ + (v * shape_.row_phases + ph) * columns;
        for (int64_t pw = 0; pw < shape_.column_phases; ++pw) {
          const GatherAxis &h = region(ph, pw).axis[1], &w = region(ph, pw).axis[2];
          for (int64_t t = 0; t < w.taps; ++t)
            fetches[t] = FetchPlan<A>({shape_.planes, reader_.distance(), start(v), 0, w.count - start(v), w.step,
                                       tap_offset(w, t), w.extent},
                                      lanes_ + (fetches + t - fetches_) * 2 * W);
          pass_starts_[ph][pw] = v == 0 ? made : pass_starts_[ph][pw];
          for (int64_t c = 0; c < shape_.depth; ++c)
            for_each_row_run(h, kMostShiftedRows, [&](int64_t first, int64_t step, int rows, int64_t row) {
              const Panels parts(w.taps, most_shifted_columns(rows));
              for (int64_t i = 0; i < parts.count; ++i) {
                FetchPlan<A>* part = fetches + parts.start(i);
                for (int64_t t = 1; t < parts.rows(i); ++t) part->kind = std::max(part->kind, part[t].kind);
                passes_[made++] = {
                    part,
                    c * reader_.distance() + row * reader_.pitch(),
                    positions_below(row, h.step),
                    positions_below(row - h.extent, h.step),
                    c * depth_step + (h.tap0 + first * h.tap_step) * columns + w.tap0 + parts.start(i) * w.tap_step,
                    step * h.tap_step * columns,
                    w.tap_step,
                    rows,
                    static_cast<int>(parts.rows(i))};
              }
            });
          if (v == 0) pass_counts_[ph][pw] = made - pass_starts_[ph][pw];
          fetches += w.taps;
        }
      }
    passes_of_vector_ = made / shape_.vectors;
  }

  // The weight and the bias of result channel m of a group, or those of two groups in the halves of vectors.
  void enter_filter(int64_t group, int64_t m, int64_t channel) {
    const T* weight = static_cast<const T*>(job_.weight) + group * job_.weight_group + m * job_.weight_row;
    const T* bias = static_cast<const T*>(job_.epilogue.bias);
    Vector<A> first = {};
    if (shape_.planes > 1) {
      const int64_t other = planes_ > 1;
      if (bias) first = halves(widen(bias[channel]), widen(bias[channel + other]));
      for_each_weight([&](int64_t index, int64_t offset) {
        store(weight_ + index * W, halves(widen(weight[offset]), widen(weight[offset + other * job_.weight_group])));
      });
      store(bias_, first);
      filter_ = weight_;
      return;
    }
    if (bias) first += widen(bias[channel]);
    store(bias_, first);
    if constexpr (std::is_same_v<T, A>) filter_ = weight;
    if (dense_weight_) return;
    for_each_weight([&](int64_t index, int64_t offset) { weight_[index] = widen(weight[offset]); });
    filter_ = weight_;
  }
  static Vector<A> halves(A low, A high) {
    constexpr auto index = [](std::size_t i) { return i < W / 2 ? i : i + static_cast<std::size_t>(W); };
    return shuffle<A>(Vector<A>{} + low, Vector<A>{} + high, index, LaneSequence<A>{});
  }
  template <class Visit>
  void for_each_weight(Visit visit) const {
    const int64_t* step = job_.weight_tap;
    int64_t index = 0;
    for (int64_t c = 0; c < shape_.depth; ++c)
      for (int64_t h = 0; h < shape_.taps / shape_.column_taps; ++h)
        for (int64_t w = 0; w < shape_.column_taps; ++w)
          visit(index++, c * job_.weight_depth + h * step[1] + w * step[2]);
  }

  // Results of `rows` position rows from `row` on and of one vector of positions.
  void run_tile(int64_t vector, int64_t row, int64_t rows, T* result) {
    const Strides& r = job_.result_strides;
    const int64_t row_phases = shape_.row_phases, column_phases = shape_.column_phases;
    const int64_t first = row * row_phases, lines = std::min(rows * row_phases, shape_.height - first);
    const int64_t column = start(vector) * column_phases, length = std::min(shape_.width - column, chunk_);
    T* to = result + first * r.axis[1] + column * r.axis[2];
    const int64_t spilling = length == chunk_ ? lines : std::clamp<int64_t>(spilling_ - first, 0, lines);
    const bool plain = std::is_same_v<T, A> && epilogue_.is_bias() && r.axis[2] == 1;
    // A second pass would read what the first has written beyond a line.
    const bool in_place = plain && row_phases == 1 && column_phases == 1 && planes_ == shape_.planes &&
                          (passes_of_vector_ == 1 || (length == chunk_ && shape_.planes == 1));
    if constexpr (std::is_same_v<T, A>)
      if (in_place) {
        sum(vector, 0, 0, {row, lines}, {to, r.axis[1], shape_.planes > 1 ? r.channel : 0, spilling});
        for (int64_t p = 0; p < planes_; ++p)
          for (int64_t i = spilling; i < lines; ++i)
            copy_row(to + p * r.channel + i * r.axis[1], sums_ + (i - spilling) * W + p * chunk_, length);
        return;
      }
    const int64_t distance = column_phases * W;
    for (int64_t ph = 0; ph < std::min(row_phases, lines); ++ph) {
      const int64_t height = row_phases == 1 ? lines : (lines + 1 - ph) / kMostPhases;
      for (int64_t pw = 0; pw < column_phases; ++pw)
        sum(vector, ph, pw, {row, height}, {sums_ + ph * distance + pw * W, row_phases * distance, 0, height});
    }
    if (column_phases > 1) {
      for (A* line = sums_; line < sums_ + lines * distance; line += distance) {
        const Vector<A> even = load(line), odd = load(line + W);
        store(line, interleave_low<A>(even, odd));
        store(line + W, interleave_high<A>(even, odd));
      }
    }
    for (int64_t p = 0; p < planes_; ++p, to += r.channel) {
      const A* from = sums_ + p * chunk_;
      if constexpr (std::is_same_v<T, A>)
        if (plain) {
          put_lines(to, r.axis[1], from, distance, spilling);
          for (int64_t i = spilling; i < lines; ++i) copy_row(to + i * r.axis[1], from + i * distance, length);
          continue;
        }
      epilogue_.write({to, r.axis[1], r.axis[2], from, distance, 1, lines, length});
    }
  }

  struct TileRows {
    int64_t first, count;
  };
  struct TileTarget {
    A* to;
    int64_t pitch, distance;  // between lines, and planes
    int64_t in_place;         // lines; the others go to scratch
  };

  void sum(int64_t vector, int64_t row_phase, int64_t column_phase, const TileRows& rows, const TileTarget& at) const {
    const int64_t pitch = region(row_phase, column_phase).axis[1].step * reader_.pitch();
    const ShiftedPass<A>* pass = passes_ + vector * passes_of_vector_ + pass_starts_[row_phase][column_phase];
    const ShiftedPass<A>* const end = pass + pass_counts_[row_phase][column_phase];
    if (pass == end)  // a phase without a tap
      for (int64_t i = 0; i < rows.count; ++i) store(at.to + i * at.pitch, load(bias_));
    for (const A* bias = bias_; pass < end; ++pass, bias = nullptr)
      filter_tile<A>({pass, filter_, reader_.planes(), rows.first, rows.count, pitch, at.to, at.pitch, at.distance,
                      bias, at.in_place, sums_},
                     shape_.planes > 1);
  }

  void put_lines(A* to, int64_t pitch, const A* from, int64_t distance, int64_t lines) const {
    const auto put = [&](auto elements) {
      for (int64_t i = 0; i < lines; ++i) std::memcpy(to + i * pitch, from + i * distance, elements * sizeof(A));
    };
    if (chunk_ == W / 2) return put(std::integral_constant<std::size_t, W / 2>{});
    if (chunk_ == W) return put(std::integral_constant<std::size_t, W>{});
    put(std::integral_constant<std::size_t, 2 * W>{});
  }

  static constexpr int64_t kMostPhases = 2;

  const ConvJob& job_;
  const ShiftedShape& shape_;
  const EpilogueOf<T, A> epilogue_;
  const Panels tiles_;
  ShiftedPass<A>* passes_;
  FetchPlan<A>* fetches_;
  LaneInteger<A>* lanes_;
  A *weight_, *sums_;
  PlaneReader<T, A> reader_;
  const A* filter_ = nullptr;
  A bias_[W];
  bool dense_weight_;
  // Elements that are written of a line at least; lines of a plane that may be written beyond their ends, for the next
  // one overwrites that.
  int64_t chunk_, spilling_ = 0;
  int64_t planes_ = 1;  // of the current unit
  int64_t passes_of_vector_ = 0, pass_starts_[kMostPhases][kMostPhases] = {},
          pass_counts_[kMostPhases][kMostPhases] = {};
};
