// fprop and dgrad from channels_last images to channels_last results: pixels are the rows of the product, and are not
// packed. Include only from engine.inl.h.
//
//   C[pixel, channel] (+)= sum over terms (tap, source channel) of rows[pixel][term] * weight[term][channel]
//
//                term:  tap 0: c0 c1 ..  tap 1: c0 c1 ..
//   rows[pixel]         +----------------+----------------+--
//                       | x[q + 0][all c]| x[q + 1][all c]|
//                       +----------------+----------------+--
//
// Where all channels of a pixel are summed, neighbouring taps are neighbours in memory: a kernel row is one run of kw *
// C elements, which makes a first layer's three channels worth a vector. Padding is zeros in the row.
//
// ConvUnit (packed_conv.h) would transpose these rows to panels [term][pixel], for 14 shuffles a vector. The
// micro-kernel of row_product.h broadcasts from the rows themselves, so that they are copied, or for a single tap not
// even that: a tile of pixels that stand at one distance in the image is read where it lies. Terms, blocks and the
// order of every sum are ConvUnit's, so the bits are too.
#pragma once

// The region that unit `index` of a job belongs to.
inline const RegionJob* region_of_unit(const ConvJob& job, int64_t index) {
  const RegionJob* r = job.wave.data();
  while (r + 1 < job.wave.data() + job.wave.size() && (r + 1)->first_unit <= index) ++r;
  return r;
}

template <class T, class A>
class PixelRowUnit {
 public:
  // Whether the unit's pixels are rows of contiguous terms and results.
  static bool takes(const ConvJob& job, int64_t index) {
    const RegionJob* r = region_of_unit(job, index);
    const bool contiguous_source = r->reduction.channels_inner ? job.source_strides.channel == 1 : job.depth == 1;
    return job.shape.pixels_are_rows && job.result_strides.channel == 1 && contiguous_source && !r->region->folded();
  }

  PixelRowUnit(const ConvJob& job, int64_t index, A* workspace)
      : job_(job), epilogue_(job), weight_{job}, region_(region_of_unit(job, index)) {
    int64_t local = index - region_->first_unit;
    const int64_t channel_block = local % job.channel_blocks();
    local /= job.channel_blocks();
    first_pixel_ = local % region_->pixel_blocks * job.shape.pixels;
    group_ = local / region_->pixel_blocks;
    pixels_ = std::min(job.shape.pixels, region_->pixels - first_pixel_);
    first_panel_ = channel_block * job.shape.panels;
    panels_ = std::min(job.shape.panels, job.weight_panels() - first_panel_);
    image_ = {static_cast<const T*>(job.source) + group_ * job.depth * job.source_strides.channel, job.source_strides,
              region_->region, job.source_mode, job.problem};
    image_end_ = image_.data + (job.problem->batch - 1) * image_.strides.outer + job.depth;
    for (int i = 0; i < kSpatialAxes; ++i) image_end_ += (region_->region->axis[i].extent - 1) * image_.strides.axis[i];
    const ConvWorkspace sizes(job.shape, job.tile);
    rows_ = workspace;
    partial_ = rows_ + sizes.image;
    own_weight_ = partial_ + sizes.partial + sizes.widened;
  }

  void run() {
    list_tiles();
    const int64_t blocks = region_->reduction.blocks();
    for (int64_t b = 0; b < blocks; ++b) {
      block_ = region_->reduction.block(b);
      first_block_ = b == 0;
      last_block_ = b == blocks - 1;
      for (int64_t i = 0; i < tile_count_; ++i)
        if (!read_in_place(tiles_[i])) stage(tiles_[i]);
      for (int64_t t = first_panel_; t < first_panel_ + panels_; ++t) multiply_panel(t);
    }
  }

 private:
  static constexpr int64_t kColumns = kTileColumns<A>;
  static constexpr int64_t kMostTiles = (kMostUnitPixels + kTileRows - 1) / kTileRows;

  struct PixelTile {
    int64_t start, rows;   // pixels of the unit
    const PixelRun* runs;  // their columns count from the tile's first pixel
    int run_count;
    T* to;           // the first result channel of the group
    int64_t to_row;  // distance between the pixels' results, or 0 where it varies
    const A* a;      // the block's terms of the first pixel
    int64_t a_row;
  };

  void list_tiles() {
    const Panels parts(pixels_, job_.tile.rows);
    tile_count_ = parts.count;
    PixelRun* runs = runs_;
    for (int64_t i = 0; i < parts.count; ++i) {
      PixelTile& tile = tiles_[i];
      tile.start = parts.start(i), tile.rows = parts.rows(i), tile.runs = runs;
      tile.run_count = make_runs(*region_->region, first_pixel_ + tile.start, tile.rows, runs);
      runs += tile.run_count;
      tile.to = result_of(tile.runs[0]);
      tile.to_row = tile.runs[0].len > 1 || tile.rows == 1 ? result_step() : result_of(tile.runs[1]) - tile.to;
      for (int r = 0; r < tile.run_count; ++r)
        if (result_of(tile.runs[r]) != tile.to + tile.runs[r].column * tile.to_row ||
            (tile.runs[r].len > 1 && tile.to_row != result_step()))
          tile.to_row = 0;
    }
  }

  // Where a run's first result pixel stands.
  T* result_of(const PixelRun& run) const {
    const GatherAxis* g = region_->region->axis;
    int64_t offset = run.n * job_.result_strides.outer + group_ * job_.rows;
    for (int i = 0; i < kSpatialAxes; ++i)
      offset += (g[i].out0 + run.q[i] * g[i].out_step) * job_.result_strides.axis[i];
    return static_cast<T*>(job_.result) + offset;
  }
  int64_t result_step() const { return region_->region->axis[2].out_step * job_.result_strides.axis[2]; }

  // Points the tile at the image, if one tap of all its pixels lies there at one distance.
  bool read_in_place(PixelTile& tile) const {
    if constexpr (!std::is_same_v<T, A>) {
      return false;
    } else {
      if (block_.taps != 1) return false;
      Piece pieces[3 * kTileRows];
      const int made = make_pieces(image_, tap_at(*region_->region, block_.tap), tile.runs, tile.run_count, pieces);
      const int64_t step = region_->region->axis[2].step * image_.strides.axis[2];
      const int64_t distance = pieces[0].len > 1 || made == 1 ? step : pieces[1].offset - pieces[0].offset;
      for (int i = 0; i < made; ++i)
        if (pieces[i].offset < 0 || pieces[i].offset != pieces[0].offset + pieces[i].column * distance ||
            (pieces[i].len > 1 && distance != step))
          return false;
      if (distance * static_cast<int64_t>(sizeof(A)) % kSetDistance == 0) return false;
      tile.a = image_.data + pieces[0].offset + block_.channel;
      tile.a_row = distance;
      return true;
    }
  }

  // Copies the tile's terms of the block to rows of its own.
  void stage(PixelTile& tile) {
    tile.a_row = round_up(block_.length(), kLanes<A>);
    has_slack_ = tile.a_row + kLanes<A> <= kReductionBlock;
    if (has_slack_) tile.a_row += kLanes<A>;
    A* rows = rows_ + tile.start * tile.a_row;
    tile.a = rows;
    const Region& region = *region_->region;
    const GatherAxis* g = region.axis;
    const int64_t last = block_.tap + block_.taps;
    for (int64_t t = block_.tap; t < last;) {
      const Tap tap = tap_at(region, t);
      const int64_t taps = std::min(g[2].taps - tap.t[2], last - t);  // of one kernel row
      for (int i = 0; i < tile.run_count; ++i) {
        const PixelRun& run = tile.runs[i];
        const int64_t d = padded_source(image_.mode, run.q[0] * g[0].step + tap_offset(g[0], tap.t[0]), g[0].extent);
        const int64_t h = padded_source(image_.mode, run.q[1] * g[1].step + tap_offset(g[1], tap.t[1]), g[1].extent);
        A* to = rows + run.column * tile.a_row + (t - block_.tap) * block_.channels;
        if (d < 0 || h < 0) {
          for (int64_t j = 0; j < run.len; ++j) std::fill_n(to + j * tile.a_row, taps * block_.channels, A{0});
        } else {
          const T* row = image_.data + block_.channel + run.n * image_.strides.outer + d * image_.strides.axis[0] +
                         h * image_.strides.axis[1];
          stage_kernel_row(row, run.q[2], run.len, tap.t[2], taps, to, tile.a_row);
        }
      }
      t += taps;
    }
  }

  // The terms of taps [first, first + taps) of a kernel row for `len` pixels from position q on.
  void stage_kernel_row(const T* row, int64_t q, int64_t len, int64_t first, int64_t taps, A* to,
                        int64_t distance) const {
    const GatherAxis& g = region_->region->axis[2];
    const int64_t pixel = image_.strides.axis[2], channels = block_.channels;
    const int64_t x = q * g.step + tap_offset(g, first);  // what the first tap of the first pixel reads
    if (g.off_step != 1 || pixel != channels) {           // a tap at a time
      if (taps > 1) {
        for (int64_t t = 0; t < taps; ++t) stage_kernel_row(row, q, len, first + t, 1, to + t * channels, distance);
        return;
      }
    }
    int64_t begin = std::min(positions_below(x, g.step), len);
    const int64_t end = std::max(begin, std::min(positions_below(x + taps - 1 - g.extent, g.step), len));
    const auto stage_edge = [&](int64_t from, int64_t until) {
      for (int64_t j = from; j < until; ++j)
        for (int64_t t = 0; t < taps; ++t) {
          const int64_t w = padded_source(image_.mode, x + j * g.step + t * g.off_step, g.extent);
          A* at = to + j * distance + t * channels;
          if (w < 0) {
            std::fill_n(at, channels, A{0});
          } else {
            copy_strided(at, row + w * pixel, 1, channels);
          }
        }
    };
    stage_edge(0, begin);
    const int64_t length = taps * channels;
    if constexpr (std::is_same_v<T, A>) {
      // Whole vectors, which spill over what is staged after them, or over the slack at the end of the row.
      if (length < kLanes<A> && has_slack_) {
        int64_t whole = end;  // up to here a vector ends inside of the image's memory
        while (whole > begin && row + (x + (whole - 1) * g.step) * pixel + kLanes<A> > image_end_) --whole;
        for (; begin < whole; ++begin) store(to + begin * distance, load(row + (x + begin * g.step) * pixel));
      }
    }
    for (int64_t j = begin; j < end; ++j) copy_strided(to + j * distance, row + (x + j * g.step) * pixel, 1, length);
    stage_edge(end, len);
  }

  void multiply_panel(int64_t panel) {
    const int64_t channel = panel * kColumns, columns = std::min(kColumns, job_.rows - channel);
    const A* weight = weight_.panel_at(*region_, block_, group_, channel);
    if (job_.shape.packs_own_weight) {
      weight_.pack_panel(*region_, block_, group_, channel, kColumns, own_weight_);
      weight = own_weight_;
    }
    const A* bias = job_.epilogue.bias
                        ? static_cast<const A*>(job_.packed_bias) + group_ * job_.bias_channels() + channel
                        : nullptr;
    const TileStart start = !first_block_ ? TileStart::kPartialSum : bias ? TileStart::kColumnBias : TileStart::kZero;
    const bool direct = columns % kLanes<A> == 0 && epilogue_.is_clamp();
    for (int64_t i = 0; i < tile_count_; ++i) {
      const PixelTile& tile = tiles_[i];
      TileCall<A> call{block_.length(), tile.a, weight, nullptr, kColumns, start, bias};
      if constexpr (std::is_same_v<T, A>) {
        if (direct && tile.to_row != 0) {
          call.c = tile.to + channel, call.ldc = tile.to_row;
          if (last_block_ && !epilogue_.is_bias()) {
            call.clamp = &epilogue_.clamp();
            if (epilogue_.has_residual()) call.residual = prefetched(epilogue_.residual_of(call.c), tile);
          }
          multiply_in_rows(tile.rows, columns, call, tile.a_row);
          continue;
        }
      }
      // Sums that this block begins and completes leave at once: all such share one place in L1.
      const int64_t offset = (panel - first_panel_) * kColumns * pixels_ + tile.start * kColumns;
      call.c = partial_ + (first_block_ && last_block_ ? 0 : offset);
      multiply_in_rows(tile.rows, columns, call, tile.a_row);
      if (last_block_) write(tile, call.c, channel, columns);
    }
  }

  // The residual of a tile, on its way to the cache while the tile is multiplied.
  static const A* prefetched(const A* residual, const PixelTile& tile) {
    for (int64_t i = 0; i < tile.rows; ++i)
      for (int64_t j = 0; j < kColumns; j += 64 / sizeof(A)) __builtin_prefetch(residual + i * tile.to_row + j);
    return residual;
  }

  // Writes a tile of finished sums to the result.
  void write(const PixelTile& tile, const A* from, int64_t channel, int64_t columns) const {
    const int64_t step = result_step();
    for (int i = 0; i < tile.run_count; ++i) {
      const PixelRun& run = tile.runs[i];
      T* to = result_of(run) + channel;
      const A* sums = from + run.column * kColumns;
      if (!epilogue_.is_bias()) {
        epilogue_.write({to, step, 1, sums, kColumns, 1, run.len, columns});
        continue;
      }
      for (int64_t j = 0; j < run.len; ++j) {
        if constexpr (std::is_same_v<T, A>) {
          copy_row(to + j * step, sums + j * kColumns, columns);
        } else {
          store_line(to + j * step, 1, sums + j * kColumns, 1, columns);
        }
      }
    }
  }

  const ConvJob& job_;
  const EpilogueOf<T, A> epilogue_;
  WeightPacker<T, A, MultiplyAdd<A>> weight_;
  const RegionJob* region_;
  int64_t group_, first_pixel_, pixels_, first_panel_, panels_;
  ImageReader<T> image_;
  const T* image_end_;
  A* rows_;
  A* partial_;
  A* own_weight_;
  Block block_{};
  bool first_block_ = true, last_block_ = true, has_slack_ = false;
  int64_t tile_count_ = 0;
  PixelTile tiles_[kMostTiles];
  PixelRun runs_[kMostUnitPixels];
};
