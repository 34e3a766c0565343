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
// The slices' partial results are then added in order; a single slice adds up in the result itself. Slices depend on
// the shape alone, so neither the threads nor the cut into units changes a bit. NCHW images are gathered as rows of
// pixels and transposed in registers; channels_last images have the panel's layout already. Columns are numbered (tap,
// channel), which gathers a tap's channels at one go, or (channel, tap) where that is the order of the result in
// memory.
#pragma once

template <class T, class A>
class WgradUnit {
 public:
  WgradUnit(const WgradJob& job, int64_t index, A* workspace) : job_(job) {
    const int64_t column_block = index % job.column_blocks();
    index /= job.column_blocks();
    const int64_t row_block = index % job.row_blocks();
    index /= job.row_blocks();
    group_ = index % job.problem->groups;
    slice_ = index / job.problem->groups;
    first_panel_ = row_block * job.panels;
    panels_ = std::min(job.panels, job.row_panels() - first_panel_);
    first_tile_ = column_block * job.tiles;
    tiles_ = std::min(job.tiles, job.column_tiles() - first_tile_);
    const ConvProblem& p = *job.problem;
    grad_ = {static_cast<const T*>(job.grad) + group_ * p.out_channels * job.grad_strides.channel, job.grad_strides,
             &job.grad_region, PaddingMode::kZeros, &p};
    source_ = {static_cast<const T*>(job.source) + group_ * p.in_channels * job.source_strides.channel,
               job.source_strides, &job.source_region, p.mode, &p};
    a_panels_ = workspace;
    b_tile_ = a_panels_ + kReductionBlock * job.panels * job.tile.rows;
    rows_ = b_tile_ + kReductionBlock * kColumns;
    edge_ = rows_ + kReductionBlock * kColumns;
  }

  void run() {
    const Panels panels(job_.problem->out_channels, job_.tile.rows);
    const int64_t first_row = panels.start(first_panel_), last_row = panels.start(first_panel_ + panels_);
    const int64_t begin = job_.slice_start(slice_), end = job_.slice_start(slice_ + 1);
    for (int64_t pixel = begin; pixel < end; pixel += kReductionBlock) {
      const int64_t length = std::min(kReductionBlock, end - pixel);
      run_count_ = make_runs(job_.source_region, pixel, length, runs_);
      for (int64_t p = first_panel_; p < first_panel_ + panels_; ++p)
        pack(grad_, panels.start(p), panels.rows(p), panels.rows(p), length,
             a_panels_ + (panels.start(p) - first_row) * length);
      for (int64_t tile = first_tile_; tile < first_tile_ + tiles_; ++tile) {
        const int64_t column = tile * kColumns;
        pack(source_, column, std::min(kColumns, job_.columns() - column), kColumns, length, b_tile_);
        for (int64_t p = first_panel_; p < first_panel_ + panels_; ++p) {
          const int64_t row = panels.start(p);
          const Target to = target(row, row - first_row, tile);
          multiply<A>(panels.rows(p), {length, a_panels_ + (row - first_row) * length, b_tile_, to.data, to.distance,
                                       pixel == begin ? TileStart::kZero : TileStart::kPartialSum, nullptr});
        }
      }
    }
    if (begin == end) clear(first_row, last_row);
    if (job_.in_place && first_tile_ + tiles_ == job_.column_tiles()) store_edge(first_row, last_row);
  }

 private:
  static constexpr int64_t kColumns = kTileColumns<A>;

  struct Target {
    A* data;
    int64_t distance;  // between rows
  };

  // Where the unit's tile adds up: in the slice's partial result or in the result; the last tile there may be narrower
  // than a vector and has a place of its own.
  Target target(int64_t row, int64_t row_in_unit, int64_t tile) const {
    if (job_.in_place) {
      if ((tile + 1) * kColumns > job_.columns()) return {edge_ + row_in_unit * kColumns, kColumns};
      return {result_row(row) + tile * kColumns, job_.result_strides.outer};
    }
    const int64_t slice = slice_ * job_.problem->groups + group_;
    return {static_cast<A*>(job_.partial) + slice * job_.partial_elements() + row * job_.partial_columns() +
                tile * kColumns,
            job_.partial_columns()};
  }
  A* result_row(int64_t row) const {
    return static_cast<A*>(job_.result) + (group_ * job_.problem->out_channels + row) * job_.result_strides.outer;
  }

  // An empty slice (an empty batch, say) contributes zeros.
  void clear(int64_t first_row, int64_t last_row) const {
    for (int64_t tile = first_tile_; tile < first_tile_ + tiles_; ++tile)
      for (int64_t row = first_row; row < last_row; ++row)
        std::fill_n(target(row, row - first_row, tile).data, kColumns, A{0});
  }

  void store_edge(int64_t first_row, int64_t last_row) const {
    const int64_t column = job_.columns() / kColumns * kColumns, count = job_.columns() - column;
    if (count == 0) return;
    for (int64_t row = first_row; row < last_row; ++row)
      copy_row(result_row(row) + column, edge_ + (row - first_row) * kColumns, count);
  }

  // Panel [pixel][width] of columns [first, first + count) of an image.
  void pack(const ImageReader<T>& image, int64_t first, int64_t count, int64_t width, int64_t length, A* to) {
    const bool is_grad = &image == &grad_;
    const int64_t channels = is_grad ? job_.problem->out_channels : job_.problem->in_channels;
    if (!(job_.channel_major && !is_grad) && image.strides.channel == 1 && channels >= kLanes<A> / 2 &&
        image.region->axis[2].step * image.strides.axis[2] != 1)
      return pack_channelwise(image, channels, first, count, width, length, to);
    const A* row[kColumns];
    for (int64_t j = 0; j < width; ++j) row[j] = j < count ? rows_ + j * kReductionBlock : kZeros<A>;
    const auto gather = [&](const Block& block, int64_t column, int64_t channel_step) {
      gather_pixelwise<T, A>(image, block, runs_, run_count_, length,
                             {rows_ + column * kReductionBlock, channel_step * kReductionBlock, kReductionBlock});
    };
    if (job_.channel_major && !is_grad) {
      for_each_channel_block(job_.source_region.taps(), first, count, gather);
    } else {
      for_each_tap(channels, first, count, [&](const Block& block, int64_t column) { gather(block, column, 1); });
    }
    transpose_rows(row, static_cast<int>(width), length, to);
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

  void pack_channelwise(const ImageReader<T>& image, int64_t channels, int64_t first, int64_t count, int64_t width,
                        int64_t length, A* to) {
    if (count < width)
      for (int64_t i = 0; i < length; ++i) std::fill_n(to + i * width + count, width - count, A{0});
    const A* row[kReductionBlock];
    for_each_tap(channels, first, count, [&](const Block& block, int64_t column) {
      channel_rows<T, A>(image, block, 0, runs_, run_count_, kZeros<A>, rows_, row);
      for (int64_t i = 0; i < length; ++i) copy_row(to + i * width + column, row[i], block.channels);
    });
  }

  const WgradJob& job_;
  int64_t group_, slice_, first_panel_, panels_, first_tile_, tiles_;
  ImageReader<T> grad_, source_;
  A* a_panels_;
  A* b_tile_;
  A* rows_;
  A* edge_;
  PixelRun runs_[kReductionBlock];
  int run_count_ = 0;
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

// Adds the slices' partial results in order, in the first one, and writes result row `index`, counted over (group, k).
template <class T, class A>
void finish_wgrad_row(const WgradJob& job, int64_t index) {
  const ConvProblem& p = *job.problem;
  const int64_t group = index / p.out_channels, row = index % p.out_channels;
  const int64_t slice_distance = p.groups * job.partial_elements();
  A* sum = static_cast<A*>(job.partial) + group * job.partial_elements() + row * job.partial_columns();
  for (int64_t s = 1; s < job.slices; ++s) {
    const A* partial = sum + s * slice_distance;
    for (int64_t i = 0; i < job.columns(); ++i) sum[i] += partial[i];
  }
  write_filter<T>(job, index, sum, p.in_channels, 1);
}
