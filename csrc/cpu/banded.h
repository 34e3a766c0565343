// fprop and dgrad on staged bands (indirect GEMM): for few result channels, where packing a panel for every tap would
// cost more than multiplying it. Include only from engine.inl.h.
//
//   for each unit (region, image, group, band of result rows):                in parallel, disjoint results
//     for each reduction block (some channels, all taps of a depth or of all):
//       stage the channels' rows of the band, unless they still are           band.h; L2
//       for each 32 columns f of the band, each A panel: multiply_tile with B row (channel, tap) read from
//         stage + offset(channel, tap) + f                                    no im2col, not even a panel
//     (what a single tap reads is not staged but read where it lies, if it lies in one piece)
//     copy the band's columns to the result, leaving out what lies between its rows
//
//   a channel's stage, rows of 4 pixels      0 a b c d 0 e f g h 0 i ..     what tap (0, 0) multiplies begins at 0,
//   and what pads them, one run              ^ ^         ^                  that of (0, 1) at a, that of (1, 1) at e:
//                                        (0,0) (0,1)     (1,1)              three constant offsets, whatever f is
//
// Blocks and their order are those of the packed algorithm on NCHW images, so both give the same bits, but for kernels
// with a depth and a single tap over large planes (BandedRegion), and for pairs of neighbouring terms (line_plan.h).
#pragma once

template <class T, class A, class Product>
class BandedConv {
 public:
  // `offsets` has room for kReductionBlock numbers.
  BandedConv(const ConvJob& job, int64_t* offsets, A* workspace)
      : job_(job), epilogue_(job), weight_{job}, offset_(offsets), workspace_(workspace) {}

  void run(int64_t index) {
    const RegionJob* r = job_.wave.data();
    while (r + 1 < job_.wave.data() + job_.wave.size() && (r + 1)->first_unit <= index) ++r;
    if (r != region_) enter(r);
    const GatherAxis* g = r->region->axis;
    const Band& band = plan_.band;
    int64_t local = index - r->first_unit;
    const int64_t across = band.column_bands(*r->region), down = band.row_bands(*r->region);
    // Where stages are kept the planes of a band follow each other, otherwise the bands of a plane.
    const bool keeps = plan_.stages > 1;
    int64_t qd = 0;
    const auto take_plane = [&] { qd = local % g[0].count, local /= g[0].count; };
    if (keeps) take_plane();
    const int64_t column = local;  // of bands, one behind the other
    const int64_t qw = local % across * band.columns;
    local /= across;
    const int64_t qh = local % down * band.rows;
    local /= down;
    if (!keeps) take_plane();
    const int64_t group = local % job_.problem->groups, n = local / job_.problem->groups;
    const int64_t rows = std::min(band.rows, g[1].count - qh), columns = std::min(band.columns, g[2].count - qw);

    const Reduction& reduction = plan_.reduction;
    bool started = false;
    for (int64_t b = 0; b < reduction.blocks(); ++b) {
      Block block = reduction.block(b);
      int64_t source_plane = 0;
      if (by_plane_) {
        GatherAxis& plane = plan_.plane.axis[0];
        plane.off0 = tap_offset(g[0], block.tap / block.taps);
        source_plane = padded_source(job_.source_mode, qd * plane.step + plane.off0, plane.extent);
        if (source_plane < 0) {
          if (started || b + 1 < reduction.blocks()) continue;
          block.channels = 0;  // nothing but the bias
        }
      }
      const ImageReader<T> image{
          static_cast<const T*>(job_.source) +
              (group * job_.depth + block.channel * Product::kTerms) * job_.source_strides.channel,
          job_.source_strides, &plan_.plane, job_.source_mode, job_.problem};
      const A* source = where_it_lies(image, block, n, {qd, qh, qw}, rows, columns);
      const bool in_place = source != nullptr;
      if (plan_.plane.taps() == 1)
        for (int64_t c = 0; c < block.channels; ++c)
          offset_[c] = c * (source ? image.strides.channel : plan_.channel_distance);
      if (!source) {
        const int64_t place = keeps && block.length() > 0 ? place_of(b, g[0].taps, source_plane) : 0,
                      content = column * g[0].extent + source_plane;
        A* stage = stage_ + place * plan_.stage_size();
        source = stage;
        if (block.length() > 0 && !(keeps && std::exchange(staged_[place], content) == content))
          BandStager<T, A, Product>(image, band, job_.depth - block.channel * Product::kTerms, plan_.channel_distance)
              .fill(n, block.channels, qd, qh, qw, stage);
      }
      multiply_block(block, !started, group, source, rows, columns, in_place);
      started = true;
    }
    store_band(group, n, {qd, qh, qw}, rows, columns);
  }

 private:
  static constexpr int64_t kColumns = kTileColumns<A>;
  static constexpr int64_t kTilesAhead = 4;

  void enter(const RegionJob* r) {
    region_ = r;
    const Region& region = *r->region;
    plan_ = BandedRegion(region, job_.rows, job_.panel_depth, sizeof(A), !std::is_same_v<T, A>, job_.band_rows,
                         job_.source_mode == PaddingMode::kZeros);
    by_plane_ = plan_.by_plane(region);
    std::fill_n(staged_, kMostKeptStages, -1);
    stage_ = workspace_;
    partial_ = stage_ + plan_.stage_elements();
    int64_t i = 0;
    for (int64_t c = 0; c < plan_.reduction.channel_chunk; ++c)
      for (int64_t t = 0; t < plan_.plane.taps(); ++t) {
        const Tap tap = tap_at(plan_.plane, t);
        offset_[i++] = c * plan_.channel_distance + plan_.band.offset(plan_.plane, 0, tap.t[0], tap.t[1], tap.t[2]);
      }
  }

  // Which of the kept stages holds a source plane of block b's channels.
  int64_t place_of(int64_t b, int64_t depth_taps, int64_t source_plane) const {
    const int64_t chunks = plan_.reduction.blocks() / depth_taps;
    return source_plane % depth_taps * chunks + b % chunks;
  }

  // The band's first pixel in the image, if a single tap reads its pixels, which follow each other, as they are; else
  // null. The last vectors of a band read what follows it, which the image's end does not have.
  const A* where_it_lies(const ImageReader<T>& image, const Block& block, int64_t n, const int64_t (&q)[kSpatialAxes],
                         int64_t rows, int64_t columns) const {
    if constexpr (std::is_same_v<T, A> && Product::kTerms == 1) {
      const Band& band = plan_.band;
      const Strides& s = image.strides;
      if (image.region->taps() != 1 || s.axis[2] != 1 || (rows > 1 && s.axis[1] != band.pitch)) return nullptr;
      // Several panels read a tile again.
      const bool collide = share_a_set(s.channel * static_cast<int64_t>(sizeof(A)));
      if (collide && block.channels > kStreams && job_.rows > job_.tile.rows) return nullptr;
      const GatherAxis& depth = image.region->axis[0];
      const int64_t plane = padded_source(job_.source_mode, q[0] * depth.step + depth.off0, depth.extent);
      if (plane < 0) return nullptr;
      int64_t first = n * s.outer + plane * s.axis[0];
      int64_t end =
          (job_.problem->batch - 1) * s.outer + (depth.extent - 1) * s.axis[0] + (block.channels - 1) * s.channel;
      for (int i = 1; i < kSpatialAxes; ++i) {
        const GatherAxis& g = image.region->axis[i];
        end += (g.extent - 1) * s.axis[i];
        if (g.step != 1 || g.off0 != 0 || g.count != g.extent) return nullptr;
        first += q[i] * s.axis[i];
      }
      const int64_t last = first + (block.channels - 1) * s.channel + round_up(band.length(rows, columns), kColumns);
      return last <= end + 1 ? image.data + first : nullptr;
    }
    return nullptr;
  }

  // Tiles are cut from the band as from one long row, or, where that multiplies fewer vectors, made of whole vectors of
  // its rows: those of rows of 16 pixels from two rows.
  void multiply_block(const Block& block, bool first, int64_t group, const A* source, int64_t rows, int64_t columns,
                      bool in_place) const {
    constexpr int64_t W = kLanes<A>;
    const Panels panels(job_.rows, job_.tile.rows);
    const A* bias =
        job_.epilogue.bias ? static_cast<const A*>(job_.packed_bias) + group * job_.bias_channels() : nullptr;
    const TileStart start = !first ? TileStart::kPartialSum : bias ? TileStart::kRowBias : TileStart::kZero;
    // Tiles of all result channels at column f of the band, of which so many are wanted; its vectors stand `apart`.
    const auto multiply_at = [&](int64_t f, int64_t wanted, int64_t apart) {
      for (int64_t p = 0; p < panels.count; ++p) {
        const int64_t row = panels.start(p);
        TileCall<A> call{block.length(),
                         weight_.panel_at(*region_, block, group, row),
                         source + f,
                         partial_ + row * plan_.distance + f,
                         plan_.distance,
                         start,
                         bias + (bias ? row : 0),
                         offset_};
        call.apart = apart;
        multiply_staged<A, Product>(panels.rows(p), wanted, call);
      }
    };
    const int64_t pitch = plan_.band.pitch, length = plan_.band.length(rows, columns), across = columns / W;
    const int64_t vectors = rows * across;
    if (columns % W != 0 || vectors >= divide_up(length, W)) {
      const int64_t width = panels.rows(0) <= kWideRows ? kWideVectors * W : kColumns;
      for (int64_t f = 0; f < length; f += width) {
        if (in_place) prefetch(source + f + kTilesAhead * width, block.length(), width);
        multiply_at(f, std::min(width, length - f), W);
      }
      return;
    }
    static_assert(kVectors == 2);
    int64_t f = 0, left = across;  // the next vector, and how many its row has from it on
    const auto take = [&] {
      const int64_t taken = f;
      f += --left > 0 ? W : pitch - (across - 1) * W;
      if (left == 0) left = across;
      return taken;
    };
    for (int64_t i = 0; i < vectors; i += kVectors) {
      const int64_t first_vector = take();
      if (i + 1 == vectors) {
        multiply_at(first_vector, W, W);
      } else {
        multiply_at(first_vector, kColumns, take() - first_vector);
      }
    }
  }

  // Asks for what a later tile reads where it lies: a piece of each channel, in pages of their own.
  void prefetch(const A* source, int64_t terms, int64_t width) const {
    constexpr int64_t kLine = 64 / sizeof(A);
    for (int64_t k = 0; k < terms; ++k)
      for (int64_t j = 0; j < width; j += kLine) __builtin_prefetch(source + offset_[k] + j);
  }

  void store_band(int64_t group, int64_t n, const int64_t (&q)[kSpatialAxes], int64_t rows, int64_t columns) const {
    const GatherAxis* g = region_->region->axis;
    const Strides& s = job_.result_strides;
    T* band = static_cast<T*>(job_.result) + n * s.outer + group * job_.rows * s.channel;
    for (int i = 0; i < kSpatialAxes; ++i) band += (g[i].out0 + q[i] * g[i].out_step) * s.axis[i];
    const int64_t step = g[2].out_step * s.axis[2];
    const int64_t row_step = g[1].out_step * s.axis[1], pitch = plan_.band.pitch;
    if (!epilogue_.is_bias()) {
      for (int64_t m = 0; m < job_.rows; ++m)
        epilogue_.write({band + m * s.channel, row_step, step, partial_ + m * plan_.distance, pitch, 1, rows, columns});
      return;
    }
    for (int64_t m = 0; m < job_.rows; ++m)
      for (int64_t i = 0; i < rows; ++i) {
        T* to = band + m * s.channel + i * row_step;
        const A* from = partial_ + m * plan_.distance + i * pitch;
        if constexpr (std::is_same_v<T, A>) {
          if (step == 1) {
            copy_row(to, from, columns);
            continue;
          }
        }
        store_line(to, step, from, 1, columns);
      }
  }

  const ConvJob& job_;
  const EpilogueOf<T, A> epilogue_;
  WeightPacker<T, A, Product> weight_;
  int64_t* offset_;
  A* workspace_;
  const RegionJob* region_ = nullptr;
  BandedRegion plan_;
  bool by_plane_ = false;
  A* stage_ = nullptr;
  int64_t staged_[kMostKeptStages];  // what a kept stage holds: a band and a plane of the source
  A* partial_ = nullptr;
};
