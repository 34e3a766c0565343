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
// ConvUnit (packed_conv.h) would transpose these rows to panels [term][pixel], for 14 shuffles a vector. The
// micro-kernel of row_product.h broadcasts from the rows themselves, wherever they are at one distance from each other.
// A tile takes the first of these places that it can:
//
//   single tap   the image, for pixels of any rows that stand at one distance
//   windows      the image: pixels of one result row whose windows lie inside of it. Windows overlap; a term stands at
//                the same offset in all of them
//   segments     copies of the image rows that the windows of one result row touch, with their padding
//   rows         each pixel's terms copied one after another. Where all channels of a pixel are summed, neighbouring
//                taps are neighbours in memory: a kernel row is one run of kw * C elements
//
// Terms, blocks and the order of every sum are ConvUnit's, so the bits are too.
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
    if (job.epilogue.bias) bias_ = static_cast<const A*>(job.packed_bias) + group_ * job.bias_channels();
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
      list_offsets();
      for (int64_t i = 0; i < tile_count_; ++i) {
        PixelTile& tile = tiles_[i];
        if (!read_in_place(tile) && !read_windows(tile) && !stage_segments(tile)) stage_rows(tile);
      }
      multiply_tiles();
    }
  }

 private:
  static constexpr int64_t kColumns = kTileColumns<A>;
  static constexpr int64_t kMostTiles = kMostUnitPixels;  // of one pixel, at the ends of rows

  struct PixelTile {
    int64_t start, rows;   // pixels of the unit
    const PixelRun* runs;  // their columns count from the tile's first pixel
    int run_count;
    T* to;           // the first result channel of the group
    int64_t to_row;  // distance between the pixels' results, or 0 where it varies
    const A* a;      // the block's terms of the first pixel
    RowPlaces places;
  };

  // Windows are at one distance only along a row, so tiles end with it, unless that would leave them short.
  bool ends_with_rows() const {
    const int64_t width = region_->region->axis[2].count;
    return region_->region->taps() > 1 && 3 * width >= 2 * divide_up(width, job_.tile.rows) * job_.tile.rows;
  }

  void list_tiles() {
    tile_count_ = 0;
    PixelRun* runs = runs_;
    if (ends_with_rows()) {
      PixelRun rows[kMostUnitPixels];
      const int row_count = make_runs(*region_->region, first_pixel_, pixels_, rows);
      for (int i = 0; i < row_count; ++i) {
        const Panels parts(rows[i].len, job_.tile.rows);
        for (int64_t part = 0; part < parts.count; ++part, ++runs) {
          *runs = rows[i];
          runs->column = 0, runs->len = static_cast<int32_t>(parts.rows(part)), runs->q[2] += parts.start(part);
          add_tile(rows[i].column + parts.start(part), runs->len, runs, 1);
        }
      }
    } else {
      const Panels parts(pixels_, job_.tile.rows);
      for (int64_t part = 0; part < parts.count; ++part) {
        const int64_t start = parts.start(part), count = parts.rows(part);
        const int run_count = make_runs(*region_->region, first_pixel_ + start, count, runs);
        add_tile(start, count, runs, run_count);
        runs += run_count;
      }
    }
  }

  // Lists a tile and finds its place in the result.
  void add_tile(int64_t start, int64_t rows, const PixelRun* runs, int run_count) {
    PixelTile& tile = tiles_[tile_count_++];
    tile.start = start, tile.rows = rows, tile.runs = runs, tile.run_count = run_count;
    tile.to = result_of(runs[0]);
    tile.to_row = runs[0].len > 1 || tile.rows == 1 ? result_step() : result_of(runs[1]) - tile.to;
    for (int r = 1; r < tile.run_count; ++r)
      if (result_of(runs[r]) != tile.to + runs[r].column * tile.to_row ||
          (runs[r].len > 1 && tile.to_row != result_step()))
        tile.to_row = 0;
    if (runs[0].len > 1 && tile.to_row != result_step()) tile.to_row = 0;
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
      tile.places = {distance, nullptr};
      return true;
    }
  }

  // Where the block's terms stand in a window of the image, and in one of segments.
  void list_offsets() {
    const GatherAxis* g = region_->region->axis;
    segment_ = (job_.tile.rows - 1) * g[2].step + (g[2].taps - 1) * std::abs(g[2].off_step) + 1;
    for (int64_t t = 0, k = 0; t < block_.taps; ++t) {
      const Tap tap = tap_at(*region_->region, block_.tap + t);
      int64_t in_image = 0;
      for (int i = 0; i < kSpatialAxes; ++i) in_image += tap.t[i] * g[i].off_step * image_.strides.axis[i];
      const int64_t row = (block_.tap + t) / g[2].taps - block_.tap / g[2].taps;
      const int64_t in_segments = (row * segment_ + tap.t[2] * g[2].off_step - first_column()) * block_.channels;
      for (int64_t c = 0; c < block_.channels; ++c, ++k)
        image_offset_[k] = in_image + c, segment_offset_[k] = in_segments + c;
    }
  }
  // The least offset of a tap in its row.
  int64_t first_column() const {
    const GatherAxis& g = region_->region->axis[2];
    return std::min<int64_t>(0, (g.taps - 1) * g.off_step);
  }

  // Points the tile at the image, if the windows of all its pixels lie inside of it.
  bool read_windows(PixelTile& tile) const {
    if constexpr (!std::is_same_v<T, A>) {
      return false;
    } else {
      const int64_t distance = region_->region->axis[2].step * image_.strides.axis[2];
      if (tile.run_count != 1 || distance * static_cast<int64_t>(sizeof(A)) % kSetDistance == 0) return false;
      const PixelRun& run = tile.runs[0];
      const A* from = image_.data + block_.channel + run.n * image_.strides.outer;
      for (int i = 0; i < kSpatialAxes; ++i) {
        const GatherAxis& g = region_->region->axis[i];
        const int64_t first = run.q[i] * g.step + g.off0, across = (g.taps - 1) * g.off_step;
        const int64_t last = first + (i == 2 ? run.len - 1 : 0) * g.step;
        if (first + std::min<int64_t>(0, across) < 0 || last + std::max<int64_t>(0, across) >= g.extent) return false;
        from += first * image_.strides.axis[i];
      }
      tile.a = from;
      tile.places = {distance, image_offset_};
      return true;
    }
  }

  // Distance between the places of two pixels' terms in the workspace, which has kReductionBlock for each.
  int64_t staged_distance() const {
    const int64_t distance = round_up(block_.length(), kLanes<A>);
    return distance + (distance + kLanes<A> <= kReductionBlock ? kLanes<A> : 0);
  }

  // Copies the image rows under the tile's windows, unless that is more than the windows' terms themselves.
  bool stage_segments(PixelTile& tile) {
    const Region& region = *region_->region;
    const GatherAxis* g = region.axis;
    if (block_.length() == 0) return false;
    const int64_t first = block_.tap / g[2].taps, last = (block_.tap + block_.taps - 1) / g[2].taps;
    const int64_t distance = g[2].step * block_.channels;
    if (tile.run_count != 1 || (last - first + 1) * segment_ * block_.channels > tile.rows * block_.length() ||
        distance * static_cast<int64_t>(sizeof(A)) % kSetDistance == 0)
      return false;
    A* to = rows_ + tile.start * staged_distance();
    tile.a = to;
    tile.places = {distance, segment_offset_};
    const PixelRun& run = tile.runs[0];
    const int64_t columns = (tile.rows - 1) * g[2].step + (g[2].taps - 1) * std::abs(g[2].off_step) + 1;
    for (int64_t row = first; row <= last; ++row, to += segment_ * block_.channels)
      stage_segment(tap_at(region, row * g[2].taps), run, columns, to);
    return true;
  }

  // `columns` neighbours from the first one that the run reads in the row of this tap.
  void stage_segment(const Tap& tap, const PixelRun& run, int64_t columns, A* to) const {
    const GatherAxis* g = region_->region->axis;
    const int64_t channels = block_.channels, pixel = image_.strides.axis[2];
    const int64_t d = padded_source(image_.mode, run.q[0] * g[0].step + tap_offset(g[0], tap.t[0]), g[0].extent);
    const int64_t h = padded_source(image_.mode, run.q[1] * g[1].step + tap_offset(g[1], tap.t[1]), g[1].extent);
    if (d < 0 || h < 0) return std::fill_n(to, columns * channels, A{0}), void();
    const T* row = image_.data + block_.channel + run.n * image_.strides.outer + d * image_.strides.axis[0] +
                   h * image_.strides.axis[1];
    const int64_t x = run.q[2] * g[2].step + g[2].off0 + first_column();
    const int64_t begin = std::clamp<int64_t>(-x, 0, columns);
    const int64_t end = std::clamp<int64_t>(g[2].extent - x, begin, columns);
    const auto pad = [&](int64_t from, int64_t until) {
      for (int64_t j = from; j < until; ++j) {
        const int64_t w = padded_source(image_.mode, x + j, g[2].extent);
        if (w < 0) {
          std::fill_n(to + j * channels, channels, A{0});
        } else {
          copy_strided(to + j * channels, row + w * pixel, 1, channels);
        }
      }
    };
    pad(0, begin);
    if (pixel == channels) {
      copy_strided(to + begin * channels, row + (x + begin) * pixel, 1, (end - begin) * channels);
    } else {
      for (int64_t j = begin; j < end; ++j) copy_strided(to + j * channels, row + (x + j) * pixel, 1, channels);
    }
    pad(end, columns);
  }

  // Copies the tile's terms of the block to rows of its own.
  void stage_rows(PixelTile& tile) {
    const int64_t distance = staged_distance();
    has_slack_ = distance >= block_.length() + kLanes<A>;
    A* rows = rows_ + tile.start * distance;
    tile.a = rows;
    tile.places = {distance, nullptr};
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
        A* to = rows + run.column * distance + (t - block_.tap) * block_.channels;
        if (d < 0 || h < 0) {
          for (int64_t j = 0; j < run.len; ++j) std::fill_n(to + j * distance, taps * block_.channels, A{0});
        } else {
          const T* row = image_.data + block_.channel + run.n * image_.strides.outer + d * image_.strides.axis[0] +
                         h * image_.strides.axis[1];
          stage_kernel_row(row, run.q[2], run.len, tap.t[2], taps, to, distance);
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

  // Every panel of the weight times every tile. Tiles are the outer loop, so that results are written in the order of
  // memory, unless each panel is packed for all tiles to read from L1.
  void multiply_tiles() {
    const int64_t end = first_panel_ + panels_;
    if (!job_.shape.packs_own_weight) {
      const A* weight = weight_.panel_at(*region_, block_, group_, first_panel_ * kColumns);
      for (int64_t i = 0; i < tile_count_; ++i) multiply_tile(tiles_[i], first_panel_, end, weight);
      return;
    }
    for (int64_t panel = first_panel_; panel < end; ++panel) {
      weight_.pack_panel(*region_, block_, group_, panel * kColumns, kColumns, own_weight_);
      for (int64_t i = 0; i < tile_count_; ++i) multiply_tile(tiles_[i], panel, panel + 1, own_weight_);
    }
  }

  // A tile times panels [panel, end), of which `weight` is the first.
  void multiply_tile(const PixelTile& tile, int64_t panel, int64_t end, const A* weight) {
    const TileStart start = !first_block_ ? TileStart::kPartialSum : bias_ ? TileStart::kColumnBias : TileStart::kZero;
    const bool finishes = last_block_ && !epilogue_.is_bias();
    TileCall<A> call{block_.length(), tile.a, weight, nullptr, kColumns, start, bias_};
    for (; panel < end; ++panel, call.b += kColumns * block_.length()) {
      const int64_t channel = panel * kColumns, columns = std::min(kColumns, job_.rows - channel);
      if (bias_) call.bias = bias_ + channel;
      if constexpr (std::is_same_v<T, A>) {
        if (columns % kLanes<A> == 0 && epilogue_.is_clamp() && tile.to_row != 0) {
          call.c = tile.to + channel, call.ldc = tile.to_row;
          if (finishes) {
            call.clamp = &epilogue_.clamp();
            if (epilogue_.has_residual()) call.residual = prefetched(epilogue_.residual_of(call.c), tile);
          }
          multiply_in_rows(tile.rows, columns, call, tile.places);
          continue;
        }
      }
      // Sums that this block begins and completes leave at once: all such share one place in L1.
      const int64_t offset = (panel - first_panel_) * kColumns * pixels_ + tile.start * kColumns;
      call.c = partial_ + (first_block_ && last_block_ ? 0 : offset), call.ldc = kColumns;
      call.clamp = nullptr, call.residual = nullptr;
      multiply_in_rows(tile.rows, columns, call, tile.places);
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
  const A* bias_ = nullptr;  // of the group's first channel
  A* rows_;
  A* partial_;
  A* own_weight_;
  Block block_{};
  bool first_block_ = true, last_block_ = true, has_slack_ = false;
  int64_t segment_ = 0;  // columns between the segments of a tile
  int64_t image_offset_[kReductionBlock], segment_offset_[kReductionBlock];
  int64_t tile_count_ = 0;
  PixelTile tiles_[kMostTiles];
  PixelRun runs_[kMostUnitPixels];
};
