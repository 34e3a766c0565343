// fprop and dgrad on packed panels (implicit GEMM). Include only from engine.inl.h.
//
//   for each wave of regions:
//     pack the wave's weight into panels                              shared, read by all units
//     for each unit (region, group, block of channels, block of pixels):     in parallel, disjoint results
//       for each reduction block (kReductionBlock terms):
//         gather the image side of the block                          L2: pixels x 256
//         for each B tile (L1), for each A panel (streamed): multiply_tile
//       the last block writes the result: at once, or through a tile in L1 where the result is strided, narrower
//       than the sum, or ends inside the tile
//
// NCHW puts pixels along the vector and channels along the tile's rows; channels_last, and images too small to fill
// vectors, the other way round. Both run the same loops: only which side is packed once and which per unit differs.
#pragma once

template <class T, class A, class Product>
struct WeightPacker {
  const ConvJob& job;

  // Packs panel `index` of the wave, counted over (region, group, reduction block, panel).
  void pack(int64_t index) const {
    const RegionJob* r = job.wave.data();
    while (r + 1 < job.wave.data() + job.wave.size() && (r + 1)->first_pack <= index) ++r;
    const int64_t panels = job.weight_panels(), local = index - r->first_pack;
    const int64_t panel = local % panels, block_index = local / panels % r->reduction.blocks();
    const int64_t group = local / panels / r->reduction.blocks();
    const Block block = r->reduction.block(block_index);
    const Panels rows(job.rows, job.tile.rows);
    const int64_t start = job.shape.pixels_are_rows ? panel * job.tile.columns : rows.start(panel);
    const int64_t width = job.shape.pixels_are_rows ? job.tile.columns : rows.rows(panel);
    pack_panel(*r, block, group, start, width, panel_at(*r, block, group, start));
  }

  // Where the panel that starts at result channel `start` stands.
  A* panel_at(const RegionJob& r, const Block& block, int64_t group, int64_t start) const {
    const int64_t channels = packed_channels(job.shape, job.tile, job.rows);
    return static_cast<A*>(job.packed_weight) + r.packed_offset +
           channels * (group * r.reduction.length() + r.reduction.before(block)) + start * block.length();
  }

  // Asks for rows [begin, end) of the panel that starts at result channel `start`, which is packed next: they stand a
  // weight row apart, too far for the processor to see them coming.
  void prefetch_rows(const RegionJob& r, const Block& block, int64_t group, int64_t start, int64_t begin,
                     int64_t end) const {
    if (r.reduction.channels_inner && block.taps > 1) return;
    const T* from = static_cast<const T*>(job.weight) + group * job.weight_group + start * job.weight_row +
                    block.channel * job.weight_depth;
    if (block.taps > 1 && job.weight_depth != block.taps) return;  // not one run a row
    if (block.taps == 1 && job.weight_depth != 1) return;
    for (int64_t i = begin; i < std::min(end, job.rows - start); ++i)
      for (int64_t k = 0; k < block.length(); k += 64 / static_cast<int64_t>(sizeof(T)))
        __builtin_prefetch(from + i * job.weight_row + k);
  }

  // Packs `width` result channels from `start` on, and zeros beyond the last.
  void pack_panel(const RegionJob& r, const Block& block, int64_t group, int64_t start, int64_t width, A* to) const {
    const T* from = static_cast<const T*>(job.weight) + group * job.weight_group + start * job.weight_row +
                    block.channel * Product::kTerms * job.weight_depth;
    const int64_t rows = std::min(width, job.rows - start);
    int64_t offset[kReductionBlock];  // of each tap in the weight
    // The channels of a single tap are in order either way.
    bool contiguous = job.weight_depth == block.taps && (!r.reduction.channels_inner || block.taps == 1);
    for (int64_t t = 0; t < block.taps; ++t) {
      const Tap tap = tap_at(*r.region, block.tap + t);
      offset[t] = 0;
      for (int i = 0; i < kSpatialAxes; ++i)
        offset[t] += (r.region->axis[i].tap0 + tap.t[i] * r.region->axis[i].tap_step) * job.weight_tap[i];
      contiguous = contiguous && offset[t] == offset[0] + t;
    }
    const int64_t channel_step = r.reduction.channel_step(block), tap_step = r.reduction.tap_step(block);
    if constexpr (Product::kTerms == 2) {
      const int64_t channels = job.depth - 2 * block.channel;
      return pack_weight_pairs<T, A, Product>({from, job.weight_row, job.weight_depth, channels, rows, width}, block,
                                              offset, channel_step, tap_step, to);
    }
    const T* row[kTileColumns<A>];
    const auto list_rows = [&](int64_t first) {
      for (int64_t i = 0; i < width; ++i) row[i] = i < rows ? from + first + i * job.weight_row : kZeros<T>;
    };
    if (contiguous) {  // fprop's contiguous weight: each row is one run of the block
      list_rows(offset[0]);
      return transpose_rows(row, static_cast<int>(width), block.length(), to);
    }
    if (job.weight_row == 1) {  // dgrad's 1x1 or channels_last weight has lines of the panel's layout
      for (int64_t t = 0; t < block.taps; ++t)
        for (int64_t c = 0; c < block.channels; ++c) {
          A* line = to + (c * channel_step + t * tap_step) * width;
          copy_strided(line, from + offset[t] + c * job.weight_depth, 1, rows);
          if (rows < width) std::fill(line + rows, line + width, A{0});
        }
      return;
    }
    if (job.weight_depth == 1 && r.reduction.channels_inner) {  // fprop's channels_last weight: a run a row and tap
      for (int64_t t = 0; t < block.taps; ++t) {
        list_rows(offset[t]);
        transpose_rows(row, static_cast<int>(width), block.channels, to + t * tap_step * width);
      }
      return;
    }
    for (int64_t c = 0; c < block.channels; ++c)
      for (int64_t i = 0; i < width; ++i) {
        const T* element = from + c * job.weight_depth + i * job.weight_row;
        A* column = to + c * channel_step * width + i;
        for (int64_t t = 0; t < block.taps; ++t)
          column[t * tap_step * width] = i < rows ? widen(element[offset[t]]) : A{0};
      }
  }
};

// One unit of a ConvJob: a block of channels by a block of pixels of one region and group.
template <class T, class A, class Product>
class ConvUnit {
 public:
  ConvUnit(const ConvJob& job, int64_t index, A* workspace) : job_(job), epilogue_(job), weight_{job} {
    const RegionJob* r = job.wave.data();
    while (r + 1 < job.wave.data() + job.wave.size() && (r + 1)->first_unit <= index) ++r;
    region_ = r;
    int64_t local = index - r->first_unit;
    // The channel blocks of some pixels follow each other, so that a thread finds those pixels in its cache.
    const int64_t channel_block = local % job.channel_blocks();
    local /= job.channel_blocks();
    first_pixel_ = local % r->pixel_blocks * job.shape.pixels;
    group_ = local / r->pixel_blocks;
    pixels_ = std::min(job.shape.pixels, r->pixels - first_pixel_);
    first_panel_ = channel_block * job.shape.panels;
    panels_ = std::min(job.shape.panels, job.weight_panels() - first_panel_);
    image_ = {static_cast<const T*>(job.source) + group_ * job.depth * job.source_strides.channel, job.source_strides,
              r->region, job.source_mode, job.problem};
    const ConvWorkspace sizes(job.shape, job.tile);
    panel_ = workspace;
    partial_ = panel_ + sizes.image;
    widened_ = partial_ + sizes.partial;
    own_weight_ = widened_ + sizes.widened;
  }

  void run() {
    const int64_t blocks = region_->reduction.blocks();
    for (int64_t b = 0; b < blocks; ++b) {
      block_ = region_->reduction.block(b);
      first_block_ = b == 0;
      last_block_ = b == blocks - 1;
      if (job_.shape.pixels_are_rows) {
        pixels_as_rows();
      } else {
        pixels_as_columns();
      }
    }
  }

 private:
  static constexpr int64_t kColumns = kTileColumns<A>;

  // C[channel, pixel]: the weight gives the rows, the image the columns.
  void pixels_as_columns() {
    const Panels rows(job_.rows, job_.tile.rows);
    const int64_t first_row = rows.start(first_panel_);
    const int64_t unit_rows = rows.start(first_panel_ + panels_) - first_row;
    PixelRun runs[kColumns];
    for (int64_t pixel = 0; pixel < pixels_; pixel += kColumns) {
      const int64_t count = std::min(kColumns, pixels_ - pixel);
      const int run_count = make_runs(*region_->region, first_pixel_ + pixel, count, runs);
      gather(runs, run_count, kColumns, panel_);
      T* direct = contiguous_columns(runs, run_count, count);
      for (int64_t p = first_panel_; p < first_panel_ + panels_; ++p) {
        const int64_t row = rows.start(p);
        A* partial = partial_of(pixel * unit_rows + (row - first_row) * kColumns);
        multiply_and_store({rows.rows(p), row, kColumns, weight_panel(row), panel_, direct, job_.result_strides.channel,
                            partial, runs, run_count});
      }
    }
  }

  // C[pixel, channel]: the image gives the rows, the weight the columns.
  void pixels_as_rows() {
    const Panels rows(pixels_, job_.tile.rows);
    PixelRun runs[kMostUnitPixels];
    int first_run[kMostUnitPixels + 1] = {0};
    for (int64_t p = 0; p < rows.count; ++p) {
      PixelRun* own = runs + first_run[p];
      const int run_count = make_runs(*region_->region, first_pixel_ + rows.start(p), rows.rows(p), own);
      first_run[p + 1] = first_run[p] + run_count;
      gather(own, run_count, rows.rows(p), panel_ + rows.start(p) * block_.length());
    }
    for (int64_t t = first_panel_; t < first_panel_ + panels_; ++t) {
      const int64_t channel = t * kColumns, columns = std::min(kColumns, job_.rows - channel);
      const A* weight = weight_panel(channel);
      if (job_.shape.packs_own_weight) {
        weight_.pack_panel(*region_, block_, group_, channel, kColumns, own_weight_);
        weight = own_weight_;
      }
      for (int64_t p = 0; p < rows.count; ++p) {
        const PixelRun* own = runs + first_run[p];
        const int run_count = first_run[p + 1] - first_run[p];
        if (job_.shape.packs_own_weight)
          weight_.prefetch_rows(*region_, block_, group_, channel + kColumns, p * kColumns / rows.count,
                                (p + 1) * kColumns / rows.count);
        int64_t distance = 0;
        T* direct = columns == kColumns ? contiguous_channels(own, run_count, rows.rows(p), &distance) : nullptr;
        A* partial = partial_of((t - first_panel_) * kColumns * pixels_ + rows.start(p) * kColumns);
        multiply_and_store({rows.rows(p), channel, columns, panel_ + rows.start(p) * block_.length(), weight, direct,
                            distance, partial, own, run_count});
      }
    }
  }

  struct TileJob {
    int64_t rows;     // of the tile
    int64_t channel;  // first result channel of the tile in its group
    int64_t columns;  // valid columns, where they are channels
    const A* a;
    const A* b;
    T* direct;                // the result, where the tile can be written in place; else null
    int64_t direct_distance;  // between rows of the tile there
    A* partial;
    const PixelRun* runs;
    int run_count;
  };

  void multiply_and_store(const TileJob& tile) {
    const A* bias = job_.epilogue.bias
                        ? static_cast<const A*>(job_.packed_bias) + group_ * job_.bias_channels() + tile.channel
                        : nullptr;
    TileStart start = TileStart::kPartialSum;
    if (first_block_) {
      start = !bias ? TileStart::kZero : job_.shape.pixels_are_rows ? TileStart::kColumnBias : TileStart::kRowBias;
    }
    if constexpr (std::is_same_v<T, A>) {
      if (tile.direct && epilogue_.is_clamp()) {
        T* c = place_of(tile);
        TileCall<A> call{block_.length(), tile.a, tile.b, c, tile.direct_distance, start, bias};
        if (last_block_ && !epilogue_.is_bias()) {
          call.clamp = &epilogue_.clamp();
          if (epilogue_.has_residual()) call.residual = prefetched(epilogue_.residual_of(c), tile);
        }
        return multiply<A, false, Product>(tile.rows, call);
      }
    }
    multiply<A, false, Product>(tile.rows, {block_.length(), tile.a, tile.b, tile.partial, kColumns, start, bias});
    if (!last_block_) return;
    if (tile.direct)
      return epilogue_.write({place_of(tile), tile.direct_distance, 1, tile.partial, kColumns, 1, tile.rows, kColumns});
    if (!epilogue_.is_bias()) finish_partial(tile);
    const auto store = [](T* to, int64_t to_step, const A* from, int64_t from_step, int64_t n) {
      store_line(to, to_step, from, from_step, n);
    };
    if (!job_.shape.pixels_are_rows || job_.result_strides.channel == 1)
      return for_each_line(tile, place_in(tile), store);
    A turned[kTileRows * kColumns];  // whole lines of pixels are written faster
    const A* rows[kTileRows];
    for (int64_t i = 0; i < tile.rows; ++i) rows[i] = tile.partial + i * kColumns;
    transpose_rows(rows, static_cast<int>(tile.rows), tile.columns, turned);
    for_each_line(tile, {turned, 1, tile.rows}, store);
  }

  // The place of a tile's partial sums. One that its first block completes leaves it at once: all such share one in L1.
  A* partial_of(int64_t offset) const { return partial_ + (first_block_ && last_block_ ? 0 : offset); }

  const A* weight_panel(int64_t start) const { return weight_.panel_at(*region_, block_, group_, start); }

  // Packs `width` pixels of the current block as a panel [term][pixel].
  void gather(const PixelRun* runs, int run_count, int64_t width, A* to) {
    const Reduction& reduction = region_->reduction;
    const int64_t channel_step = reduction.channel_step(block_) * width, tap_step = reduction.tap_step(block_) * width;
    if (block_.length() == 0) return;
    if constexpr (Product::kTerms == 2) return gather_pairs(runs, run_count, width, {to, channel_step, tap_step});
    if constexpr (std::is_same_v<T, A>) {
      if (!reduction.channels_inner) return gather_vectors<A>(image_, block_, runs, run_count, width, to);
    }
    if (!reduction.channels_inner || job_.source_strides.channel != 1 || job_.depth < kLanes<A> / 2 ||
        region_->region->folded())
      return gather_pixelwise<T, A>(image_, block_, runs, run_count, width, {to, channel_step, tap_step});
    const A* rows[kColumns];
    const int used = runs[run_count - 1].column + runs[run_count - 1].len;
    for (int64_t t = 0; t < block_.taps; ++t) {
      channel_rows<T, A>(image_, block_, t, runs, run_count, kZeros<A>, widened_, rows);
      std::fill(rows + used, rows + width, kZeros<A>);
      transpose_rows(rows, static_cast<int>(width), block_.channels, to + t * tap_step);
    }
  }

  // `gather` of pairs of channels.
  void gather_pairs(const PixelRun* runs, int run_count, int64_t width, const RowTarget<A>& target) {
    if (!region_->reduction.channels_inner || job_.source_strides.channel != 1 || job_.depth < kLanes<A> ||
        job_.depth % 2 != 0)
      return gather_pairs_pixelwise<T, A>(image_, job_.depth, block_, runs, run_count, width, target);
    const A* rows[kColumns];
    const int used = runs[run_count - 1].column + runs[run_count - 1].len;
    for (int64_t t = 0; t < block_.taps; ++t) {
      channel_pair_rows<T, A>(image_, block_, t, runs, run_count, kZeros<A>, rows);
      std::fill(rows + used, rows + width, kZeros<A>);
      transpose_rows(rows, static_cast<int>(width), block_.channels, target.to + t * target.tap_step);
    }
  }

  // Offset of the first result pixel of a run, without its channel.
  int64_t result_offset(const PixelRun& run) const {
    const GatherAxis* g = region_->region->axis;
    int64_t offset = run.n * job_.result_strides.outer;
    for (int i = 0; i < kSpatialAxes; ++i)
      offset += (g[i].out0 + run.q[i] * g[i].out_step) * job_.result_strides.axis[i];
    return offset;
  }
  int64_t result_step() const { return region_->region->axis[2].out_step * job_.result_strides.axis[2]; }
  T* result() const { return static_cast<T*>(job_.result) + group_ * job_.rows * job_.result_strides.channel; }

  // The result of a tile's pixels where they lie at one distance from each other, else null.
  T* evenly_spaced(const PixelRun* runs, int run_count, int64_t distance) const {
    const int64_t first = result_offset(runs[0]);
    for (int i = 0; i < run_count; ++i) {
      if (runs[i].len > 1 && result_step() != distance) return nullptr;
      if (result_offset(runs[i]) != first + runs[i].column * distance) return nullptr;
    }
    return result() + first;
  }
  T* contiguous_columns(const PixelRun* runs, int run_count, int64_t count) const {
    return count == kColumns ? evenly_spaced(runs, run_count, 1) : nullptr;
  }
  T* contiguous_channels(const PixelRun* runs, int run_count, int64_t count, int64_t* distance) const {
    if (job_.result_strides.channel != 1) return nullptr;
    *distance = runs[0].len > 1 || count == 1 ? result_step() : result_offset(runs[1]) - result_offset(runs[0]);
    return evenly_spaced(runs, run_count, *distance);
  }

  // The residual of a tile, on its way to the cache while the tile is multiplied.
  static const A* prefetched(const A* residual, const TileJob& tile) {
    for (int64_t i = 0; i < tile.rows; ++i)
      for (int64_t j = 0; j < kColumns; j += 64 / sizeof(A))
        __builtin_prefetch(residual + i * tile.direct_distance + j);
    return residual;
  }

  // Where in the result a tile stands that can be written in place.
  T* place_of(const TileJob& tile) const { return tile.direct + tile.channel * job_.result_strides.channel; }

  [[gnu::noinline]] void finish_partial(const TileJob& tile) const {
    if (epilogue_.has_residual())
      for_each_line(tile, place_in(tile), [&](const T* to, int64_t to_step, A* from, int64_t from_step, int64_t n) {
        epilogue_.add_residuals(from, from_step, to, to_step, n);
      });
    epilogue_.activate_rows(tile.partial, kColumns, tile.rows, kColumns);
  }

  // A tile's sums in scratch memory.
  struct TileSums {
    A* data;
    int64_t pixel_step, channel_step;
  };
  TileSums place_in(const TileJob& tile) const {
    return job_.shape.pixels_are_rows ? TileSums{tile.partial, kColumns, 1} : TileSums{tile.partial, 1, kColumns};
  }

  // Visits the lines of a tile of sums: where in the result they go, and where they are.
  template <class Visit>
  void for_each_line(const TileJob& tile, const TileSums& sums, Visit visit) const {
    const auto [data, pixel_step, channel_step] = sums;
    const int64_t channels = job_.shape.pixels_are_rows ? tile.columns : tile.rows;
    const int64_t distance = job_.result_strides.channel;
    for (int i = 0; i < tile.run_count; ++i) {
      const PixelRun& run = tile.runs[i];
      T* to = result() + result_offset(run) + tile.channel * distance;
      A* from = data + run.column * pixel_step;
      if (distance == 1) {
        for (int64_t j = 0; j < run.len; ++j)
          visit(to + j * result_step(), 1, from + j * pixel_step, channel_step, channels);
      } else {
        for (int64_t c = 0; c < channels; ++c)
          visit(to + c * distance, result_step(), from + c * channel_step, pixel_step, run.len);
      }
    }
  }

  const ConvJob& job_;
  const EpilogueOf<T, A> epilogue_;
  WeightPacker<T, A, Product> weight_;
  const RegionJob* region_;
  int64_t group_, first_pixel_, pixels_, first_panel_, panels_;
  ImageReader<T> image_;
  A* panel_;
  A* partial_;
  A* widened_;
  A* own_weight_;
  Block block_{};
  bool first_block_ = true, last_block_ = true;
};
