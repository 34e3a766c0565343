// wgrad of depthwise.h, a vector of filters at a time. Include only from engine.inl.h.
//
//   result[tap] = sum over q of grad[q] * stage[q + offset(tap)]
//
//   grad q         lane 0 .. kLanes - 1         up to kMostInFlight taps in flight: the load of grad is shared, each
//   stage q + t    lane 0 .. kLanes - 1         of them loads its own vector of the stage
#pragma once

// sum[tap] += sum over rows x columns pixels of grad * from[tap], for kCount taps.
template <class A, int kCount>
void correlate_pixels(const A* grad, const A* stage, const LaneTap* taps, const int64_t (&size)[2],
                      int64_t row_distance, A* sum) {
  constexpr int W = kLanes<A>;
  Vector<A> partial[kCount] = {};
  const A* from[kCount];
  for (int t = 0; t < kCount; ++t) from[t] = stage + taps[t].source * W;
  // grad and stage have rows of different lengths, in vectors: size is {rows, columns}
  for (int64_t row = 0; row < size[0]; ++row) {
    for (int64_t f = 0; f < size[1] * W; f += W) {
      const Vector<A> g = load(grad + f);
#pragma GCC unroll 8
      for (int t = 0; t < kCount; ++t) partial[t] += g * load(from[t] + f);
    }
    grad += size[1] * W;
    for (int t = 0; t < kCount; ++t) from[t] += row_distance * W;
  }
  for (int t = 0; t < kCount; ++t) store(sum + t * W, load(sum + t * W) + partial[t]);
}

template <class A, std::size_t... I>
constexpr auto correlate_pixel_functions(std::index_sequence<I...>) {
  return std::array{&correlate_pixels<A, static_cast<int>(I) + 1>...};
}
template <class A>
inline constexpr auto kCorrelatePixels = correlate_pixel_functions<A>(std::make_index_sequence<kMostInFlight>{});

// wgrad; a unit is a block of result filters: all images, all bands, in order.
template <class T, class A>
class DepthwiseWgrad {
 public:
  DepthwiseWgrad(const WgradJob& job, const LaneBand& band, std::byte* workspace)
      : job_(job),
        band_(band),
        tap_count_(kernel_taps(*job.problem)),
        stager_(band, job.problem->mode, lane_memory<int64_t>(workspace, band.memory().entries),
                lane_memory<A>(workspace, band.memory().stage)),
        taps_(lane_memory<LaneTap>(workspace, band.memory().taps)),
        stage_(lane_memory<A>(workspace, band.memory().stage)),
        sum_(lane_memory<A>(workspace, band.memory().weight)),
        total_(sum_ + tap_count_ * kLanes<A>),
        grad_(lane_memory<A>(workspace, band.memory().row)) {
    list_taps(*job.problem, band, job.source_region, taps_);
  }

  void run(int64_t block) {
    std::fill_n(sum_, 2 * tap_count_ * W, A{0});
    pending_ = 0;
    lanes_ = static_cast<int>(std::min<int64_t>(W, job_.problem->groups * job_.problem->out_channels - block * W));
    const LaneAxis* axis = band_.axis;
    for (int64_t n = 0; n < job_.problem->batch; ++n) {
      enter_image(n, block);
      int64_t q[kSpatialAxes];
      for (q[0] = 0; q[0] < axis[0].count; q[0] += axis[0].positions)
        for (q[1] = 0; q[1] < axis[1].count; q[1] += axis[1].positions)
          for (q[2] = 0; q[2] < axis[2].count; q[2] += axis[2].positions) run_band(q);
    }
    fold();
    write(block);
  }

 private:
  static constexpr int W = kLanes<A>;
  // Sums of at most 256 pixels add up in sum_, at most 64 of those in total_: chains of additions stay short.
  static constexpr int kMostPending = 64;

  void enter_image(int64_t n, int64_t block) {
    const ConvProblem& p = *job_.problem;
    const int64_t channels = p.groups * p.out_channels, first = n * channels + block * W, last = first + lanes_;
    const T *source = static_cast<const T*>(job_.source), *grad = static_cast<const T*>(job_.grad);
    source_ = planes_of<const T, A>(source, job_.source_strides, first, last, channels,
                                    [&](int64_t k) { return k / p.out_channels; });
    set_room(source_, source, job_.source_strides, p.batch, p.groups,
             {p.axis[0].input, p.axis[1].input, p.axis[2].input});
    grad_planes_ = planes_of<const T, A>(grad, job_.grad_strides, first, last, channels, [](int64_t k) { return k; });
    set_room(grad_planes_, grad, job_.grad_strides, p.batch, channels,
             {p.axis[0].output, p.axis[1].output, p.axis[2].output});
  }

  void run_band(const int64_t (&q)[kSpatialAxes]) {
    const LaneAxis* axis = band_.axis;
    int64_t size[kSpatialAxes];
    for (int i = 0; i < kSpatialAxes; ++i) size[i] = std::min(axis[i].positions, axis[i].count - q[i]);
    stager_.fill(source_, job_.source_strides.channel, q);
    read_grad(q, size);
    // A step sums whole rows where they are short, or a piece of a row.
    const int64_t columns = std::min(size[2], kReductionBlock), rows = std::max<int64_t>(1, kReductionBlock / size[2]);
    for (int64_t d = 0; d < size[0]; ++d)
      for (int64_t h = 0; h < size[1]; h += rows)
        for (int64_t w = 0; w < size[2]; w += columns) {
          const int64_t piece[2] = {std::min(rows, size[1] - h), std::min(columns, size[2] - w)};
          add_pixels(grad_ + ((d * size[1] + h) * size[2] + w) * W, stage_ + band_.place(d, h, w) * W, piece);
          if (++pending_ == kMostPending) fold();
        }
  }

  void add_pixels(const A* grad, const A* stage, const int64_t (&size)[2]) {
    const Panels parts(tap_count_, kMostInFlight);
    for (int64_t i = 0; i < parts.count; ++i) {
      const int64_t t = parts.start(i);
      kCorrelatePixels<A>[parts.rows(i) - 1](grad, stage, taps_ + t, size, band_.axis[2].staged(), sum_ + t * W);
    }
  }

  // The band of grad, dense: [depth][row][column][lane].
  void read_grad(const int64_t (&q)[kSpatialAxes], const int64_t (&size)[kSpatialAxes]) {
    const int64_t* s = grad_planes_.axis;
    // Rows that follow each other in memory without a gap are read as one.
    const bool dense = s[2] == 1 && s[1] == size[2];
    const int64_t rows = dense ? 1 : size[1], columns = dense ? size[1] * size[2] : size[2];
    A* to = grad_;
    for (int64_t d = 0; d < size[0]; ++d)
      for (int64_t h = 0; h < rows; ++h) {
        const int64_t offset = (q[0] + d) * s[0] + (q[1] + h) * s[1] + q[2] * s[2];
        for (int64_t i = 0; i < columns; i += W)
          read_pixels<T, A>(grad_planes_, offset + i * s[2], s[2], std::min<int64_t>(W, columns - i),
                            [&](int, Vector<A> v) { store(to, v), to += W; });
      }
  }

  void fold() {
    for (int64_t i = 0; i < tap_count_ * W; ++i) total_[i] += sum_[i], sum_[i] = A{0};
    pending_ = 0;
  }

  void write(int64_t block) const {
    const Strides& s = job_.result_strides;
    T* const result = static_cast<T*>(job_.result) + block * W * s.outer;
    if (is_one_run(s.axis, job_.problem->axis)) {
      Planes<T, A> filters;
      for (int64_t l = 0; l < W; ++l) filters.start[l] = result + std::min<int64_t>(l, lanes_ - 1) * s.outer;
      return write_pixels<T, A>(total_, filters, lanes_, 0, 1, tap_count_,
                                [](Vector<A> sum, const T*, int64_t) { return sum; });
    }
    for (int64_t t = 0; t < tap_count_; ++t) {
      const Tap tap = tap_at(job_.source_region, t);
      T* to = result + tap.t[0] * s.axis[0] + tap.t[1] * s.axis[1] + tap.t[2] * s.axis[2];
      for (int l = 0; l < lanes_; ++l) to[l * s.outer] = Narrow<T>::from(total_[t * W + l]);
    }
  }

  const WgradJob& job_;
  const LaneBand& band_;
  int64_t tap_count_;
  LaneStager<T, A> stager_;
  LaneTap* taps_;
  const A* stage_;
  A* sum_;
  A* total_;
  A* grad_;
  Planes<const T, A> source_, grad_planes_;
  int lanes_ = 0, pending_ = 0;
};
