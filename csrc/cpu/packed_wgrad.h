// wgrad on packed panels. Include only from engine.inl.h.
//
//   result[k, (t, c)] = sum over pixels of grad[pixel, k] * source[pixel, (t, c)]
//
// is a product whose reduction runs over the pixels of the whole batch. Pixels are cut into fixed slices, a slice into
// chunks of kReductionBlock; a unit (slice, group, block of k, block of (t, c)) walks its chunks in order:
//
//   chunk of grad     -> A panels [pixel][k]       packed once a chunk, L2
//   chunk of source   -> B tile   [pixel][(t, c)]  packed just before use, L1
//   multiply_tile adds the chunk's sum to the slice's partial result
//
// The slices' partial results are then added in order. A single slice adds up in the result itself, or, where that is
// narrower than a sum, in the unit's workspace: it never leaves the cache before it is narrowed. Slices depend on
// the shape alone, so neither the threads nor the cut into units changes a bit. NCHW images are gathered as rows of
// pixels (or read where such rows lie, `pixels_in_place`) and transposed in registers; channels_last images have the
// panel's layout already. Columns are numbered (tap, channel), which gathers a tap's channels at one go, or (channel,
// tap) where that is the order of the result in memory.
#pragma once

template <class T, class A, class Product>
class WgradUnit {
 public:
  WgradUnit(const WgradJob& job, int64_t index, A* workspace) : job_(job) {
    const int64_t column_block = index % job.column_blocks();
    index /= job.column_blocks();
    const int64_t row_block = index % job.row_blocks();
    index /= job.row_blocks();
    group_ = index % job.problem->groups;
    index /= job.problem->groups;
    product_ = index % job.products();
    slice_ = index / job.products();
    first_panel_ = row_block * job.panels;
    panels_ = std::min(job.panels, job.row_panels() - first_panel_);
    first_tile_ = column_block * job.tiles;
    tiles_ = std::min(job.tiles, job.column_tiles() - first_tile_);
    const ConvProblem& p = *job.problem;
    grad_ = {static_cast<const Element*>(job.grad) + group_ * p.out_channels * job.grad_strides.channel,
             job.grad_strides, &job.grad_of(product_), PaddingMode::kZeros, &p};
    source_ = {static_cast<const Element*>(job.source) + group_ * p.in_channels * job.source_strides.channel,
               job.source_strides, &job.source_of(product_), p.mode, &p};
    a_panels_ = workspace;
    b_tile_ = a_panels_ + kReductionBlock * job.panels * job.tile.rows;
    rows_ = b_tile_ + kReductionBlock * kColumns;
    edge_ = rows_ + kReductionBlock * kColumns + kPanelSpill;
    sums_ = edge_ + job.panels * job.tile.rows * kColumns;
  }

  void run() {
    const Panels panels(job_.problem->out_channels, job_.tile.rows);
    const int64_t first_row = panels.start(first_panel_), last_row = panels.start(first_panel_ + panels_);
    const int64_t begin = job_.slice_start(product_, slice_), end = job_.slice_start(product_, slice_ + 1);
    for (int64_t pixel = begin; pixel < end; pixel += kChunk) {
      const int64_t length = std::min(kChunk, end - pixel), depth = divide_up(length, Product::kTerms);
      run_count_ = make_runs(*source_.region, pixel, length, runs_);
      if (gathers_source()) source_rows_.list(source_, remaining_channels(), runs_, run_count_);
      for (int64_t p = first_panel_; p < first_panel_ + panels_; ++p)
        pack(grad_, panels.start(p), panels.rows(p), panels.rows(p), length,
             a_panels_ + (panels.start(p) - first_row) * depth);
      for (int64_t tile = first_tile_; tile < first_tile_ + tiles_; ++tile) {
        const int64_t column = tile * kColumns;
        pack(source_, column, std::min(kColumns, job_.columns() - column), kColumns, length, b_tile_);
        for (int64_t p = first_panel_; p < first_panel_ + panels_; ++p) {
          const int64_t row = panels.start(p);
          const Target to = target(row, row - first_row, tile);
          multiply<A, false, Product>(panels.rows(p),
                                      {depth, a_panels_ + (row - first_row) * depth, b_tile_, to.data, to.distance,
                                       pixel == begin ? TileStart::kZero : TileStart::kPartialSum, nullptr});
        }
      }
    }
    if (begin == end) clear(first_row, last_row);
    if (job_.finishes_units) store_sums(first_row, last_row);
    if (job_.in_place && first_tile_ + tiles_ == job_.column_tiles()) store_edge(first_row, last_row);
  }

 private:
  static constexpr int64_t kColumns = kTileColumns<A>;
  static constexpr int64_t kChunk = kReductionBlock * Product::kTerms;  // pixels
  static constexpr bool kPairs = Product::kTerms == 2;
  // Pixels are paired when their rows are transposed, and move as bits until then.
  using Element = std::conditional_t<kPairs, uint16_t, T>;
  using Row = std::conditional_t<kPairs, uint16_t, A>;

  struct Target {
    A* data;
    int64_t distance;  // between rows
  };

  // Where the unit's tile adds up: in the slice's partial result or in the result; the last tile there may be narrower
  // than a vector and has a place of its own.
  Target target(int64_t row, int64_t row_in_unit, int64_t tile) const {
    if (job_.finishes_units)
      return {sums_ + row_in_unit * unit_columns() + (tile - first_tile_) * kColumns, unit_columns()};
    if (job_.in_place) {
      if ((tile + 1) * kColumns > job_.columns()) return {edge_ + row_in_unit * kColumns, kColumns};
      return {result_row<A>(row) + tile * kColumns, job_.result_strides.outer};
    }
    const int64_t slice = slice_ * job_.problem->groups + group_;
    return {static_cast<A*>(job_.partial) + slice * job_.partial_elements() + row * job_.partial_columns() +
                product_ * job_.product_columns() + tile * kColumns,
            job_.partial_columns()};
  }
  int64_t unit_columns() const { return job_.tiles * kColumns; }
  template <class E>
  E* result_row(int64_t row) const {
    return static_cast<E*>(job_.result) + (group_ * job_.problem->out_channels + row) * job_.result_strides.outer;
  }

  // An empty slice (an empty batch, say) contributes zeros.
  void clear(int64_t first_row, int64_t last_row) const {
    for (int64_t tile = first_tile_; tile < first_tile_ + tiles_; ++tile)
      for (int64_t row = first_row; row < last_row; ++row)
        std::fill_n(target(row, row - first_row, tile).data, kColumns, A{0});
  }

  // The unit's part of the result, whose columns are in memory order.
  void store_sums(int64_t first_row, int64_t last_row) const {
    const int64_t column = first_tile_ * kColumns, count = std::min(tiles_ * kColumns, job_.columns() - column);
    for (int64_t row = first_row; row < last_row; ++row)
      store_line(result_row<T>(row) + column, 1, sums_ + (row - first_row) * unit_columns(), 1, count);
  }

  void store_edge(int64_t first_row, int64_t last_row) const {
    const int64_t column = job_.columns() / kColumns * kColumns, count = job_.columns() - column;
    if (count == 0) return;
    for (int64_t row = first_row; row < last_row; ++row)
      copy_row(result_row<A>(row) + column, edge_ + (row - first_row) * kColumns, count);
  }

  // Panel [pixel][width] of columns [first, first + count) of an image.
  void pack(const ImageReader<Element>& image, int64_t first, int64_t count, int64_t width, int64_t length, A* to) {
    const bool is_grad = &image == &grad_;
    const int64_t channels = is_grad ? job_.problem->out_channels : job_.problem->in_channels;
    if (!(job_.channel_major && !is_grad) && image.strides.channel == 1 && channels >= kLanes<A> / 2 &&
        image.region->axis[2].step * image.strides.axis[2] != 1)
      return pack_channelwise(image, channels, first, count, width, length, to);
    if constexpr (std::is_same_v<Element, A>) {
      if (const A* pixels = pixels_in_place(image)) {
        const A* row[kColumns];
        for (int64_t j = 0; j < width; ++j)
          row[j] = j < count ? pixels + (first + j) * image.strides.channel : kZeros<A>;
        return transpose_rows(row, static_cast<int>(width), length, to);
      }
    }
    Row* rows = reinterpret_cast<Row*>(rows_);
    const auto gather = [&](const Block& block, int64_t column, int64_t channel_step) {
      const RowTarget<Row> target{rows + column * kChunk, channel_step * kChunk, kChunk};
      Block rest = block;
      if constexpr (std::is_same_v<Element, Row>)
        if (!is_grad) rest = source_rows_.gather(image, block, target);
      if (rest.channels == 0) return;
      const int64_t done = block.channels - rest.channels;
      gather_pixelwise<Element, Row>(image, rest, runs_, run_count_, length,
                                     {target.to + done * target.channel_step, target.channel_step, target.tap_step});
    };
    if (job_.channel_major && !is_grad) {
      for_each_channel_block(job_.source_region.taps(), first, count, gather);
    } else {
      for_each_tap(channels, first, count, [&](const Block& block, int64_t column) { gather(block, column, 1); });
    }
    if (length % Product::kTerms != 0)  // the last pixel's partner
      for (int64_t j = 0; j < count; ++j) rows[j * kChunk + length] = Row{0};
    const A* row[kColumns];
    for (int64_t j = 0; j < width; ++j) row[j] = j < count ? reinterpret_cast<const A*>(rows + j * kChunk) : kZeros<A>;
    transpose_rows(row, static_cast<int>(width), divide_up(length, Product::kTerms), to);
  }

  // Whether packing the source gathers rows of pixels, as `pack` decides.
  bool gathers_source() const {
    if (!std::is_same_v<Element, Row>) return false;
    const bool channelwise = source_.strides.channel == 1 && job_.problem->in_channels >= kLanes<A> / 2 &&
                             source_.region->axis[2].step * source_.strides.axis[2] != 1;
    return job_.channel_major || !channelwise;
  }
  // From the group's first one to the image's last.
  int64_t remaining_channels() const { return (job_.problem->groups - group_) * job_.problem->in_channels; }

  // The chunk's pixels of the image's first channel, if they follow each other in memory under a single tap: no row has
  // to be gathered. The gradient's do even where the source's are a stride apart.
  const Element* pixels_in_place(const ImageReader<Element>& image) const {
    const PixelRun& first = runs_[0];
    if (first.n != runs_[run_count_ - 1].n) return nullptr;
    int64_t distance = 1, offset = first.n * image.strides.outer;
    for (int i = kSpatialAxes; i-- > 0;) {
      const GatherAxis& g = image.region->axis[i];
      if (g.taps != 1 || g.off0 != 0 || g.extent == 0) return nullptr;
      if (g.count > 1 && (g.step != 1 || g.count != g.extent || image.strides.axis[i] != distance)) return nullptr;
      distance *= g.count;
      offset += first.q[i] * image.strides.axis[i];
    }
    return image.data + offset;
  }

  // Splits columns numbered (tap, channel) at taps: visit(block of one tap, its first column relative to `first`).
  template <class Visit>
  static void for_each_tap(int64_t channels, int64_t first, int64_t count, Visit visit) {
    for (int64_t column = 0; column < count;) {
      const int64_t tap = (first + column) / channels, channel = (first + column) % channels;
      const int64_t n = std::min(count - column, channels - channel);
      visit(Block{tap, 1, channel, n}, column);
      column += n;
    }
  }

  // Splits columns numbered (channel, tap) into whole channels and the parts of one at either end:
  // visit(block, its first column relative to `first`, distance between its channels).
  template <class Visit>
  static void for_each_channel_block(int64_t taps, int64_t first, int64_t count, Visit visit) {
    for (int64_t column = 0; column < count;) {
      const int64_t channel = (first + column) / taps, tap = (first + column) % taps, rest = count - column;
      const Block block = tap == 0 && rest >= taps ? Block{0, taps, channel, rest / taps}
                                                   : Block{tap, std::min(taps - tap, rest), channel, 1};
      visit(block, column, taps);
      column += block.length();
    }
  }

  void pack_channelwise(const ImageReader<Element>& image, int64_t channels, int64_t first, int64_t count,
                        int64_t width, int64_t length, A* to) {
    if (count < width)
      for (int64_t i = 0; i < divide_up(length, Product::kTerms); ++i)
        std::fill_n(to + i * width + count, width - count, A{0});
    const Row* row[kChunk];
    for_each_tap(channels, first, count, [&](const Block& block, int64_t column) {
      channel_rows<Element, Row>(image, block, 0, runs_, run_count_, kZeros<Row>, reinterpret_cast<Row*>(rows_), row);
      if constexpr (kPairs) {
        interleave_pixels(row, length, block.channels, width, to + column);
      } else {
        for (int64_t i = 0; i < length; ++i) copy_row(to + i * width + column, row[i], block.channels);
      }
    });
  }

  const WgradJob& job_;
  int64_t group_, product_, slice_, first_panel_, panels_, first_tile_, tiles_;
  ImageReader<Element> grad_, source_;
  A* a_panels_;
  A* b_tile_;
  A* rows_;
  A* edge_;
  A* sums_;
  PixelRun runs_[kChunk];
  int run_count_ = 0;
  TapPieces<Element> source_rows_;
};

// Writes filter `index` of the result from sums that stand at tap * tap_distance + channel * channel_distance.
template <class T, class A>
void write_filter(const WgradJob& job, int64_t index, const A* sum, int64_t tap_distance, int64_t channel_distance) {
  const Strides& s = job.result_strides;
  T* result = static_cast<T*>(job.result) + index * s.outer;
  for (int64_t t = 0; t < job.source_region.taps(); ++t) {
    const Tap tap = tap_at(job.source_region, t);
    T* to = result + tap.t[0] * s.axis[0] + tap.t[1] * s.axis[1] + tap.t[2] * s.axis[2];
    store_line(to, s.channel, sum + t * tap_distance, channel_distance, job.problem->in_channels);
  }
}

// Sums that are turned together.
inline constexpr int kTapsAtOnce = 32;
template <class A>
inline constexpr int kChannelsAtOnce = 8 * kLanes<A>;

// Vector I of the result of interleave_taps: the lanes of tap after tap join those of the taps before.
template <int kTaps, std::size_t I, class A>
inline Vector<A> interleaved(const Vector<A> (&row)[kTaps]) {
  constexpr std::size_t W = kLanes<A>;
  constexpr auto channel = [](std::size_t l) { return (I * W + l) / kTaps; };
  constexpr auto tap = [](std::size_t l) { return (I * W + l) % kTaps; };
  constexpr auto first = [=](std::size_t l) { return tap(l) == 1 ? W + channel(l) : channel(l); };
  constexpr auto third = [=](std::size_t l) { return tap(l) == 2 ? W + channel(l) : l; };
  constexpr auto fourth = [=](std::size_t l) { return tap(l) == 3 ? W + channel(l) : l; };
  Vector<A> v = shuffle<A>(row[0], row[1], first, LaneSequence<A>{});
  if constexpr (kTaps > 2) v = shuffle<A>(v, row[2], third, LaneSequence<A>{});
  if constexpr (kTaps > 3) v = shuffle<A>(v, row[3], fourth, LaneSequence<A>{});
  return v;
}

// to[c][tap] = rows[tap][c] of a few taps, for which a square would be empty for the most part: each vector of the
// result takes a shuffle for every tap but one.
template <int kTaps, class A>
inline void interleave_taps(const A* const* rows, int64_t n, A* to) {
  constexpr int W = kLanes<A>;
  for (int64_t c = 0; c < n; c += W) {
    Vector<A> row[kTaps];
    for (int t = 0; t < kTaps; ++t) {
      A part[W] = {};
      if (c + W > n) copy_fewer<W>(part, rows[t] + c, n - c);
      row[t] = load(c + W > n ? part : rows[t] + c);
    }
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (store(to + c * kTaps + I * W, interleaved<kTaps, I, A>(row)), ...);
    }(std::make_index_sequence<kTaps>{});
  }
}

// Writes channels [c, c + n) under all taps of one filter, whose sums under a tap stand at sums_of(tap): some taps at
// a time, turned where they are the inner index of the result.
template <class T, class A, class SumsOf>
inline void store_taps(const WgradJob& job, T* result, int64_t c, int64_t n, SumsOf sums_of) {
  constexpr int kTaps = kTapsAtOnce, kChannels = kChannelsAtOnce<A>;
  const int64_t taps = job.source_region.taps();
  const bool turns = taps > 1 && job.result_strides.channel == taps && job.taps_are_dense();
  A turned[kTaps * kChannels];
  for (int64_t first = 0; first < taps; first += kTaps) {
    const int64_t count = std::min<int64_t>(kTaps, taps - first);
    const A* rows[kTaps];
    for (int64_t t = 0; t < count; ++t) {
      rows[t] = sums_of(first + t);
      if (!turns)
        store_line(result + job.result_offset(first + t) + c * job.result_strides.channel, job.result_strides.channel,
                   rows[t], 1, n);
    }
    if (!turns) continue;
    switch (count) {
      case 2: interleave_taps<2>(rows, n, turned); break;
      case 3: interleave_taps<3>(rows, n, turned); break;
      case 4: interleave_taps<4>(rows, n, turned); break;
      default: transpose_rows(rows, static_cast<int>(count), n, turned);
    }
    if (count == taps) {
      store_line(result + c * taps, 1, turned, 1, n * taps);
    } else {
      for (int64_t i = 0; i < n; ++i) store_line(result + (c + i) * taps + first, 1, turned + i * count, 1, count);
    }
  }
}

// Adds the slices' partial results in order and writes result row `index`, counted over (group, k).
template <class T, class A>
void finish_wgrad_row(const WgradJob& job, int64_t index) {
  constexpr int64_t kChannels = kChannelsAtOnce<A>;
  const ConvProblem& p = *job.problem;
  const int64_t group = index / p.out_channels, row = index % p.out_channels;
  const int64_t slice_distance = p.groups * job.partial_elements();
  const A* partial = static_cast<const A*>(job.partial) + group * job.partial_elements() + row * job.partial_columns();
  T* result = static_cast<T*>(job.result) + index * job.result_strides.outer;
  A sums[kTapsAtOnce * kChannels];
  for (int64_t c = 0; c < p.in_channels; c += kChannels) {
    const int64_t n = std::min(kChannels, p.in_channels - c);
    store_taps<T, A>(job, result, c, n, [&](int64_t tap) {
      const A* from = partial + tap * job.tap_distance() + c;
      if (job.slices == 1) return from;
      A* sum = sums + tap % kTapsAtOnce * kChannels;
      copy_row(sum, from, n);
      for (int64_t s = 1; s < job.slices; ++s)
        for (int64_t i = 0; i < n; ++i) sum[i] += from[s * slice_distance + i];
      return static_cast<const A*>(sum);
    });
  }
}
