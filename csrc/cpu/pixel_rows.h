// fprop and dgrad from channels_last images to channels_last results: pixels are the rows of the product, and are not
// packed. Include only from engine.inl.h.
//
//   C[pixel, channel] (+)= sum over terms (tap, source channel) of rows[pixel][term] * weight[term][channel]
//
// ConvUnit (packed_conv.h) would transpose these rows to panels [term][pixel], for 14 shuffles a vector. The
// micro-kernel of row_product.h broadcasts from the rows themselves, wherever they are at one distance from each other:
// in the image, or in a copy of it (pixel_stage.h). Terms, blocks and the order of every sum are ConvUnit's, so the
// bits are too.
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
      : PixelRowUnit(job, *region_of_unit(job, index), index, workspace) {}

  void run() {
    list_tiles();
    const int64_t blocks = region_.reduction.blocks();
    for (int64_t b = 0; b < blocks; ++b) {
      block_ = region_.reduction.block(b);
      first_block_ = b == 0;
      last_block_ = b == blocks - 1;
      stage_.begin(block_);
      for (int64_t i = 0; i < tile_count_; ++i) stage_.place(tiles_[i]);
      multiply_tiles();
    }
  }

 private:
  using Tile = PixelTile<T, A>;
  static constexpr int64_t kColumns = kTileColumns<A>;
  static constexpr int64_t kMostTiles = kMostUnitPixels;  // of one pixel, at the ends of rows

  PixelRowUnit(const ConvJob& job, const RegionJob& region, int64_t index, A* workspace)
      : job_(job),
        epilogue_(job),
        weight_{job},
        region_(region),
        block_units_(job.channel_blocks()),
        group_((index - region.first_unit) / block_units_ / region.pixel_blocks),
        by_pairs_(takes_pairs(job, region.reduction)),
        tile_rows_(by_pairs_ ? 2 * kPairRows : job.tile.rows),
        stage_(job, region, tile_rows_, group_, workspace) {
    const int64_t local = index - region.first_unit;
    first_pixel_ = local / block_units_ % region.pixel_blocks * job.shape.pixels;
    pixels_ = std::min(job.shape.pixels, region.pixels - first_pixel_);
    first_panel_ = local % block_units_ * job.shape.panels;
    panels_ = std::min(job.shape.panels, job.weight_panels() - first_panel_);
    const ConvWorkspace sizes(job.shape, job.tile);
    const int64_t result = region.pixels * std::ssize(job.wave) * job.problem->groups * job.rows;
    fetches_result_ = result * static_cast<int64_t>(sizeof(A)) >= kLeastFetched;
    if (job.epilogue.bias) bias_ = static_cast<const A*>(job.packed_bias) + group_ * job.bias_channels();
    partial_ = workspace + sizes.image;
    own_weight_ = partial_ + sizes.partial + sizes.widened;
  }

  void list_tiles() {
    tile_count_ = 0;
    PixelRun* runs = runs_;
    if (stage_.tiles_end_with_rows()) {
      PixelRun rows[kMostUnitPixels];
      const int row_count = make_runs(*region_.region, first_pixel_, pixels_, rows);
      const int64_t step = result_step();
      for (int i = 0; i < row_count; ++i) {
        const Panels parts(rows[i].len, tile_rows_);
        T* to = result_of(rows[i]);
        for (int64_t part = 0; part < parts.count; ++part, ++runs) {
          const int64_t start = parts.start(part), length = parts.rows(part);
          *runs = rows[i];
          runs->column = 0, runs->len = static_cast<int32_t>(length), runs->q[2] += start;
          Tile& tile = tiles_[tile_count_++];
          tile.start = rows[i].column + start, tile.rows = length, tile.runs = runs, tile.run_count = 1;
          tile.to = to + start * step, tile.to_row = step;
        }
      }
    } else {
      const Panels parts(pixels_, tile_rows_);
      for (int64_t part = 0; part < parts.count; ++part) {
        const int64_t start = parts.start(part), count = parts.rows(part);
        const int run_count = make_runs(*region_.region, first_pixel_ + start, count, runs);
        add_tile(start, count, runs, run_count);
        runs += run_count;
      }
    }
  }

  // Lists a tile and finds its place in the result.
  void add_tile(int64_t start, int64_t rows, const PixelRun* runs, int run_count) {
    Tile& tile = tiles_[tile_count_++];
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
    const GatherAxis* g = region_.region->axis;
    int64_t offset = run.n * job_.result_strides.outer + group_ * job_.rows;
    for (int i = 0; i < kSpatialAxes; ++i)
      offset += (g[i].out0 + run.q[i] * g[i].out_step) * job_.result_strides.axis[i];
    return static_cast<T*>(job_.result) + offset;
  }
  int64_t result_step() const { return region_.region->axis[2].out_step * job_.result_strides.axis[2]; }

  // Every panel of the weight times every tile. Tiles are the outer loop, so that results are written in the order of
  // memory, unless each panel is packed for all tiles to read from L1.
  void multiply_tiles() {
    const int64_t end = first_panel_ + panels_;
    if (!job_.shape.packs_own_weight) {
      const A* weight = weight_.panel_at(region_, block_, group_, first_panel_ * kColumns);
      for (int64_t i = 0; i < tile_count_; ++i) multiply_tile(tiles_[i], first_panel_, end, weight);
      return;
    }
    for (int64_t panel = first_panel_; panel < end; ++panel) {
      weight_.pack_panel(region_, block_, group_, panel * kColumns, kColumns, own_weight_);
      for (int64_t i = 0; i < tile_count_; ++i) multiply_tile(tiles_[i], panel, panel + 1, own_weight_);
    }
  }

  // A tile times panels [panel, end), of which `weight` is the first.
  void multiply_tile(const Tile& tile, int64_t panel, int64_t end, const A* weight) {
    const TileStart start = !first_block_ ? TileStart::kPartialSum : bias_ ? TileStart::kColumnBias : TileStart::kZero;
    const bool finishes = last_block_ && !epilogue_.is_bias();
    TileCall<A> call{block_.length(), tile.a, weight, nullptr, kColumns, start, bias_};
    for (; panel < end; ++panel, call.b += kColumns * block_.length()) {
      const int64_t channel = panel * kColumns, columns = std::min(kColumns, job_.rows - channel);
      if (bias_) call.bias = bias_ + channel;
      if constexpr (std::is_same_v<T, A>) {
        if (columns % kLanes<A> == 0 && epilogue_.is_clamp() && tile.to_row != 0) {
          const bool pair =
              by_pairs_ && panel + 1 < end && job_.rows - channel >= 2 * kColumns && tile.end - tile.begin == tile.rows;
          const int64_t width = pair ? 2 * kColumns : columns;
          call.c = tile.to + channel, call.ldc = tile.to_row;
          if (finishes) {
            call.clamp = &epilogue_.clamp();
            if (epilogue_.has_residual()) call.residual = prefetched(epilogue_.residual_of(call.c), tile, width);
          }
          if (fetches_result_ && block_.length() >= kLeastFetchingTerms) fetch_result(call.c, tile, width);
          if (pair) {
            multiply_pair(tile, call);
            ++panel, call.b += kColumns * block_.length();
          } else {
            multiply_pixels(tile, columns, call);
          }
          continue;
        }
      }
      // Sums that this block begins and completes leave at once: all such share one place in L1.
      const int64_t offset = (panel - first_panel_) * kColumns * pixels_ + tile.start * kColumns;
      call.c = partial_ + (first_block_ && last_block_ ? 0 : offset), call.ldc = kColumns;
      call.clamp = nullptr, call.residual = nullptr;
      multiply_pixels(tile, columns, call);
      if (last_block_) write(tile, call.c, channel, columns);
    }
  }

  // Whether tiles are of two panels: of a short reduction, whose time its results decide.
  static bool takes_pairs(const ConvJob& job, const Reduction& reduction) {
    return std::is_same_v<T, A> && kPairRows > 0 && reduction.blocks() == 1 && reduction.length() <= kMostPairTerms &&
           job.rows >= 2 * kColumns && job.shape.panels > 1 && !job.shape.packs_own_weight;
  }

  // The tile times two panels, half of its pixels after the other.
  static void multiply_pair(const Tile& tile, TileCall<A>& call) {
    const int64_t first = tile.rows > kPairRows ? (tile.rows + 1) / 2 : tile.rows;
    multiply_by_pair(first, call, tile.places);
    if (first == tile.rows) return;
    call.a += first * tile.places.distance, call.c += first * call.ldc;
    if (call.residual) call.residual += first * call.ldc;
    multiply_by_pair(tile.rows - first, call, tile.places);
    call.a = tile.a;
  }

  // The call is not copied on the usual way: vectors of its fields, just stored one by one, would wait for every store
  // before them, and those are the results of the tile before.
  void multiply_pixels(const Tile& tile, int64_t columns, const TileCall<A>& call) const {
    if (!call.clamp && tile.end - tile.begin < tile.rows) return multiply_some_pixels(tile, columns, call);
    multiply_in_rows(tile.rows, columns, call, tile.places);
  }

  // Adds to pixels [begin, end) of the tile.
  [[gnu::noinline]] void multiply_some_pixels(const Tile& tile, int64_t columns, TileCall<A> call) const {
    if (first_block_) {  // all sums begin, if with no terms
      TileCall<A> empty = call;
      empty.kc = 0;
      multiply_in_rows(tile.rows, columns, empty, tile.places);
      call.start = TileStart::kPartialSum;
    }
    if (tile.begin == tile.end) return;
    call.a += tile.begin * tile.places.distance, call.c += tile.begin * call.ldc;
    multiply_in_rows(tile.end - tile.begin, columns, call, tile.places);
  }

  // The residual of a tile, on its way to the cache while the tile is multiplied.
  static const A* prefetched(const A* residual, const Tile& tile, int64_t columns) {
    for (int64_t i = 0; i < tile.rows; ++i)
      for (int64_t j = 0; j < columns; j += 64 / sizeof(A)) __builtin_prefetch(residual + i * tile.to_row + j);
    return residual;
  }

  // The lines of a result that no cache holds, on their way while the tile is multiplied: its stores would wait for
  // them, one after another.
  static void fetch_result(const A* c, const Tile& tile, int64_t columns) {
    for (int64_t i = 0; i < tile.rows; ++i)
      for (int64_t j = 0; j < columns; j += 64 / sizeof(A)) __builtin_prefetch(c + i * tile.to_row + j, 1);
  }

  // Writes a tile of finished sums to the result.
  void write(const Tile& tile, const A* from, int64_t channel, int64_t columns) const {
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

  // Bytes of a result whose lines are fetched, and terms of a tile in whose time they come (27 terms of 64 channels,
  // 224 x 224: 0.45 ms without, 0.50 to 0.54 with).
  static constexpr int64_t kLeastFetched = int64_t{2} << 20, kLeastFetchingTerms = 64;

  const ConvJob& job_;
  const EpilogueOf<T, A> epilogue_;
  WeightPacker<T, A, MultiplyAdd<A>> weight_;
  const RegionJob& region_;
  int64_t block_units_;  // units of one block of pixels
  int64_t group_;
  bool by_pairs_;
  int64_t tile_rows_;
  PixelStage<T, A> stage_;
  int64_t first_pixel_, pixels_, first_panel_, panels_;
  const A* bias_ = nullptr;  // of the group's first channel
  A* partial_;
  A* own_weight_;
  Block block_{};
  bool first_block_ = true, last_block_ = true;
  bool fetches_result_ = false;
  int64_t tile_count_ = 0;
  Tile tiles_[kMostTiles];
  PixelRun runs_[kMostUnitPixels];
};
