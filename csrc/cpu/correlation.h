// wgrad as inner products of rows: no image is transposed. Include only from engine.inl.h.
//
//   result[k, (c, t)] = sum over f of grad[k][f] * stage[c][offset(t) + f]
//
// where f runs over bands of result rows (band.h), so that short rows fill vectors too, and every tap is a constant
// offset into one staged copy of the image. A tile's sums stay in registers, a vector of lanes each:
//
//                       stage[c][offset(t) + f .. f + W)
//                   tap 0   tap 1   ...  tap NR-1
//   grad[k  ][f..]  sum     sum           sum       One step of f: MR + NR loads and MR * NR fused multiply-adds;
//   grad[k+1][f..]  sum     sum           sum       AVX-512 (32 registers): 4 x 6, so that the loads (half of them
//   ..   MR rows    sum     sum           sum       across a cache line) take eight cycles and the FMAs twelve.
//
// A lane multiplies a position, or two neighbours where the level has dot products: rows of bfloat16 are pairs as they
// lie. f runs over a chunk of bands (of one image, or of several) before the lanes are added up, pairwise, and join the
// result. A 1x1 layer of stride one needs no stage: images whose pixels are dense are read where they lie, but for the
// ends of bands that fill no vector. Bands and chunks follow from the shape alone, and neither the tile nor the block
// enters the arithmetic, so that threads do not change a bit.
#pragma once

// Sums in flight, and most taps of a tile for so many filters.
inline constexpr int kCorrelationSums = kVectorBytes == 64 ? 24 : 8;
inline constexpr int kCorrelationRows = kVectorBytes == 64 ? 4 : 2;
constexpr int correlation_columns(int rows) { return std::min(kMostInFlight, kCorrelationSums / rows); }

// A stretch of positions, in whole vectors, at constant distances: a band, or the part of one. S: a staged element.
template <class S>
struct CorrelationSegment {
  const S* grad;
  int64_t grad_distance;  // between filters
  const S* source;
  const int64_t* offset;  // of each (channel, tap) of the block
  int64_t length;
};

template <class A, class S>
struct CorrelationTile {
  const CorrelationSegment<S>* segments;
  int64_t segment_count;
  int64_t row, column;  // first filter and (channel, tap) of the block
  A* to;
  int64_t distance;  // between filters
  bool add;          // to what stands there
};

// Lane i of the result is the sum of the lanes of v[i], pairwise: a fixed order.
template <class A>
inline Vector<A> sum_of_lanes(Vector<A> (&v)[kLanes<A>]) {
#pragma GCC unroll 4
  for (int half = kLanes<A> / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) v[i] = interleave_low<A>(v[i], v[i + half]) + interleave_high<A>(v[i], v[i + half]);
  return v[0];
}

// A vector of staged elements, as the product takes it: a lane each, or pairs of neighbours.
template <class A, class S>
inline Vector<A> load_staged(const S* from) {
  return load(reinterpret_cast<const A*>(from));
}

template <class A, class S, class Product, int MR, int NR>
void correlate_tile(const CorrelationTile<A, S>& tile) {
  constexpr int W = kLanes<A>, kVectorsOfSums = (MR * NR + W - 1) / W;
  Vector<A> sum[kVectorsOfSums * W] = {};  // filter i and tap j at i * NR + j
  for (int64_t s = 0; s < tile.segment_count; ++s) {
    const CorrelationSegment<S> segment = tile.segments[s];
    const S* grad = segment.grad + tile.row * segment.grad_distance;
    const S* from[NR];
#pragma GCC unroll 8
    for (int j = 0; j < NR; ++j) from[j] = segment.source + segment.offset[tile.column + j];
    for (int64_t f = 0; f < segment.length; f += kLanes<S>) {
      Vector<A> g[MR];
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) g[i] = load_staged<A>(grad + i * segment.grad_distance + f);
#pragma GCC unroll 8
      for (int j = 0; j < NR; ++j) {
        const Vector<A> x = load_staged<A>(from[j] + f);
#pragma GCC unroll 4
        for (int i = 0; i < MR; ++i) sum[i * NR + j] = Product::add(sum[i * NR + j], g[i], x);
      }
    }
  }
  alignas(kVectorBytes) A total[kVectorsOfSums * W];
#pragma GCC unroll 8
  for (int part = 0; part < kVectorsOfSums; ++part) {
    Vector<A> lanes[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) lanes[i] = sum[part * W + i];
    store(total + part * W, sum_of_lanes<A>(lanes));
  }
  for (int i = 0; i < MR; ++i) {
    A* to = tile.to + i * tile.distance;
    for (int j = 0; j < NR; ++j) to[j] = tile.add ? to[j] + total[i * NR + j] : total[i * NR + j];
  }
}

template <class A, class S>
using CorrelationFunction = void (*)(const CorrelationTile<A, S>&);

template <class A, class S, class Product, int MR, std::size_t... J>
constexpr std::array<CorrelationFunction<A, S>, kMostInFlight> correlation_row(std::index_sequence<J...>) {
  return {&correlate_tile<A, S, Product, MR, static_cast<int>(J) + 1>...};
}
template <class A, class S, class Product, std::size_t... I>
constexpr auto correlation_functions(std::index_sequence<I...>) {
  return std::array{correlation_row<A, S, Product, static_cast<int>(I) + 1>(
      std::make_index_sequence<static_cast<std::size_t>(correlation_columns(static_cast<int>(I) + 1))>{})...};
}
// kCorrelate<A, S, Product>[filters - 1][taps - 1]
template <class A, class S, class Product>
inline constexpr auto kCorrelate = correlation_functions<A, S, Product>(std::make_index_sequence<kCorrelationRows>{});

// One unit: a block of filters and channels of a group, over one slice of the chunks.
template <class T, class A, class Product>
class CorrelationWgrad {
  static constexpr bool kPairs = Product::kTerms == 2;
  // Pairs are neighbours in memory, so they are staged as the bits they are.
  using Element = std::conditional_t<kPairs, uint16_t, T>;
  using Staged = std::conditional_t<kPairs, uint16_t, A>;
  static constexpr int W = kLanes<Staged>;
  static constexpr StagedElement kStaged{sizeof(Staged), Product::kTerms};

 public:
  CorrelationWgrad(const WgradJob& job, std::byte* workspace)
      : job_(job),
        p_(*job.problem),
        region_(job.source_region),
        bands_(region_, p_.batch, kStaged),
        taps_(region_.taps()),
        in_place_(reads_in_place()) {
    const CorrelationWorkspace sizes(bands_, job.shape, taps_, kStaged);
    offset_ = reinterpret_cast<int64_t*>(workspace);
    tail_offset_ = offset_ + job.shape.channels * taps_;
    stage_ = reinterpret_cast<Staged*>(workspace + sizes.offset_bytes());
    grad_ = stage_ + sizes.stage;
    for (int64_t c = 0; c < job.shape.channels; ++c)
      for (int64_t t = 0; t < taps_; ++t) {
        const Tap tap = tap_at(region_, t);
        offset_[c * taps_ + t] =
            in_place_ ? c * job.source_strides.channel
                      : c * bands_.channel_size + bands_.band.offset(region_, 0, tap.t[0], tap.t[1], tap.t[2]);
        tail_offset_[c * taps_ + t] = c * W;
      }
  }

  void run(int64_t unit) {
    const Panels channels = job_.channel_blocks(), filters = job_.filter_blocks();
    const int64_t channel_block = unit % channels.count;
    unit /= channels.count;
    const int64_t filter_block = unit % filters.count;
    unit /= filters.count;
    group_ = unit % p_.groups;
    const int64_t slice = unit / p_.groups;
    first_filter_ = filters.start(filter_block), filters_ = filters.rows(filter_block);
    first_channel_ = channels.start(channel_block), channels_ = channels.rows(channel_block);
    const int64_t row = group_ * p_.out_channels + first_filter_, column = first_channel_ * taps_;
    if (job_.in_place) {
      to_ = static_cast<A*>(job_.result) + row * job_.result_strides.outer + column;
      distance_ = job_.result_strides.outer;
    } else {
      distance_ = job_.columns();
      to_ = static_cast<A*>(job_.partial) + (slice * p_.groups * p_.out_channels + row) * distance_ + column;
    }
    const int64_t chunks = bands_.chunks(p_.batch), begin = slice * chunks / job_.slices;
    const int64_t end = (slice + 1) * chunks / job_.slices;
    if (begin == end)
      for (int64_t i = 0; i < filters_; ++i) std::fill_n(to_ + i * distance_, channels_ * taps_, A{0});
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      segment_count_ = 0;
      const int64_t last = std::min((chunk + 1) * bands_.in_chunk, p_.batch * bands_.in_image);
      for (int64_t band = chunk * bands_.in_chunk; band < last; ++band) add_band(band, band - chunk * bands_.in_chunk);
      multiply_block(chunk > begin);
    }
  }

 private:
  // Whether a band's positions follow each other in both images, under the only tap.
  bool reads_in_place() const {
    if (!std::is_same_v<Element, Staged> || taps_ != 1) return false;
    const Strides *g = &job_.grad_strides, *s = &job_.source_strides;
    int64_t distance = 1;
    for (int i = kSpatialAxes; i-- > 0; distance *= region_.axis[i].count) {
      const GatherAxis& axis = region_.axis[i];
      if (axis.step != 1 || axis.off0 != 0 || axis.count != axis.extent) return false;
      if (axis.count > 1 && (g->axis[i] != distance || s->axis[i] != distance)) return false;
    }
    return true;
  }

  // Lists the segments of a band, the `place`-th of its chunk; stages what is not read in place.
  void add_band(int64_t index, int64_t place) {
    const Band& band = bands_.band;
    const GatherAxis* g = region_.axis;
    const int64_t column_bands = band.column_bands(region_), row_bands = band.row_bands(region_);
    const int64_t qw = index % column_bands * band.columns;
    index /= column_bands;
    const int64_t qh = index % row_bands * band.rows;
    index /= row_bands;
    const int64_t qd = index % g[0].count, n = index / g[0].count;
    const int64_t rows = std::min(band.rows, g[1].count - qh), columns = std::min(band.columns, g[2].count - qw);
    const Strides &gs = job_.grad_strides, &ss = job_.source_strides;
    const Element* grad = static_cast<const Element*>(job_.grad) +
                          (group_ * p_.out_channels + first_filter_) * gs.channel + n * gs.outer + qd * gs.axis[0] +
                          qh * gs.axis[1] + qw * gs.axis[2];
    const Element* source = static_cast<const Element*>(job_.source) +
                            (group_ * p_.in_channels + first_channel_) * ss.channel + n * ss.outer;
    if constexpr (std::is_same_v<Element, Staged>) {
      if (in_place_) {
        source += qd * ss.axis[0] + qh * ss.axis[1] + qw * ss.axis[2];
        return read_in_place(grad, source, rows * columns, place);
      }
    }
    Staged* grad_to = grad_ + place * filters_ * bands_.length;
    const int64_t length = round_up(band.length(rows, columns), W);
    for (int64_t k = 0; k < filters_; ++k)
      stage_grad(grad + k * gs.channel, rows, columns, length, grad_to + k * bands_.length);
    Staged* stage = stage_ + place * channels_ * bands_.channel_size;
    for (int64_t c = 0; c < channels_; ++c) {
      Staged* to = stage + c * bands_.channel_size;
      const ImageReader<Element> image{source + c * ss.channel - n * ss.outer, ss, &region_, p_.mode, &p_};
      BandStager<Element, Staged>(image, band, 1).fill(n, 1, qd, qh, qw, to);
      std::fill(to + band.channel_size, to + bands_.channel_size, Staged{0});
    }
    segments_[segment_count_++] = {grad_to, bands_.length, stage, offset_, length};
  }

  // A filter's rows of a band in the layout of the flat result, with zeros where a row ends.
  void stage_grad(const Element* from, int64_t rows, int64_t columns, int64_t length, Staged* to) const {
    const int64_t pitch = bands_.band.pitch, step = job_.grad_strides.axis[2];
    if (pitch != columns || length != rows * pitch)
      for (int64_t f = 0; f < length; f += W) store(to + f, Vector<Staged>{});
    for (int64_t i = 0; i < rows; ++i)
      copy_strided(to + i * pitch, from + i * job_.grad_strides.axis[1], step, columns);
  }

  // Whole vectors where they lie; of the rest a copy that ends with zeros.
  void read_in_place(const Staged* grad, const Staged* source, int64_t positions, int64_t place) {
    const int64_t whole = positions / W * W, rest = positions - whole;
    const int64_t gs = job_.grad_strides.channel, ss = job_.source_strides.channel;
    if (whole > 0) segments_[segment_count_++] = {grad, gs, source, offset_, whole};
    if (rest == 0) return;
    Staged* grad_to = grad_ + place * filters_ * W;
    Staged* stage = stage_ + place * channels_ * W;
    const auto copy_tail = [&](const Staged* from, Staged* to) {
      store(to, Vector<Staged>{});
      copy_fewer<W>(to, from + whole, rest);
    };
    for (int64_t k = 0; k < filters_; ++k) copy_tail(grad + k * gs, grad_to + k * W);
    for (int64_t c = 0; c < channels_; ++c) copy_tail(source + c * ss, stage + c * W);
    segments_[segment_count_++] = {grad_to, W, stage, tail_offset_, W};
  }

  // All tiles of the block. With several taps to a channel the filters' rows stay in L1 and a channel's stage with
  // them; with one tap those of the channels do, as fewer rows then stream from L2 for a tile.
  void multiply_block(bool add) const {
    const Panels rows(filters_, kCorrelationRows);
    const int most = correlation_columns(static_cast<int>(rows.base + (rows.extra > 0)));
    const Panels columns(channels_ * taps_, most);
    const auto multiply = [&](int64_t i, int64_t j) {
      const int64_t row = rows.start(i), column = columns.start(j);
      kCorrelate<A, Staged, Product>[rows.rows(i) - 1][columns.rows(j) - 1](
          {segments_, segment_count_, row, column, to_ + row * distance_ + column, distance_, add});
    };
    if (taps_ > 1) {
      for (int64_t i = 0; i < rows.count; ++i)
        for (int64_t j = 0; j < columns.count; ++j) multiply(i, j);
    } else {
      for (int64_t j = 0; j < columns.count; ++j)
        for (int64_t i = 0; i < rows.count; ++i) multiply(i, j);
    }
  }

  const WgradJob& job_;
  const ConvProblem& p_;
  const Region& region_;
  const CorrelationBands bands_;
  const int64_t taps_;
  const bool in_place_;
  int64_t* offset_;
  int64_t* tail_offset_;
  Staged* stage_;
  Staged* grad_;
  int64_t group_ = 0, first_filter_ = 0, filters_ = 0, first_channel_ = 0, channels_ = 0;
  A* to_ = nullptr;
  int64_t distance_ = 0;
  CorrelationSegment<Staged> segments_[2 * kChunkPositions / kMostCorrelationLanes];
  int64_t segment_count_ = 0;
};

// Adds the slices' partial results [filter][(channel, tap)] in order and writes the filter `index` of the result.
template <class T, class A>
void finish_correlation_filter(const WgradJob& job, int64_t index) {
  const ConvProblem& p = *job.problem;
  const int64_t columns = job.columns(), slice_distance = p.groups * p.out_channels * columns;
  A* sum = static_cast<A*>(job.partial) + index * columns;
  for (int64_t s = 1; s < job.slices; ++s) {
    const A* partial = sum + s * slice_distance;
    for (int64_t i = 0; i < columns; ++i) sum[i] += partial[i];
  }
  write_filter<T>(job, index, sum, 1, job.source_region.taps());
}
