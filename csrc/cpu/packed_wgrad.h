// wgrad on packed panels. Include only from engine.inl.h.
//
//   result[k, (t, c)] = sum over pixels of grad[pixel, k] * source[pixel, (t, c)]
//
// is a product whose reduction runs over the pixels of the whole batch. Pixels are cut into fixed slices, a slice into
// chunks of kReductionBlock, or of whole small images; a unit (slice, group, block of k, block of (t, c)) walks its
// chunks in order:
//
//   chunk of grad     -> A panels [pixel][k]       packed once a chunk, L2
//   chunk of source   -> B tile   [pixel][(t, c)]  packed just before use, L1
//   multiply_tile (drawn in microkernel.h) adds the chunk's sum to the slice's partial result
//
// The slices' partial results are then added in order. A single slice adds up in the result itself, or, where that is
// narrower than a sum, in the unit's workspace: it never leaves the cache before it is narrowed. Slices and chunks
// depend on the shape alone, batch included, so neither the threads nor the cut into units changes a bit. NCHW images
// are turned in registers, from where rows of pixels lie (`TurnedRuns`) or from where they were gathered; channels_last
// images have the panel's layout already. Columns are numbered (tap, channel), which gathers a tap's channels at one
// go, or (channel, tap) where that is the order of the result in memory.
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
    const int64_t step = chunk_pixels();
    for (int64_t pixel = begin; pixel < end; pixel += step) {
      const int64_t length = std::min(step, end - pixel), depth = divide_up(length, Product::kTerms);
      run_count_ = make_runs(*source_.region, pixel, length, runs_);
      list_runs(grad_, length, grad_runs_);
      list_runs(source_, length, source_runs_);
      if (source_runs_.step == 0 && gathers_source())
        source_rows_.list(source_, remaining_channels(), runs_, run_count_);
      const int64_t last_panel = first_panel_ + panels_, last_tile = first_tile_ + tiles_;
      for (int64_t p = first_panel_; p < last_panel; ++p) {
        if (p + 1 < last_panel) prefetch_rows(grad_, grad_runs_, panels.start(p + 1), panels.rows(p + 1));
        pack(grad_, panels.start(p), panels.rows(p), panels.rows(p), length,
             a_panels_ + (panels.start(p) - first_row) * depth);
      }
      for (int64_t tile = first_tile_; tile < last_tile; ++tile) {
        const int64_t column = tile * kColumns;
        const auto columns_from = [&](int64_t first) { return std::min(kColumns, job_.columns() - first); };
        const int64_t count = columns_from(column), width = count <= kLanes<A> ? kLanes<A> : kColumns;
        pack(source_, column, count, width, length, b_tile_);
        for (int64_t p = first_panel_; p < last_panel; ++p) {
          const int64_t row = panels.start(p);
          if (p + 1 < last_panel) {
            const int64_t next = row + panels.rows(p);
            prefetch(target(next, next - first_row, tile), panels.rows(p + 1));
          }
          if (tile + 1 < last_tile) {
            const int64_t next = column + kColumns, of_next = columns_from(next), i = p - first_panel_;
            const int64_t from = i * of_next / panels_;
            prefetch_rows(source_, source_runs_, next + from, (i + 1) * of_next / panels_ - from);
          }
          const Target to = target(row, row - first_row, tile);
          multiply_columns<A, Product>(panels.rows(p), width,
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
  static void prefetch(const Target& to, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < kColumns; j += kLanes<A>) __builtin_prefetch(to.data + i * to.distance + j, 1);
  }

  // Where a chunk's pixels lie under each tap of an image, if nothing has to be gathered: runs inside of the image, of
  // pixels side by side or, of step 2, every second one.
  static constexpr int64_t kMostTurnedTaps = 16, kMostTurnedRuns = kChunk / kLanes<A>;
  struct TurnedRuns {
    int64_t step = 0;  // 0: they have to be gathered
    int count = 0;
    Piece run[kMostTurnedTaps][kMostTurnedRuns];
  };

  // Pixels that are multiplied at a time: whole small images.
  int64_t chunk_pixels() const {
    const int64_t of_image = source_.region->positions();
    if (kPairs || job_.slices > 1 || of_image > kChunk || of_image == 0) return kChunk;
    return of_image * balanced(job_.problem->batch, kChunk / of_image);
  }

  void list_runs(const ImageReader<Element>& image, int64_t length, TurnedRuns& to) const {
    to.step = 0;
    const int64_t step = image.region->axis[2].step * image.strides.axis[2], taps = image.region->taps();
    if (!std::is_same_v<Element, A> || image.region->folded() || (step != 1 && step != 2) || taps > kMostTurnedTaps)
      return;
    Piece pieces[kMostPieces];
    for (int64_t t = 0; t < taps; ++t) {
      const int made = make_pieces(image, tap_at(*image.region, t), runs_, run_count_, pieces);
      if (made != run_count_) return;
      to.count = 0;
      for (int i = 0; i < made; ++i) {
        if (pieces[i].offset < 0) return;
        Piece* last = to.count > 0 ? &to.run[t][to.count - 1] : nullptr;
        if (taps == 1 && last && pieces[i].offset == last->offset + last->len * step) {
          last->len += pieces[i].len;
          continue;
        }
        if ((to.count + 1) * kLanes<A> > length) return;  // short runs are gathered faster
        to.run[t][to.count++] = pieces[i];
      }
    }
    to.step = step;
  }

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
      const TurnedRuns& runs = is_grad ? grad_runs_ : source_runs_;
      if (runs.step == 1) return turn<1>(image, runs, first, count, width, to);
      if (runs.step == 2) return turn<2>(image, runs, first, count, width, to);
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

  struct Column {
    int64_t tap, channel;
  };
  Column column_at(const ImageReader<Element>& image, int64_t index) const {
    const bool is_grad = &image == &grad_;
    const int64_t taps = image.region->taps();
    if (job_.channel_major && !is_grad) return {index % taps, index / taps};
    const int64_t channels = is_grad ? job_.problem->out_channels : job_.problem->in_channels;
    return {index / channels, index % channels};
  }

  // Asks for the rows of columns that are turned next, into L2: they are short pieces of lines that lie far apart.
  void prefetch_rows(const ImageReader<Element>& image, const TurnedRuns& runs, int64_t first, int64_t count) const {
    if (runs.step == 0) return;
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(Element));
    for (int64_t j = first; j < first + count; ++j) {
      const Column column = column_at(image, j);
      if (job_.channel_major && column.tap > 0) continue;  // of the same lines
      for (int i = 0; i < runs.count; ++i) {
        const Piece& run = runs.run[column.tap][i];
        const Element* from = image.data + column.channel * image.strides.channel + run.offset;
        for (int64_t k = 0; k < run.len * runs.step; k += kLine) __builtin_prefetch(from + k, 0, 2);
      }
    }
  }

  // The panel from the image itself, run by run. Columns beyond `count` repeat the last one.
  template <int kStep>
  void turn(const ImageReader<Element>& image, const TurnedRuns& runs, int64_t first, int64_t count, int64_t width,
            A* to) const {
    for (int i = 0; i < runs.count; ++i) {
      const A* row[kColumns];
      for (int64_t j = 0; j < width; ++j) {
        const Column column = column_at(image, first + std::min(j, count - 1));
        row[j] = image.data + column.channel * image.strides.channel + runs.run[column.tap][i].offset;
      }
      const Piece& run = runs.run[0][i];
      transpose_rows<kStep>(row, static_cast<int>(width), run.len, to + run.column * width);
    }
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
  TurnedRuns grad_runs_, source_runs_;
};
