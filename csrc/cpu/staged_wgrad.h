// wgrad on NCHW images of few pixels: packed panels of the gradient, and a stage of the source that all taps share.
// Include only from engine.inl.h.
//
//   result[k][c, tap] = sum over pixels of grad[pixel][k] * stage[place(pixel) + offset(tap)][c]
//
// Packed panels (packed_wgrad.h) gather and turn a row of pixels for every tap: where image rows are short, that takes
// as long as the products. Here a source pixel's channels are turned once. A tap is a constant distance in the stage
// (lane_band.h), so that its rows of the micro-kernel are read where they lie, through the places of the pixels:
//
//   image, NCHW:  c0 | p0 p1 p2 ..     stage:  p0 | c0 .. c31     pixel 0, tap 0  ->  p0    pixel 0, tap 1  ->  p1
//                 c1 | p0 p1 p2 ..             p1 | c0 .. c31     pixel 1, tap 0  ->  p1    pixel 1, tap 1  ->  p2
//
//   for each unit (group, block of filters, block of channels):                        in parallel, disjoint results
//     for each chunk (a band of an image, or some small images):                       stage, L2
//       for each block of its pixels:                                                  panels of the gradient, L2
//         for each tile of channels, tap, panel: sums[k][tile][tap][32] += product     rows of the stage, L1
//     turn the sums, [tap][c] of a filter, to the result's [c][tap]
//
// Bands, chunks and blocks follow from the shape of the problem alone, so that neither the threads nor the cut into
// units changes a bit.
#pragma once

template <class T, class A>
class StagedWgrad {
  static constexpr int W = kLanes<A>;
  static constexpr int64_t kColumns = kTileColumns<A>;

 public:
  StagedWgrad(const WgradJob& job, const StagedWgradShape& shape, const StagedWgradBands& bands, std::byte* workspace)
      : job_(job),
        p_(*job.problem),
        shape_(shape),
        bands_(bands),
        band_(bands.band),
        taps_(job.source_region.taps()),
        sizes_(bands, shape, taps_, job.tile),
        entries_(reinterpret_cast<int64_t*>(workspace)),
        tap_offset_(entries_ + sizes_.entries),
        place_(tap_offset_ + sizes_.taps),
        grad_(reinterpret_cast<A*>(workspace + sizes_.number_bytes())),
        stage_(grad_ + sizes_.grad),
        sums_(stage_ + sizes_.stage),
        stager_(band_, p_.mode, entries_, stage_, kColumns) {
    for (int64_t t = 0; t < taps_; ++t) {
      const Tap tap = tap_at(job.source_region, t);
      tap_offset_[t] = band_.offset(job.source_region.axis, 0, tap.t[0], tap.t[1], tap.t[2]) * kColumns;
    }
  }

  // Unit `index`, counted over (group, block of filters, block of channels).
  void run(int64_t index) {
    const int64_t row_blocks = job_.row_blocks(), column_blocks = divide_up(p_.in_channels, shape_.tiles * kColumns);
    first_channel_ = index % column_blocks * shape_.tiles * kColumns;
    index /= column_blocks;
    const int64_t row_block = index % row_blocks;
    group_ = index / row_blocks;
    channels_ = std::min(shape_.tiles * kColumns, p_.in_channels - first_channel_);
    first_panel_ = row_block * shape_.panels;
    panel_count_ = std::min(shape_.panels, job_.row_panels() - first_panel_);
    const Panels panels(p_.out_channels, job_.tile.rows);
    first_row_ = panels.start(first_panel_);
    const int64_t rows = panels.start(first_panel_ + panel_count_) - first_row_;
    started_ = false;
    int64_t q[kSpatialAxes];
    const LaneAxis* axis = band_.axis;
    for (int64_t n = 0; n < p_.batch; n += bands_.images)
      for (q[0] = 0; q[0] < axis[0].count; q[0] += axis[0].positions)
        for (q[1] = 0; q[1] < axis[1].count; q[1] += axis[1].positions)
          for (q[2] = 0; q[2] < axis[2].count; q[2] += axis[2].positions) run_chunk(n, q, panels);
    if (!started_) std::fill_n(sums_, sizes_.sums, A{0});
    for (int64_t k = 0; k < rows; ++k) write_filter_of(k);
  }

 private:
  // Neighbouring pixels whose gradient is contiguous.
  struct GradRun {
    int64_t pixel, length, offset;
  };

  int64_t image_stage() const { return band_.vectors() * kColumns; }

  void run_chunk(int64_t n, const int64_t (&q)[kSpatialAxes], const Panels& panels) {
    const int64_t images = std::min(bands_.images, p_.batch - n);
    const bool clears = !started_ || band_.bands() > 1;
    const int64_t tiles = divide_up(channels_, kColumns);
    for (int64_t t = 0; t < tiles; ++t)
      for (int64_t i = 0; i < images; ++i)
        for (int64_t c = 0; c < std::min(kColumns, channels_ - t * kColumns); c += W)
          stage_channels(n + i, t * kColumns + c, q, stage_ + (t * bands_.images + i) * image_stage() + c, clears);
    list_places(q, images);
    for (int64_t begin = 0, step = balanced(pixels_, kReductionBlock); begin < pixels_; begin += step) {
      const int64_t length = std::min(step, pixels_ - begin);
      list_runs(n, q, begin, length);
      for (int64_t p = 0; p < panel_count_; ++p) {
        const int64_t row = panels.start(first_panel_ + p);
        pack_grad(row, panels.rows(first_panel_ + p), grad_ + (row - first_row_) * length);
      }
      for (int64_t t = 0; t < tiles; ++t) multiply_tile_of(t, begin, length, panels);
      started_ = true;
    }
  }

  // A tile of channels under all taps, by the block of the chunk's pixels that is packed.
  void multiply_tile_of(int64_t tile, int64_t begin, int64_t length, const Panels& panels) const {
    const A* stage = stage_ + tile * bands_.images * image_stage();
    for (int64_t tap = 0; tap < taps_; ++tap)
      for (int64_t p = first_panel_; p < first_panel_ + panel_count_; ++p) {
        const int64_t row = panels.start(p) - first_row_;
        multiply_staged<A, MultiplyAdd<A>>(
            panels.rows(p), std::min(kColumns, channels_ - tile * kColumns),
            {length, grad_ + row * length, stage + tap_offset_[tap],
             sums_ + row * sizes_.row + (tile * taps_ + tap) * kColumns, sizes_.row,
             started_ ? TileStart::kPartialSum : TileStart::kZero, nullptr, place_ + begin});
      }
  }

  // A vector of channels of an image; lanes beyond the last channel repeat it.
  void stage_channels(int64_t n, int64_t channel, const int64_t (&q)[kSpatialAxes], A* to, bool clears) {
    const T* source = static_cast<const T*>(job_.source);
    const int64_t first = group_ * p_.in_channels + first_channel_ + channel, all = p_.groups * p_.in_channels;
    Planes<const T, A> planes =
        planes_of<const T, A>(source + n * job_.source_strides.outer, job_.source_strides, first,
                              first + std::min<int64_t>(W, channels_ - channel), all, [](int64_t c) { return c; });
    set_room(planes, source, job_.source_strides, p_.batch, all,
             {p_.axis[0].input, p_.axis[1].input, p_.axis[2].input});
    stager_.fill(to, clears, planes, 0, q);
  }

  // Where each of a chunk's pixels stands in the stage under a tap of offset zero.
  void list_places(const int64_t (&q)[kSpatialAxes], int64_t images) {
    for (int i = 0; i < kSpatialAxes; ++i) size_[i] = std::min(band_.axis[i].positions, band_.axis[i].count - q[i]);
    pixels_ = 0;
    for (int64_t i = 0; i < images; ++i)
      for (int64_t d = 0; d < size_[0]; ++d)
        for (int64_t h = 0; h < size_[1]; ++h) {
          const int64_t first = i * image_stage() + band_.place(d, h, 0) * kColumns;
          for (int64_t w = 0; w < size_[2]; ++w) place_[pixels_++] = first + w * kColumns;
        }
  }

  // The runs of a chunk's pixels [begin, begin + length) in the gradient of image n and those after it.
  void list_runs(int64_t n, const int64_t (&q)[kSpatialAxes], int64_t begin, int64_t length) {
    const Strides& s = job_.grad_strides;
    run_count_ = 0;
    for (int64_t pixel = begin, end = begin + length; pixel < end;) {
      int64_t rest = pixel;
      const int64_t w = rest % size_[2];
      rest /= size_[2];
      const int64_t h = rest % size_[1];
      rest /= size_[1];
      const int64_t d = rest % size_[0], image = n + rest / size_[0];
      const int64_t offset = image * s.outer + (q[0] + d) * s.axis[0] + (q[1] + h) * s.axis[1] + (q[2] + w) * s.axis[2];
      const int64_t count = std::min(size_[2] - w, end - pixel);
      GradRun* last = run_count_ > 0 ? &runs_[run_count_ - 1] : nullptr;
      if (last && offset == last->offset + last->length * s.axis[2]) {
        last->length += count;
      } else {
        runs_[run_count_++] = {pixel - begin, count, offset};
      }
      pixel += count;
    }
  }

  // Panel [pixel][rows] of the gradient of filters [row, row + rows).
  void pack_grad(int64_t row, int64_t rows, A* to) const {
    const Strides& s = job_.grad_strides;
    const T* first = static_cast<const T*>(job_.grad) + (group_ * p_.out_channels + row) * s.channel;
    for (int r = 0; r < run_count_; ++r) {
      const GradRun& run = runs_[r];
      A* at = to + run.pixel * rows;
      if (s.axis[2] == 1) {
        const T* from[kTileRows];
        for (int64_t k = 0; k < rows; ++k) from[k] = first + k * s.channel + run.offset;
        transpose_rows(from, static_cast<int>(rows), run.length, at);
      } else {
        for (int64_t i = 0; i < run.length; ++i)
          for (int64_t k = 0; k < rows; ++k)
            at[i * rows + k] = widen(first[k * s.channel + run.offset + i * s.axis[2]]);
      }
    }
  }

  // The unit's channels of filter `k` of its block.
  void write_filter_of(int64_t k) const {
    T* result = static_cast<T*>(job_.result) + (group_ * p_.out_channels + first_row_ + k) * job_.result_strides.outer;
    for (int64_t c = 0; c < channels_; c += kColumns)
      store_taps<T, A>(job_, result, first_channel_ + c, std::min(kColumns, channels_ - c),
                       [&](int64_t tap) { return sums_ + k * sizes_.row + (c / kColumns * taps_ + tap) * kColumns; });
  }

  const WgradJob& job_;
  const ConvProblem& p_;
  const StagedWgradShape& shape_;
  const StagedWgradBands& bands_;
  const LaneBand& band_;
  const int64_t taps_;
  const StagedWgradWorkspace sizes_;
  int64_t* entries_;
  int64_t* tap_offset_;
  int64_t* place_;
  A* grad_;
  A* stage_;
  A* sums_;
  LaneStager<T, A> stager_;
  int64_t group_ = 0, first_channel_ = 0, channels_ = 0, first_panel_ = 0, panel_count_ = 0, first_row_ = 0;
  int64_t size_[kSpatialAxes] = {1, 1, 1}, pixels_ = 0;
  bool started_ = false;
  GradRun runs_[kReductionBlock];
  int run_count_ = 0;
};
