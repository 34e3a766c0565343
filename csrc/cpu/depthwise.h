// Depthwise convolution (one input channel a group), each result plane a filter over a staged band of its source, and
// the correlation that gives the weight's gradient of any group with few channels.
//
//   fprop, dgrad   result[f] = sum over taps of weight[tap] * stage[offset(tap) + f]      one FMA and one load a vector
//   wgrad          result[tap] = sum over f of grad[f] * stage[offset(tap) + f]
//
// where f runs over a whole band of result rows at once (band.h), so that short rows fill vectors too: 7 columns of a
// 3x3 kernel use 7 of every 9 lanes instead of 7 of 16. Sums run over at most 256 taps, or one band of pixels, before
// they are added up; the order depends on the shape alone. Include only from engine.inl.h.
#pragma once

// Fills the stage of a band that starts at result position (qd, qh, qw) of image n.
template <class T, class A>
class BandStager {
 public:
  BandStager(const ImageReader<T>& image, const Band& band) : image_(image), band_(band) {}

  void fill(int64_t n, int64_t depth, int64_t qd, int64_t qh, int64_t qw, A* stage) const {
    const GatherAxis* g = image_.region->axis;
    for (int64_t c = 0; c < depth; ++c)
      for (int64_t t = 0; t < g[0].taps; ++t) {
        const T* channel = image_.data + n * image_.strides.outer + c * image_.strides.channel;
        const int64_t d = padded_source(image_.mode, qd * g[0].step + tap_offset(g[0], t), g[0].extent);
        for (int64_t gw = 0; gw < band_.w.groups; ++gw) {
          const RowSpan span = row_span(gw, qw);
          for (int64_t gh = 0; gh < band_.h.groups; ++gh) {
            for (int64_t i = 0; i < band_.rows + band_.h.span; ++i) {
              const int64_t h = padded_source_in_reach(band_.h.source(g[1], gh, qh, i), g[1].extent);
              fill_row(d < 0 || h < 0 ? nullptr : channel + d * image_.strides.axis[0] + h * image_.strides.axis[1],
                       span, stage);
              stage += band_.pitch;
            }
          }
        }
      }
  }

 private:
  // A band's last rows may lie beyond what any window reads, further out than the padding mode is defined.
  int64_t padded_source_in_reach(int64_t x, int64_t extent) const {
    const int64_t source = padded_source(image_.mode, x, extent);
    return source < extent ? source : -1;
  }

  // What a staged row of one group holds: positions [begin, end) read source columns from x + begin * step on.
  struct RowSpan {
    int64_t x, begin, end;
  };
  RowSpan row_span(int64_t group, int64_t qw) const {
    const GatherAxis& g = image_.region->axis[2];
    const int64_t x = band_.w.source(g, group, qw, 0), begin = std::min(positions_below(x, g.step), band_.pitch);
    return {x, begin, std::max(begin, std::min(positions_below(x - g.extent, g.step), band_.pitch))};
  }

  // Zeros are stored in whole vectors: what spills over is the next row, not yet filled, or the slack after the stage.
  void fill_row(const T* row, const RowSpan& span, A* to) const {
    const GatherAxis& g = image_.region->axis[2];
    const int64_t len = band_.pitch, x = span.x, begin = span.begin, end = span.end;
    for (int64_t i = 0; i < len; i += kLanes<A>) store(to + i, Vector<A>{});
    if (!row) return;
    const int64_t step = image_.strides.axis[2];
    if (begin < end) copy_strided(to + begin, row + (x + begin * g.step) * step, g.step * step, end - begin);
    if (image_.mode == PaddingMode::kZeros) return;
    const auto pad = [&](int64_t from, int64_t last) {
      for (int64_t i = from; i < last; ++i) {
        const int64_t source = padded_source_in_reach(x + i * g.step, g.extent);
        if (source >= 0) to[i] = widen(row[source * step]);
      }
    };
    pad(0, begin);
    pad(end, len);
  }

  const ImageReader<T>& image_;
  const Band& band_;
};

// flat[f] = (add ? flat[f] : bias) + sum over taps of weight[tap] * stage[offset[tap] + f], for kCount vectors.
template <class A, int kCount>
void filter_vectors(const A* weight, const int64_t* offset, int64_t taps, A bias, const A* stage, A* flat, bool add) {
  Vector<A> sum[kCount] = {};
  for (int64_t t = 0; t < taps; ++t) {
    const A* from = stage + offset[t];
#pragma GCC unroll 8
    for (int v = 0; v < kCount; ++v) sum[v] += load(from + v * kLanes<A>) * weight[t];
  }
#pragma GCC unroll 8
  for (int v = 0; v < kCount; ++v) {
    A* to = flat + v * kLanes<A>;
    store(to, (add ? load(to) : Vector<A>{} + bias) + sum[v]);
  }
}

// Eight sums in flight hide the latency of an FMA.
inline constexpr int kMostInFlight = 8;
template <class A, std::size_t... I>
constexpr auto filter_functions(std::index_sequence<I...>) {
  return std::array{&filter_vectors<A, static_cast<int>(I) + 1>...};
}
template <class A>
inline constexpr auto kFilter = filter_functions<A>(std::make_index_sequence<kMostInFlight>{});

template <class A>
void filter_band(const A* weight, const int64_t* offset, int64_t taps, A bias, const A* stage, A* flat,
                 int64_t length) {
  const Panels vectors(divide_up(length, kLanes<A>), kMostInFlight);
  for (int64_t first = 0; first < std::max<int64_t>(taps, 1); first += kReductionBlock) {
    const int64_t count = std::min(kReductionBlock, taps - first);
    for (int64_t i = 0; i < vectors.count; ++i) {
      const int64_t f = vectors.start(i) * kLanes<A>;
      kFilter<A>[vectors.rows(i) - 1](weight + first, offset + first, count, bias, stage + f, flat + f, first > 0);
    }
  }
}

// fprop and dgrad, one unit at a time; units are counted over (region, image, group, band).
template <class T, class A>
class DepthwiseConv {
 public:
  // `offsets` has room for two numbers a tap.
  DepthwiseConv(const ConvJob& job, int64_t* offsets, A* workspace)
      : job_(job), stage_offset_(offsets), workspace_(workspace) {}

  void run(int64_t index) {
    const RegionJob* r = job_.wave.data();
    while (r + 1 < job_.wave.data() + job_.wave.size() && (r + 1)->first_unit <= index) ++r;
    if (r->region != region_) enter(r->region);
    int64_t local = index - r->first_unit;
    const int64_t across = band_.column_bands(*region_), down = band_.row_bands(*region_);
    qw_ = local % across * band_.columns, local /= across;
    qh_ = local % down * band_.rows, local /= down;
    qd_ = local % region_->axis[0].count, local /= region_->axis[0].count;
    group_ = local % job_.problem->groups;
    n_ = local / job_.problem->groups;

    const ImageReader<T> image{static_cast<const T*>(job_.source) + group_ * job_.depth * job_.source_strides.channel,
                               job_.source_strides, region_, job_.source_mode, job_.problem};
    BandStager<T, A>(image, band_).fill(n_, job_.depth, qd_, qh_, qw_, stage_);
    const int64_t rows = std::min(band_.rows, region_->axis[1].count - qh_);
    const int64_t columns = std::min(band_.columns, region_->axis[2].count - qw_);
    for (int64_t m = 0; m < job_.rows; ++m) {
      const T* weight = static_cast<const T*>(job_.weight) + group_ * job_.weight_group + m * job_.weight_row;
      for (int64_t t = 0; t < taps_; ++t) weight_[t] = widen(weight[weight_offset_[t]]);
      const T* bias = static_cast<const T*>(job_.bias);
      filter_band(weight_, stage_offset_, taps_, bias ? widen(bias[group_ * job_.rows + m]) : A{0}, stage_, flat_,
                  band_.length(rows, columns));
      store_band(m, rows, columns);
    }
  }

 private:
  // Lays out the workspace for a region and lists its taps: all (channel, tap), the same for every group and filter.
  void enter(const Region* region) {
    region_ = region;
    band_ = Band(*region, job_.depth, kBandBytes / static_cast<int64_t>(sizeof(A)));
    taps_ = job_.depth * region->taps();
    weight_offset_ = stage_offset_ + taps_;
    stage_ = workspace_;
    flat_ = stage_ + band_.stage_elements(job_.depth) + kBandSlack;
    weight_ = flat_ + band_.flat_elements() + kBandSlack;
    int64_t i = 0;
    for (int64_t c = 0; c < job_.depth; ++c)
      for (int64_t t = 0; t < region->taps(); ++t, ++i) {
        const Tap tap = tap_at(*region, t);
        stage_offset_[i] = band_.offset(*region, c, tap.t[0], tap.t[1], tap.t[2]);
        weight_offset_[i] = c * job_.weight_depth;
        for (int axis = 0; axis < kSpatialAxes; ++axis)
          weight_offset_[i] +=
              (region->axis[axis].tap0 + tap.t[axis] * region->axis[axis].tap_step) * job_.weight_tap[axis];
      }
  }

  void store_band(int64_t m, int64_t rows, int64_t columns) const {
    const GatherAxis* g = region_->axis;
    const Strides& s = job_.result_strides;
    const int64_t channel = group_ * job_.rows + m;
    T* plane = static_cast<T*>(job_.result) + n_ * s.outer + channel * s.channel +
               (g[0].out0 + qd_ * g[0].out_step) * s.axis[0] + (g[2].out0 + qw_ * g[2].out_step) * s.axis[2];
    const int64_t step = g[2].out_step * s.axis[2];
    for (int64_t i = 0; i < rows; ++i) {
      T* to = plane + (g[1].out0 + (qh_ + i) * g[1].out_step) * s.axis[1];
      const A* from = flat_ + i * band_.pitch;
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
  int64_t* stage_offset_;
  int64_t* weight_offset_ = nullptr;
  A* workspace_;
  const Region* region_ = nullptr;
  Band band_;
  int64_t taps_ = 0;
  int64_t qd_ = 0, qh_ = 0, qw_ = 0, group_ = 0, n_ = 0;
  A* stage_ = nullptr;
  A* flat_ = nullptr;
  A* weight_ = nullptr;
};

// sum[tap] += grad . stage[offset[tap] ..] over one band, lane by lane, for kCount taps.
template <class A, int kCount>
void correlate_taps(const A* grad, const A* stage, const int64_t* offset, int64_t length, A* sum) {
  constexpr int W = kLanes<A>;
  Vector<A> partial[kCount] = {};
  const A* from[kCount];
  for (int t = 0; t < kCount; ++t) from[t] = stage + offset[t];
  for (int64_t f = 0; f < length; f += W) {
    const Vector<A> g = load(grad + f);
#pragma GCC unroll 8
    for (int t = 0; t < kCount; ++t) partial[t] += g * load(from[t] + f);
  }
  for (int t = 0; t < kCount; ++t) store(sum + t * W, load(sum + t * W) + partial[t]);
}

// The sum of a vector's lanes, pairwise: a fixed order.
template <class A>
inline A sum_lanes(const A* lanes) {
  A part[kLanes<A>];
  std::copy_n(lanes, kLanes<A>, part);
  for (int half = kLanes<A> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

template <class A, std::size_t... I>
constexpr auto correlate_functions(std::index_sequence<I...>) {
  return std::array{&correlate_taps<A, static_cast<int>(I) + 1>...};
}
template <class A>
inline constexpr auto kCorrelate = correlate_functions<A>(std::make_index_sequence<kMostInFlight>{});

// wgrad by correlation, one result filter k at a time: all channels of its group, all images, all bands, in order.
template <class T, class A>
class CorrelationWgrad {
 public:
  CorrelationWgrad(const WgradJob& job, int64_t* offsets, A* workspace)
      : job_(job),
        channels_(job.problem->in_channels),
        band_(job.source_region, channels_, kBandBytes / static_cast<int64_t>(sizeof(A))),
        taps_(channels_ * job.source_region.taps()),
        offset_(offsets),
        stage_(workspace),
        grad_(stage_ + band_.stage_elements(channels_) + kBandSlack),
        sum_(grad_ + band_.flat_elements() + kBandSlack) {
    int64_t* offset = offset_;
    for (int64_t c = 0; c < channels_; ++c)
      for (int64_t t = 0; t < job.source_region.taps(); ++t) {
        const Tap tap = tap_at(job.source_region, t);
        *offset++ = band_.offset(job.source_region, c, tap.t[0], tap.t[1], tap.t[2]);
      }
    std::fill_n(stage_ + band_.stage_elements(channels_), kBandSlack, A{0});  // read by the last vector, times zeros
  }

  void run(int64_t filter) {
    filter_ = filter;
    std::fill_n(sum_, taps_ * kLanes<A>, A{0});
    const Region& region = job_.source_region;
    const ImageReader<T> image{static_cast<const T*>(job_.source) +
                                   filter / job_.problem->out_channels * channels_ * job_.source_strides.channel,
                               job_.source_strides, &region, job_.problem->mode, job_.problem};
    const BandStager<T, A> stager(image, band_);
    const Panels parts(taps_, kMostInFlight);
    for (int64_t n = 0; n < job_.problem->batch; ++n)
      for (int64_t qd = 0; qd < region.axis[0].count; ++qd)
        for (int64_t qh = 0; qh < region.axis[1].count; qh += band_.rows)
          for (int64_t qw = 0; qw < region.axis[2].count; qw += band_.columns) {
            stager.fill(n, channels_, qd, qh, qw, stage_);
            const int64_t length = read_grad(n, qd, qh, qw);
            for (int64_t i = 0; i < parts.count; ++i) {
              const int64_t t = parts.start(i);
              kCorrelate<A>[parts.rows(i) - 1](grad_, stage_, offset_ + t, length, sum_ + t * kLanes<A>);
            }
          }
    write();
  }

 private:
  // The band of grad in the layout of the flat result, with zeros where a row ends; returns its length.
  int64_t read_grad(int64_t n, int64_t qd, int64_t qh, int64_t qw) {
    const GatherAxis* g = job_.source_region.axis;
    const Strides& s = job_.grad_strides;
    const int64_t rows = std::min(band_.rows, g[1].count - qh), columns = std::min(band_.columns, g[2].count - qw);
    const T* from = static_cast<const T*>(job_.grad) + n * s.outer + filter_ * s.channel + qd * s.axis[0] +
                    qh * s.axis[1] + qw * s.axis[2];
    for (int64_t i = 0; i < rows; ++i) {
      A* row = grad_ + i * band_.pitch;
      copy_strided(row, from + i * s.axis[1], s.axis[2], columns);
      std::fill(row + columns, row + band_.pitch, A{0});
    }
    const int64_t length = band_.length(rows, columns);
    std::fill_n(grad_ + length, kLanes<A>, A{0});
    return length;
  }

  void write() const {
    const Strides& s = job_.result_strides;
    const A* sum = sum_;
    for (int64_t c = 0; c < channels_; ++c)
      for (int64_t t = 0; t < job_.source_region.taps(); ++t) {
        const Tap tap = tap_at(job_.source_region, t);
        T* to = static_cast<T*>(job_.result) + filter_ * s.outer + c * s.channel;
        to[tap.t[0] * s.axis[0] + tap.t[1] * s.axis[1] + tap.t[2] * s.axis[2]] = Narrow<T>::from(sum_lanes(sum));
        sum += kLanes<A>;
      }
  }

  const WgradJob& job_;
  int64_t channels_;
  Band band_;
  int64_t taps_;
  int64_t* offset_;
  A* stage_;
  A* grad_;
  A* sum_;
  int64_t filter_ = 0;
};
