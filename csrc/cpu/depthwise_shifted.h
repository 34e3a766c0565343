// Depthwise convolution on NCHW images that are read where they lie: rows are shifted in registers. Include only from
// engine.inl.h.
//
//   fprop, dgrad   result[y][x] = bias + sum over taps of weight[tap] * source[y'][x + offset(tap)]
//   wgrad          depthwise_shifted_wgrad.h
//
//   source row   | . . . a b c d e f g |      A vector of a row's results reads, under one column of taps, a vector
//   that
//     tap -1     | 0 . . . a b c d e f |      begins some columns to the left or to the right: loaded there if it lies
//     tap  0     | . . . a b c d e f g |      inside of the row, else loaded inside and its lanes moved, zeros where
//     tap +1     | . . a b c d e f g 0 |      they leave the image. A stride of two takes every second lane of two
//                                             vectors. Rows outside of the image are skipped.
//
// A vector holds a row of one plane, or of two planes where it would be half empty (7 x 7 images). It is loaded and
// shifted once for all results above and below that it reaches, eight rows of them at a time, as in depthwise_rows.h,
// whose stage this does without: to copy a plane with its padding took as long as half of its products. Phases of a
// strided dgrad are summed apart, a vector each, and interleaved as they are written.
//
// Lanes move by an index in a register, which takes vectors of 64 bytes; the plan sends narrower ones elsewhere. Sums
// run over at most kReductionBlock taps, in an order that the shape alone decides.
#pragma once

template <class A>
struct LaneIndicesOf {
  typedef LaneInteger<A> type __attribute__((vector_size(kVectorBytes)));
};
template <class A>
using LaneIndices = typename LaneIndicesOf<A>::type;

// Lane i of the result is lane index[i] of the concatenation of a and b.
template <class A>
inline Vector<A> permuted(Vector<A> a, Vector<A> b, LaneIndices<A> index) {
#if defined(__clang__)
  constexpr LaneInteger<A> W = kLanes<A>;
  Vector<A> result = {};
  for (int i = 0; i < kLanes<A>; ++i) result[i] = index[i] < W ? a[index[i]] : b[index[i] - W];
  return result;
#else
  return __builtin_shuffle(a, b, index);
#endif
}

// How a vector of positions is read under a column of taps: as it lies; lanes of one vector, or zeros; lanes of two.
enum class Fetch { kWhole, kShifted, kJoined };

template <class A>
struct FetchPlan {
  Fetch kind = Fetch::kWhole;
  int64_t first = 0, second = 0;          // columns; where the second vector begins, from the first
  const LaneInteger<A>* lanes = nullptr;  // a vector of indices and one of masks

  // Lanes are `planes` equal parts, a plane's positions [x, ..) each, of which [begin, end) count. Position q reads
  // column q * step + offset of rows of `extent`; planes are `distance` apart. `memory` keeps the lanes.
  FetchPlan(int64_t planes, int64_t distance, int64_t x, int64_t begin, int64_t end, int64_t step, int64_t offset,
            int64_t extent, LaneInteger<A>* memory)
      : lanes(memory) {
    constexpr int64_t W = kLanes<A>;
    const int64_t start = x * step + offset, last = std::max<int64_t>(0, extent - W);
    first = std::clamp<int64_t>(start, 0, last);
    if (planes > 1) {
      second = distance;
    } else if (step > 1) {
      second = std::clamp<int64_t>(start + W, 0, last) - first;
    }
    const bool joined = planes > 1 || step > 1;
    bool whole = !joined;
    for (int64_t l = 0; l < W; ++l) {
      const int64_t plane = l / (W / planes), j = l % (W / planes), at = start + j * step - first;
      const bool counts = j >= begin && j < end && first + at >= 0 && first + at < extent;
      const int64_t in_second = planes > 1 ? plane : at >= W;
      const int64_t index = planes > 1 ? plane * W + at : in_second ? W + at - second : at;
      memory[l] = static_cast<LaneInteger<A>>(counts ? index : joined ? 0 : W);
      memory[W + l] = counts ? ~LaneInteger<A>{0} : 0;
      whole = whole && counts && index == l;
    }
    kind = whole ? Fetch::kWhole : joined ? Fetch::kJoined : Fetch::kShifted;
  }
  FetchPlan() = default;
};

template <class A, Fetch kFetch>
class Fetcher {
 public:
  Fetcher() = default;
  explicit Fetcher(const FetchPlan<A>& plan) : second_(plan.second) {
    if constexpr (kFetch != Fetch::kWhole) std::memcpy(&index_, plan.lanes, sizeof index_);
    if constexpr (kFetch == Fetch::kJoined) std::memcpy(&mask_, plan.lanes + kLanes<A>, sizeof mask_);
  }
  [[gnu::always_inline]] Vector<A> operator()(const A* at) const {
    if constexpr (kFetch == Fetch::kWhole) {
      return load(at);
    } else if constexpr (kFetch == Fetch::kShifted) {
      return permuted<A>(load(at), Vector<A>{}, index_);
    } else {
      const Vector<A> lanes = permuted<A>(load(at), load(at + second_), index_);
      return reinterpret_cast<Vector<A>>(reinterpret_cast<LaneIndices<A>>(lanes) & mask_);
    }
  }

 private:
  LaneIndices<A> index_ = {}, mask_ = {};
  int64_t second_ = 0;
};

// Planes that vectors may be loaded from: where they lie, or copied.
template <class T, class A>
class PlaneReader {
 public:
  PlaneReader(const void* data, const Strides& strides, int64_t batch, int64_t channels, int64_t height, int64_t width,
              A* memory)
      : data_(static_cast<const T*>(data)), strides_(strides), height_(height), width_(width), memory_(memory) {
    elements_ = 1 + (batch - 1) * strides.outer + (channels - 1) * strides.channel + (height - 1) * strides.axis[1] +
                (width - 1) * strides.axis[2];
  }

  // Makes `count` planes readable, in the place of `wanted` of them; true if pitch or distance have changed.
  bool enter(int64_t n, int64_t channel, int64_t count, int64_t wanted) {
    const int64_t offset = n * strides_.outer + channel * strides_.channel;
    const int64_t last_row = offset + (count - 1) * strides_.channel + (height_ - 1) * strides_.axis[1];
    const int64_t pitch = pitch_, distance = distance_;
    if constexpr (std::is_same_v<T, A>) {
      if (count == wanted && strides_.axis[2] == 1 && last_row + std::max<int64_t>(width_, W) <= elements_) {
        planes_ = data_ + offset, pitch_ = strides_.axis[1], distance_ = strides_.channel;
        return pitch != pitch_ || distance != distance_;
      }
    }
    planes_ = memory_, pitch_ = width_, distance_ = round_up(height_ * width_, W);
    const bool dense = strides_.axis[2] == 1 && strides_.axis[1] == width_;
    const int64_t rows = dense ? 1 : height_, length = dense ? height_ * width_ : width_;
    for (int64_t c = 0; c < count; ++c)
      for (int64_t y = 0; y < rows; ++y)
        copy(memory_ + c * distance_ + y * width_, data_ + offset + c * strides_.channel + y * strides_.axis[1],
             strides_.axis[2], length);
    return pitch != pitch_ || distance != distance_;
  }

  const A* planes() const { return planes_; }
  int64_t pitch() const { return pitch_; }
  int64_t distance() const { return distance_; }

 private:
  static constexpr int64_t W = kLanes<A>;

  static void copy(A* to, const T* from, int64_t step, int64_t length) {
    if (std::is_same_v<T, A> || step != 1) return copy_strided(to, from, step, length);
    int64_t i = 0;
    for (; i + W <= length; i += W) store(to + i, load_widened<A>(from + i));
    for (; i < length; ++i) to[i] = widen(from[i]);
  }

  const T* data_;
  const Strides& strides_;
  int64_t height_, width_, elements_;
  A* memory_;
  const A* planes_ = nullptr;
  int64_t pitch_ = -1, distance_ = -1;
};

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

// Taps of some columns, of rows that read source rows one position apart, `first` elements from the tile's source on.
template <class A>
struct ShiftedPass {
  const FetchPlan<A>* columns;
  int64_t first, begin, end;  // position rows [begin, end) from which the first tap reads inside of the image
  int64_t weight, row_step, column_step;  // of the first tap; between taps
  int rows, count;                        // of taps, and columns of them
};

template <class A>
struct ShiftedTile {
  const ShiftedPass<A>* passes;
  int64_t pass_count;
  const A* weight;  // a number a tap, or a vector where planes share one
  Vector<A> bias;
  const A* source;
  int64_t row, pitch;  // first position row; elements between what two of them read
  A* to;
  int64_t to_pitch;
};

inline constexpr int kMostShiftedColumns = 3;

template <class A, int kRows, int kTaps, int kColumns, Fetch kFetch, bool kShared>
[[gnu::always_inline]] inline void add_shifted(const ShiftedPass<A>& pass, const ShiftedTile<A>& tile,
                                               Vector<A> (&sum)[kRows]) {
  std::conditional_t<kShared, Vector<A>, A> w[kTaps][kColumns];
  int64_t column[kColumns];
  Fetcher<A, kFetch> fetch[kColumns];
#pragma GCC unroll 3
  for (int j = 0; j < kColumns; ++j) {
    fetch[j] = Fetcher<A, kFetch>(pass.columns[j]);
    column[j] = pass.columns[j].first;
#pragma GCC unroll 4
    for (int k = 0; k < kTaps; ++k) {
      const int64_t tap = pass.weight + k * pass.row_step + j * pass.column_step;
      if constexpr (kShared) {
        w[k][j] = load(tile.weight + tap * kLanes<A>);
      } else {
        w[k][j] = tile.weight[tap];
      }
    }
  }
  const A* from = tile.source + pass.first + tile.row * tile.pitch;
  const int64_t begin = pass.begin - tile.row, end = pass.end - tile.row;
#pragma GCC unroll 16
  for (int i = 0; i < kRows + kTaps - 1; ++i, from += tile.pitch) {
    if (i < begin || i >= end) continue;
#pragma GCC unroll 3
    for (int j = 0; j < kColumns; ++j) {
      const Vector<A> x = fetch[j](from + column[j]);
#pragma GCC unroll 4
      for (int k = 0; k < kTaps; ++k)
        if (i - k >= 0 && i - k < kRows) sum[i - k] += w[k][j] * x;
    }
  }
}

template <class A, int kRows, int kColumns, Fetch kFetch, bool kShared>
[[gnu::always_inline]] inline void add_columns(const ShiftedPass<A>& pass, const ShiftedTile<A>& tile,
                                               Vector<A> (&sum)[kRows]) {
  switch (pass.rows) {
    case 1: return add_shifted<A, kRows, 1, kColumns, kFetch, kShared>(pass, tile, sum);
    case 2: return add_shifted<A, kRows, 2, kColumns, kFetch, kShared>(pass, tile, sum);
    case 3: return add_shifted<A, kRows, 3, kColumns, kFetch, kShared>(pass, tile, sum);
    default: return add_shifted<A, kRows, kMostPassRows, kColumns, kFetch, kShared>(pass, tile, sum);
  }
}

template <class A, int kRows, Fetch kFetch, bool kShared>
[[gnu::always_inline]] inline void add_pass(const ShiftedPass<A>& pass, const ShiftedTile<A>& tile,
                                            Vector<A> (&sum)[kRows]) {
  switch (pass.count) {
    case 1: return add_columns<A, kRows, 1, kFetch, kShared>(pass, tile, sum);
    case 2: return add_columns<A, kRows, 2, kFetch, kShared>(pass, tile, sum);
    default: return add_columns<A, kRows, kMostShiftedColumns, kFetch, kShared>(pass, tile, sum);
  }
}

template <class A, int kRows, bool kShared>
void filter_shifted(const ShiftedTile<A>& tile) {
  Vector<A> sum[kRows] = {};
  for (const ShiftedPass<A>*pass = tile.passes, *end = pass + tile.pass_count; pass < end; ++pass) {
    if constexpr (kShared) {
      add_pass<A, kRows, Fetch::kJoined, true>(*pass, tile, sum);
    } else {
      switch (pass->columns->kind) {
        case Fetch::kWhole: add_pass<A, kRows, Fetch::kWhole, false>(*pass, tile, sum); break;
        case Fetch::kShifted: add_pass<A, kRows, Fetch::kShifted, false>(*pass, tile, sum); break;
        case Fetch::kJoined: add_pass<A, kRows, Fetch::kJoined, false>(*pass, tile, sum); break;
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) store(tile.to + i * tile.to_pitch, tile.bias + sum[i]);
}

// Rows that a tile of so many is computed with: of all sizes, three are compiled.
constexpr int64_t shifted_rows(int64_t rows) { return rows <= 4 ? 4 : rows == 8 ? 8 : 7; }

template <class A, bool kShared>
inline void filter_tile(const ShiftedTile<A>& tile, int64_t rows) {
  if (rows == 8) return filter_shifted<A, 8, kShared>(tile);
  if (rows == 7) return filter_shifted<A, 7, kShared>(tile);
  filter_shifted<A, 4, kShared>(tile);
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
          const Panels parts(w.taps, kMostShiftedColumns);
          for (int64_t t = 0; t < w.taps; ++t)
            fetches[t] = FetchPlan<A>(shape_.planes, reader_.distance(), start(v), 0, w.count - start(v), w.step,
                                      tap_offset(w, t), w.extent, lanes_ + (fetches + t - fetches_) * 2 * W);
          pass_starts_[ph][pw] = v == 0 ? made : pass_starts_[ph][pw];
          for (int64_t c = 0; c < shape_.depth; ++c)
            for (int64_t i = 0; i < parts.count; ++i) {
              FetchPlan<A>* part = fetches + parts.start(i);
              for (int64_t t = 1; t < parts.rows(i); ++t) part->kind = std::max(part->kind, part[t].kind);
              for_each_row_run(h, kMostPassRows, [&](int64_t first, int64_t step, int count, int64_t row) {
                passes_[made++] = {
                    part,
                    c * reader_.distance() + row * reader_.pitch(),
                    positions_below(row, h.step),
                    positions_below(row - h.extent, h.step),
                    c * depth_step + (h.tap0 + first * h.tap_step) * columns + w.tap0 + parts.start(i) * w.tap_step,
                    step * h.tap_step * columns,
                    w.tap_step,
                    count,
                    static_cast<int>(parts.rows(i))};
              });
            }
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
    bias_ = Vector<A>{};
    if (shape_.planes > 1) {
      const int64_t other = planes_ > 1;
      if (bias) bias_ = halves(widen(bias[channel]), widen(bias[channel + other]));
      for_each_weight([&](int64_t index, int64_t offset) {
        store(weight_ + index * W, halves(widen(weight[offset]), widen(weight[offset + other * job_.weight_group])));
      });
      filter_ = weight_;
      return;
    }
    if (bias) bias_ += widen(bias[channel]);
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
    if constexpr (std::is_same_v<T, A>)
      if (plain && spilling == shifted_rows(lines) && chunk_ == W && shape_.planes == 1 && row_phases == 1)
        return sum(vector, 0, 0, row, lines, to, r.axis[1]);
    const int64_t distance = column_phases * W;
    for (int64_t ph = 0; ph < std::min(row_phases, lines); ++ph) {
      const int64_t height = row_phases == 1 ? lines : (lines + 1 - ph) / kMostPhases;
      for (int64_t pw = 0; pw < column_phases; ++pw)
        sum(vector, ph, pw, row, height, sums_ + ph * distance + pw * W, row_phases * distance);
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

  void sum(int64_t vector, int64_t row_phase, int64_t column_phase, int64_t row, int64_t rows, A* to,
           int64_t to_pitch) const {
    const int64_t pitch = region(row_phase, column_phase).axis[1].step * reader_.pitch();
    const ShiftedPass<A>* passes = passes_ + vector * passes_of_vector_ + pass_starts_[row_phase][column_phase];
    const ShiftedTile<A> tile{
        passes, pass_counts_[row_phase][column_phase], filter_, bias_, reader_.planes(), row, pitch, to, to_pitch};
    if (shape_.planes > 1) return filter_tile<A, true>(tile, shifted_rows(rows));
    filter_tile<A, false>(tile, shifted_rows(rows));
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
  Vector<A> bias_ = {};
  bool dense_weight_;
  // Elements that are written of a line at least; lines of a plane that may be written beyond their ends, for the next
  // one overwrites that.
  int64_t chunk_, spilling_ = 0;
  int64_t planes_ = 1;  // of the current unit
  int64_t passes_of_vector_ = 0, pass_starts_[kMostPhases][kMostPhases] = {},
          pass_counts_[kMostPhases][kMostPhases] = {};
};
