// The weight's gradient of groups with few channels, one result filter at a time: each tap is the inner product of grad
// with a staged band of the source (band.h).
//
//   result[tap] = sum over f of grad[f] * stage[offset(tap) + f]
//
// where f runs over a whole band of result rows at once, so that short rows fill vectors too. Sums run over one band of
// pixels before they are added up; the order depends on the shape alone. Include only from engine.inl.h.
#pragma once

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
    const BandStager<T, A> stager(image, band_, channels_);
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
