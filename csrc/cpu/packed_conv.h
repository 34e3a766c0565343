// fprop and dgrad on packed panels (implicit GEMM). Include only from engine.inl.h.
//
//   for each wave of regions:
//     pack the wave's weight into panels                              shared, read by all units; not where these read
//                                                                     it as it lies (line_product.h, pairs.h)
//     for each unit (region, group, block of channels, block of pixels):     in parallel, disjoint results
//       for each reduction block (kReductionBlock terms):
//         gather the image side of the block                          L2: pixels x 256
//         for each B tile (L1), for each A panel (streamed): multiply_tile (drawn in microkernel.h)
//       or, of a single tap to few channels: copy the weight's lines  L2: channels x 256
//         for each tile of pixels, read where it lies if it can be, for each A panel: multiply_tile
//       the last block writes the result: at once, or through a tile in L1 where the result is strided, narrower
//       than the sum, or ends inside the tile
//
// NCHW puts pixels along the vector and channels along the tile's rows; channels_last, and images too small to fill
// vectors, the other way round. Both run the same loops: only which side is packed once and which per unit differs.
#pragma once

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
    enter(workspace);
  }
  ConvUnit(const ConvJob& job, const ZonePart& part, A* workspace)
      : job_(job),
        epilogue_(job),
        weight_{job},
        region_(part.zone),
        group_(part.group),
        first_pixel_(part.first_pixel),
        pixels_(part.pixels),
        first_panel_(part.first_panel),
        panels_(part.panels) {
    enter(workspace);
    partial_ += part.before * part.panels * kColumns;
  }

  void run() {
    for (int64_t b = 0; b < region_->reduction.blocks(); ++b) run_block(b);
  }

  void run_block(int64_t index) {
    block_index_ = index;
    block_ = region_->reduction.block(index);
    first_block_ = index == 0;
    last_block_ = index == region_->reduction.blocks() - 1;
    if (job_.shape.pixels_are_rows) {
      pixels_as_rows();
    } else {
      pixels_as_columns();
    }
  }

 private:
  void enter(A* workspace) {
    const ConvWorkspace sizes(job_.shape, job_.tile);
    panel_ = workspace;
    partial_ = panel_ + sizes.image;
    A* widened = partial_ + sizes.partial;
    image_ = PixelPacker<T, A, Product>(job_, *region_, group_, widened);
    own_weight_ = widened + sizes.widened;
    next_weight_ = own_weight_ + sizes.weight / 2;
  }

  static constexpr int64_t kColumns = kTileColumns<A>;
  static constexpr int64_t kMostCachedWeight = 256 << 10;
  static constexpr bool kOfSumType = std::is_same_v<T, A>, kMayReadLines = kOfSumType || Product::kTerms == 2;

  // C[channel, pixel]: the weight gives the rows, the image the columns. A block of the weight that L2 does not hold
  // beside the sums is read once, panel by panel, for all of the unit's pixels; so are the lines of one that is not
  // packed, unless the unit holds them for one tile of pixels after the other.
  void pixels_as_columns() {
    const Panels rows(job_.rows, job_.tile.rows);
    const int64_t first_row = rows.start(first_panel_);
    const int64_t unit_rows = rows.start(first_panel_ + panels_) - first_row;
    const int64_t tiles = divide_up(pixels_, kColumns), last_panel = first_panel_ + panels_;
    const bool lines = kMayReadLines && job_.shape.weight_lines, held = lines && job_.shape.holds_weight;
    const bool at_once =
        !held && (lines || unit_rows * block_.length() * static_cast<int64_t>(sizeof(A)) > kMostCachedWeight);
    PixelRun runs[kMostUnitPixels];
    int first_run[kMostUnitPixels + 1] = {0};
    const auto panel_of = [&](int64_t i) { return panel_ + (at_once ? i * kColumns * block_.length() : 0); };
    const auto count_of = [&](int64_t i) { return std::min(kColumns, pixels_ - i * kColumns); };
    const auto width_of = [&](int64_t i) { return lines && count_of(i) <= kLanes<A> ? kLanes<A> : kColumns; };
    const auto make_tile_runs = [&](int64_t i) {
      PixelRun* own = runs + first_run[i];
      const int run_count = make_runs(*region_->region, first_pixel_ + i * kColumns, count_of(i), own);
      first_run[i + 1] = first_run[i] + run_count;
      return std::pair(own, run_count);
    };
    const auto gather_tile = [&](int64_t i) {
      const auto [own, run_count] = make_tile_runs(i);
      image_.pack(block_, own, run_count, width_of(i), panel_of(i));
    };
    const auto run_tile = [&](int64_t i, int64_t p, const A* panel, LineCopy<A>* next, const A* in_place = nullptr) {
      const PixelRun* own = runs + first_run[i];
      const int run_count = first_run[i + 1] - first_run[i];
      const int64_t row = rows.start(p);
      T* direct = count_of(i) == width_of(i) ? evenly_spaced(own, run_count, 1) : nullptr;
      A* partial = partial_of(i * kColumns * unit_rows + (row - first_row) * kColumns);
      multiply_and_store({rows.rows(p), row, width_of(i), panel, in_place ? in_place : panel_of(i), direct,
                          job_.result_strides.channel, partial, own, run_count, next,
                          in_place ? job_.source_strides.channel : width_of(i)});
    };
    if constexpr (kOfSumType && Product::kTerms == 1)
      if (held) {
        const auto side_of = [&](int64_t i) {
          const auto [own, run_count] = make_tile_runs(i);
          const A* in_place = image_.where_it_lies(block_, own, run_count, width_of(i));
          if (!in_place) image_.pack(block_, own, run_count, width_of(i), panel_);
          return in_place;
        };
        if (job_.shape.lines_across) return run_held_lines<true>(tiles, side_of, run_tile);
        return run_held_lines<false>(tiles, side_of, run_tile);
      }
    if (!at_once) {
      for (int64_t i = 0; i < tiles; ++i) {
        gather_tile(i);
        for (int64_t p = first_panel_; p < last_panel; ++p) run_tile(i, p, weight_panel(rows.start(p)), nullptr);
      }
      return;
    }
    for (int64_t i = 0; i < tiles; ++i) gather_tile(i);
    if constexpr (kOfSumType)
      if (lines && job_.shape.lines_across) return run_lines<true>(tiles, run_tile);
    if constexpr (Product::kTerms == 2)
      if (lines && job_.shape.tap_lines) return run_tap_lines(rows, tiles, run_tile);
    if constexpr (kMayReadLines)
      if (lines) return run_lines<false>(tiles, run_tile);
    for (int64_t p = first_panel_; p < last_panel; ++p)
      for (int64_t i = 0; i < tiles; ++i) {
        if (p + 1 < last_panel) prefetch_part(weight_panel(rows.start(p + 1)), rows.rows(p + 1), i, tiles);
        run_tile(i, p, weight_panel(rows.start(p)), nullptr);
      }
  }

  // A panel of the weight with all tiles of pixels, panel by panel.
  template <bool kAcross, class RunTile>
  void run_lines(int64_t tiles, RunTile run_tile) {
    if (first_block_) {
      LineCopy<A> first = weight_lines().copy_of(block_, first_panel_, own_weight_, 0);
      first.template copy<kAcross>(first.left);
    }
    for (int64_t p = first_panel_; p < first_panel_ + panels_; ++p) {
      LineCopy<A> next = copy_of_next(p, tiles);
      for (int64_t i = 0; i < tiles; ++i) run_tile(i, p, own_weight_, &next);
      next.template copy<kAcross>(next.left);
      std::swap(own_weight_, next_weight_);
    }
  }

  // The same of lines of taps, which are interleaved before they are multiplied.
  template <class RunTile>
  void run_tap_lines(const Panels& rows, int64_t tiles, RunTile run_tile) {
    const T* weight = static_cast<const T*>(job_.weight);
    const T* end = weight + job_.problem->groups * job_.weight_group;
    LineCopy<A> none;
    for (int64_t p = first_panel_; p < first_panel_ + panels_; ++p) {
      const T* from = weight + group_ * job_.weight_group + 2 * block_.channel * job_.weight_depth +
                      rows.start(p) * job_.weight_row;
      pack_tap_lines<T, A>({from, job_.weight_row, job_.weight_depth, 2 * block_.channels, rows.rows(p), 0},
                           block_.taps, end, own_weight_);
      for (int64_t i = 0; i < tiles; ++i) run_tile(i, p, own_weight_, &none);
    }
  }

  // A tile of pixels, which is read where it lies or gathered by side_of, with all panels of the weight, tile by tile;
  // the first tile's products copy the panels.
  template <bool kAcross, class SideOf, class RunTile>
  void run_held_lines(int64_t tiles, SideOf side_of, RunTile run_tile) {
    const WeightLines<T, A, Product> weight = weight_lines();
    const int64_t last_panel = first_panel_ + panels_, products = divide_up(block_.length(), kLanes<A>);
    LineCopy<A> next = weight.copy_of(block_, first_panel_, own_weight_, 0);
    next.template copy<kAcross>(next.left);
    for (int64_t i = 0; i < tiles; ++i) {
      const A* in_place = side_of(i);
      A* panel = own_weight_;
      for (int64_t p = first_panel_; p < last_panel; ++p) {
        A* following = panel + weight.elements(block_, p);
        if (i == 0 && p + 1 < last_panel) next = weight.copy_of(block_, p + 1, following, products);
        run_tile(i, p, panel, &next, in_place);
        next.template copy<kAcross>(next.left);
        panel = following;
      }
    }
  }

  // What is to be copied while panel p of the current block is multiplied by so many tiles.
  LineCopy<A> copy_of_next(int64_t p, int64_t tiles) {
    const int64_t products = tiles * divide_up(block_.length(), kLanes<A>);
    if (p + 1 < first_panel_ + panels_) {
      if (p + 2 < first_panel_ + panels_) weight_lines().prefetch(block_, p + 2);
      return weight_lines().copy_of(block_, p + 1, next_weight_, products);
    }
    if (last_block_) return {};
    return weight_lines().copy_of(region_->reduction.block(block_index_ + 1), first_panel_, next_weight_, products);
  }

  WeightLines<T, A, Product> weight_lines() const { return {job_, *region_, group_}; }

  // Part i of n of a weight panel, on its way to the cache while another is multiplied.
  void prefetch_part(const A* panel, int64_t rows, int64_t i, int64_t n) const {
    const int64_t elements = rows * block_.length();
    for (int64_t k = i * elements / n; k < (i + 1) * elements / n; k += 64 / static_cast<int64_t>(sizeof(A)))
      __builtin_prefetch(panel + k);
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
      image_.pack(block_, own, run_count, rows.rows(p), panel_ + rows.start(p) * block_.length());
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
    int64_t columns;  // valid columns, where they are channels; else those that are multiplied
    const A* a;
    const A* b;
    T* direct;                // the result, where the tile can be written in place; else null
    int64_t direct_distance;  // between rows of the tile there
    A* partial;
    const PixelRun* runs;
    int run_count;
    LineCopy<A>* next = nullptr;  // where a is a panel of lines: the one that is copied meanwhile
    int64_t b_row = 0;            // and the distance between rows of b
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
      // Partial sums stay together: lines of the result may be multiples of 4 KiB apart, and each in a page of its own.
      if (last_block_ && tile.direct && epilogue_.is_clamp()) {
        T* c = place_of(tile);
        TileCall<A> call{block_.length(), tile.a, tile.b, c, tile.direct_distance, start, bias};
        call.b_row = tile.b_row;
        if (!first_block_) call.sums = tile.partial;
        if (!epilogue_.is_bias()) {
          call.clamp = &epilogue_.clamp();
          if (epilogue_.has_residual()) call.residual = prefetched(epilogue_.residual_of(c), tile);
        }
        return multiply_tile(tile, call);
      }
    }
    TileCall<A> call{block_.length(), tile.a, tile.b, tile.partial, kColumns, start, bias};
    call.b_row = tile.b_row;
    multiply_tile(tile, call);
    if (!last_block_) return;
    if (tile.direct)
      return epilogue_.write(
          {place_of(tile), tile.direct_distance, 1, tile.partial, kColumns, 1, tile.rows, tile.columns});
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

  void multiply_tile(const TileJob& tile, const TileCall<A>& call) {
    if constexpr (kOfSumType)
      if (tile.next && job_.shape.lines_across)
        return multiply_in_lines<A, Product, true>(tile.rows, tile.columns, call, call.kc, *tile.next);
    if constexpr (kMayReadLines)
      if (tile.next)
        return multiply_in_lines<A, Product, false>(tile.rows, tile.columns, call,
                                                    job_.shape.tap_lines ? block_.taps : call.kc, *tile.next);
    multiply<A, false, Product>(tile.rows, call);
  }

  // The place of a tile's partial sums. One that its first block completes leaves it at once: all such share one in L1.
  A* partial_of(int64_t offset) const { return partial_ + (first_block_ && last_block_ ? 0 : offset); }

  const A* weight_panel(int64_t start) const { return weight_.panel_at(*region_, block_, group_, start); }

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
    epilogue_.activate_rows(tile.partial, kColumns, tile.rows, job_.shape.pixels_are_rows ? kColumns : tile.columns);
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
  PixelPacker<T, A, Product> image_;
  A* panel_;
  A* partial_;
  A* own_weight_;
  A* next_weight_;
  int64_t block_index_ = 0;
  Block block_{};
  bool first_block_ = true, last_block_ = true;
};
