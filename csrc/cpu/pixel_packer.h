// The image side of packed products: pixels of a reduction block as panels. Include only from engine.inl.h.
//
//   image[n][c][y][x], any strides     ->     panel [term (channel, tap)][pixel]
//                                              of pairs [(pair of channels, tap) or pair of terms][pixel][2]
//
// Where the pixels of a channel follow each other a term's row is read by vectors; where the channels of a pixel do,
// its rows are read by vectors and turned; otherwise it is pixel by pixel. What a single tap reads may stay in place.
#pragma once

template <class T, class A, class Product>
class PixelPacker {
 public:
  PixelPacker() = default;
  // `widened`: room for the rows of a tile in the type of the sums, or for twice as many of pairs, and a vector.
  PixelPacker(const ConvJob& job, const RegionJob& region, int64_t group, A* widened)
      : job_(&job),
        region_(&region),
        image_{static_cast<const T*>(job.source) + group * job.depth * job.source_strides.channel, job.source_strides,
               region.region, job.source_mode, job.problem},
        widened_(widened),
        stays_in_place_(std::is_same_v<T, A> && job.shape.holds_weight && lies_in_order() && !repays_packing()) {}

  // Where a block's rows of some pixels are a panel as they lie, its rows as far apart as channels are; else null.
  // `width`: elements of each row that are read, those behind the pixels too.
  const T* where_it_lies(const Block& block, const PixelRun* runs, int run_count, int64_t width) const {
    if (!stays_in_place_ || runs[0].n != runs[run_count - 1].n) return nullptr;
    const Strides& s = image_.strides;
    int64_t first = runs[0].n * s.outer + block.channel * s.channel;
    for (int i = 0; i < kSpatialAxes; ++i) first += runs[0].q[i] * s.axis[i];
    const int64_t end = first + (block.channels - 1) * s.channel + width;
    return end <= image_elements(image_, block) ? image_.data + first : nullptr;
  }

  // Packs `width` pixels of a block.
  void pack(const Block& block, const PixelRun* runs, int run_count, int64_t width, A* to) {
    const Reduction& reduction = region_->reduction;
    const int64_t channel_step = reduction.channel_step(block) * width, tap_step = reduction.tap_step(block) * width;
    if (block.length() == 0) return;
    if constexpr (Product::kTerms == 2) return pack_pairs(block, runs, run_count, width, {to, channel_step, tap_step});
    if constexpr (std::is_same_v<T, A>) {
      if (!reduction.channels_inner || job_->zones) return gather_vectors<A>(image_, block, runs, run_count, width, to);
    }
    if (!has_channel_rows(kLanes<A> / 2) || region_->region->folded())
      return gather_pixelwise<T, A>(image_, block, runs, run_count, width, {to, channel_step, tap_step});
    const A* rows[kColumns];
    for (int64_t t = 0; t < block.taps; ++t) {
      channel_rows<T, A>(image_, block, t, runs, run_count, kZeros<A>, widened_, rows);
      turn(rows, runs, run_count, width, block.channels, to + t * tap_step);
    }
  }

 private:
  static constexpr int64_t kColumns = kTileColumns<A>;

  // Whether panels read pixels again that collide in L1 (96 channels of 64 x 64 pixels, one thread: two panels of 28
  // rows 0.20 ms where they lie, 0.25 packed; 48 rows 0.37 and 0.38, 256 2.3 and 2.0).
  bool repays_packing() const {
    constexpr int64_t kFewPanels = 2;
    return share_a_set(image_.strides.channel * static_cast<int64_t>(sizeof(T))) &&
           job_->rows > kFewPanels * job_->tile.rows;
  }

  // Whether a single tap reads the pixels of an image in the order in which they lie.
  bool lies_in_order() const {
    int64_t distance = 1;
    for (int i = kSpatialAxes; i-- > 0;) {
      const GatherAxis& g = region_->region->axis[i];
      if (g.folded || g.taps != 1 || g.step != 1 || g.off0 != 0 || g.count != g.extent) return false;
      if (g.count > 1 && image_.strides.axis[i] != distance) return false;
      distance *= g.count;
    }
    return true;
  }

  // The same of pairs of terms.
  void pack_pairs(const Block& block, const PixelRun* runs, int run_count, int64_t width, const RowTarget<A>& target) {
    const bool even = job_->depth % 2 == 0;
    if (has_channel_rows(kLanes<A>) && even) {
      const A* rows[kColumns];
      for (int64_t t = 0; t < block.taps; ++t) {
        channel_pair_rows<T, A>(image_, block, t, runs, run_count, kZeros<A>, rows);
        turn(rows, runs, run_count, width, block.channels, target.to + t * target.tap_step);
      }
      return;
    }
    // The pairs of a single tap are those of channels.
    const bool neighbours = job_->shape.neighbour_pairs && block.taps > 1;
    if (neighbours || (even && run_count > 1 && !region_->reduction.channels_inner))
      return interleave_terms(block, runs, run_count, width, neighbours ? 1 : block.taps, target.to);
    gather_pairs_pixelwise<T, A>(image_, job_->depth, block, runs, run_count, width, target);
  }

  // Gathers rows of single terms in whole vectors, and pairs those `distance` apart.
  void interleave_terms(const Block& block, const PixelRun* runs, int run_count, int64_t width, int64_t distance,
                        A* to) {
    uint16_t* rows = reinterpret_cast<uint16_t*>(widened_);
    const ImageReader<uint16_t> image{reinterpret_cast<const uint16_t*>(image_.data), image_.strides, image_.region,
                                      image_.mode, image_.problem};
    const Block channels{block.tap, block.taps, 2 * block.channel, 2 * block.channels};
    if (SmallImages<Product> small; small.list(image, channels, runs, run_count)) {
      small.gather(image, channels, width, rows);
    } else {
      gather_vectors(image, channels, runs, run_count, width, rows);
    }
    for (int64_t k = 0; k < block.length(); k += distance, rows += distance * width)
      for (int64_t i = 0; i < distance; ++i, rows += width, to += width)
        interleave_row(to, rows, rows + distance * width, width);
  }

  // Whether a pixel's channels follow each other, at least so many, and a block's terms are in their order.
  bool has_channel_rows(int64_t fewest) const {
    return region_->reduction.channels_inner && job_->source_strides.channel == 1 && job_->depth >= fewest;
  }

  // Turns the pixels' rows of channels, as many as the runs have; what is left of `width` is zeros.
  static void turn(const A** rows, const PixelRun* runs, int run_count, int64_t width, int64_t channels, A* to) {
    const int used = runs[run_count - 1].column + runs[run_count - 1].len;
    std::fill(rows + used, rows + width, kZeros<A>);
    transpose_rows(rows, static_cast<int>(width), channels, to);
  }

  const ConvJob* job_ = nullptr;
  const RegionJob* region_ = nullptr;
  ImageReader<T> image_{};
  A* widened_ = nullptr;
  bool stays_in_place_ = false;
};
