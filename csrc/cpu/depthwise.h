// Depthwise convolution (one input channel a group) on images whose channels are not contiguous, a vector of planes at
// a time (lane_band.h); the transposed source stays in L2.
//
//   fprop, dgrad   result[q] = bias + sum over taps of weight[tap] * stage[q + offset(tap)]
//   wgrad          result[tap] = sum over q of grad[q] * stage[q + offset(tap)]
//
//                      lane 0 .. kLanes - 1
//   result row    q    sum[0]     = sum over taps t of   weight[t] * stage[q + offset(t)]
//                 q+1  sum[1]                            weight[t] * stage[q + 1 + offset(t)]
//                 ..   up to kMostPixels sums in flight: one load and one FMA each, the weight's load shared
//
// Sums run over at most 256 taps or pixels before they are added up; their order depends on the shape alone. Include
// only from engine.inl.h.
#pragma once

// What is left of the registers after a weight and the addresses.
inline constexpr int kMostPixels = kVectorBytes == 64 ? 16 : 8;

template <class E>
inline E* lane_memory(std::byte* workspace, int64_t offset) {
  return reinterpret_cast<E*>(workspace + offset);
}

// to[p * to_step] = (add ? to[p * to_step] : bias) + sum over taps of weight[tap] * from[p + tap's source], for kCount
// pixels; each is a vector of lanes.
template <class A, int kCount>
void filter_pixels(const A* weight, const LaneTap* taps, int64_t tap_count, Vector<A> bias, const A* from, A* to,
                   int64_t to_step, bool add) {
  constexpr int W = kLanes<A>;
  Vector<A> sum[kCount] = {};
  for (int64_t t = 0; t < tap_count; ++t) {
    const Vector<A> w = load(weight + taps[t].weight * W);
    const A* at = from + taps[t].source * W;
#pragma GCC unroll 16
    for (int p = 0; p < kCount; ++p) sum[p] += w * load(at + p * W);
  }
#pragma GCC unroll 16
  for (int p = 0; p < kCount; ++p) {
    A* at = to + p * to_step * W;
    store(at, (add ? load(at) : bias) + sum[p]);
  }
}

template <class A, std::size_t... I>
constexpr auto filter_functions(std::index_sequence<I...>) {
  return std::array{&filter_pixels<A, static_cast<int>(I) + 1>...};
}
template <class A>
inline constexpr auto kFilter = filter_functions<A>(std::make_index_sequence<kMostPixels>{});

// The taps of a region, for all channels of the source, in the order in which they are summed.
inline void list_taps(const ConvProblem& p, const LaneBand& band, const Region& region, LaneTap* taps) {
  for (int64_t c = 0; c < band.depth; ++c)
    for (int64_t t = 0; t < region.taps(); ++t) {
      const Tap tap = tap_at(region, t);
      int64_t index = c;  // of the weight's elements, in order
      for (int i = 0; i < kSpatialAxes; ++i)
        index = index * p.axis[i].kernel + region.axis[i].tap0 + tap.t[i] * region.axis[i].tap_step;
      *taps++ = {index, band.offset(region.axis, c, tap.t[0], tap.t[1], tap.t[2])};
    }
}

// The planes of result channels [first, first + lanes) of image n, seen as source or result planes.
//
// `channels` counts the result's channels of an image; `of` maps one of them to its plane's channel in the tensor.
template <class T, class A, class ChannelOf>
Planes<T, A> planes_of(T* data, const Strides& s, int64_t first, int64_t last, int64_t channels, ChannelOf of) {
  Planes<T, A> planes;
  for (int l = 0; l < kLanes<A>; ++l) {
    const int64_t plane = std::min(first + l, last - 1);
    planes.start[l] = data + plane / channels * s.outer + of(plane % channels) * s.channel;
  }
  std::copy_n(s.axis, kSpatialAxes, planes.axis);
  return planes;
}

// Says how far whole vectors may be read: to the end of the memory that a tensor of these sizes spans.
template <class T, class A>
void set_room(Planes<const T, A>& planes, const T* data, const Strides& s, int64_t outer, int64_t channels,
              const int64_t (&extent)[kSpatialAxes]) {
  int64_t span = 1 + (outer - 1) * s.outer + (channels - 1) * s.channel;
  for (int i = 0; i < kSpatialAxes; ++i) span += (extent[i] - 1) * s.axis[i];
  const T* highest = planes.start[0];
  for (const T* start : planes.start) highest = std::max(highest, start);
  planes.room = data + span - highest;
}

// fprop and dgrad; a unit is one band of one block of planes, counted over (block, depth, height, width).
template <class T, class A>
class DepthwiseConv {
 public:
  DepthwiseConv(const ConvJob& job, const LaneBand& band, std::byte* workspace)
      : job_(job),
        epilogue_(job),
        band_(band),
        stager_(band, job.source_mode, lane_memory<int64_t>(workspace, band.memory().entries),
                lane_memory<A>(workspace, band.memory().stage)),
        taps_(lane_memory<LaneTap>(workspace, band.memory().taps)),
        stage_(lane_memory<A>(workspace, band.memory().stage)),
        weight_(lane_memory<A>(workspace, band.memory().weight)),
        row_(lane_memory<A>(workspace, band.memory().row)) {
    for (const RegionJob* r = job.wave.data(); r != job.wave.data() + job.wave.size(); ++r)
      list_taps(*job.problem, band, *r->region, taps_ + r->first_pack);
  }

  void run(int64_t unit) {
    const LaneAxis* axis = band_.axis;
    const int64_t block = unit / band_.bands();
    int64_t local = unit % band_.bands();
    for (int i = kSpatialAxes; i-- > 0; local /= axis[i].bands()) q_[i] = local % axis[i].bands() * axis[i].positions;
    if (block != block_) enter_block(block);
    stager_.fill(source_, job_.source_strides.channel, q_);
    int64_t first[kSpatialAxes], last[kSpatialAxes];  // result coordinates of the band
    for (int i = 0; i < kSpatialAxes; ++i) {
      first[i] = q_[i] * axis[i].out_step();
      last[i] = std::min(first[i] + axis[i].positions * axis[i].out_step(), axis[i].size);
    }
    for (int64_t d = first[0]; d < last[0]; ++d)
      for (int64_t h = first[1]; h < last[1]; ++h) {
        const int64_t offset = d * result_.axis[0] + h * result_.axis[1] + first[2] * result_.axis[2];
        run_row(d, h, last[2] - first[2], offset);
      }
    flush();
  }

 private:
  static constexpr int W = kLanes<A>;

  void enter_block(int64_t block) {
    block_ = block;
    const ConvJob& conv = job_;
    const int64_t channels = conv.problem->groups * conv.rows, first = block * W;
    const int64_t last = std::min(first + W, conv.problem->batch * channels);
    lanes_ = static_cast<int>(last - first);
    const T* source = static_cast<const T*>(conv.source);
    source_ = planes_of<const T, A>(source, conv.source_strides, first, last, channels,
                                    [&](int64_t k) { return k / conv.rows * conv.depth; });
    const LaneAxis* axis = band_.axis;
    set_room(source_, source, conv.source_strides, conv.problem->batch, conv.problem->groups * conv.depth,
             {axis[0].phases->extent, axis[1].phases->extent, axis[2].phases->extent});
    result_ = planes_of<T, A>(static_cast<T*>(conv.result), conv.result_strides, first, last, channels,
                              [](int64_t k) { return k; });
    const T* bias = static_cast<const T*>(conv.epilogue.bias);
    A lane_bias[W] = {};
    const T* weight[W];
    for (int l = 0; l < W; ++l) {
      const int64_t k = std::min(first + l, last - 1) % channels;
      weight[l] =
          static_cast<const T*>(conv.weight) + k / conv.rows * conv.weight_group + k % conv.rows * conv.weight_row;
      if (bias) lane_bias[l] = widen(bias[k]);
    }
    bias_ = load(lane_bias);
    pack_weight(weight);
  }

  // weight_[channel][kernel index][lane]
  void pack_weight(const T* const (&weight)[W]) {
    const ConvJob& conv = job_;
    const ConvAxis* axis = conv.problem->axis;
    A* to = weight_;
    for (int64_t c = 0; c < band_.depth; ++c)
      for (int64_t d = 0; d < axis[0].kernel; ++d)
        for (int64_t h = 0; h < axis[1].kernel; ++h)
          for (int64_t w = 0; w < axis[2].kernel; ++w, to += W) {
            const int64_t offset =
                c * conv.weight_depth + d * conv.weight_tap[0] + h * conv.weight_tap[1] + w * conv.weight_tap[2];
            for (int l = 0; l < W; ++l) to[l] = widen(weight[l][offset]);
          }
  }

  // Computes one row of the result, all its phases, to the end of the rows that wait to be written.
  void run_row(int64_t d, int64_t h, int64_t columns, int64_t offset) {
    if (pixels_ > 0 && (offset != offset_ + pixels_ * result_.axis[2] || pixels_ + columns > LaneBand::kRowPixels))
      flush();
    if (pixels_ == 0) offset_ = offset;
    A* to = row_ + pixels_ * W;
    pixels_ += columns;
    const LaneAxis* axis = band_.axis;
    const int64_t step_d = axis[0].out_step(), step_h = axis[1].out_step(), step_w = axis[2].out_step();
    const A* from = stage_ + band_.place(d / step_d - q_[0], h / step_h - q_[1], 0) * W;
    const int64_t region = (d % step_d * axis[1].phase_count + h % step_h) * axis[2].phase_count;
    for (int64_t phase = 0; phase < std::min(step_w, columns); ++phase) {
      const RegionJob& r = job_.wave.data()[region + phase];
      filter_row(taps_ + r.first_pack, r.region->taps() * band_.depth, divide_up(columns - phase, step_w), from,
                 to + phase * W, step_w);
    }
  }

  void filter_row(const LaneTap* taps, int64_t tap_count, int64_t columns, const A* from, A* to, int64_t to_step) {
    const Panels parts(columns, kMostPixels);
    for (int64_t i = 0; i < parts.count; ++i) {
      const int64_t p = parts.start(i);
      for (int64_t t = 0; t < std::max<int64_t>(tap_count, 1); t += kReductionBlock)
        kFilter<A>[parts.rows(i) - 1](weight_, taps + t, std::min(kReductionBlock, tap_count - t), bias_, from + p * W,
                                      to + p * to_step * W, to_step, t > 0);
    }
  }

  void flush() {
    const int64_t step = result_.axis[2];
    if (epilogue_.is_bias()) {
      write_pixels<T, A>(row_, result_, lanes_, offset_, step, pixels_,
                         [](Vector<A> sum, const T*, int64_t) { return sum; });
    } else {
      write_finished(step);
    }
    pixels_ = 0;
  }
  [[gnu::noinline]] void write_finished(int64_t step) const {
    const EpilogueOf<T, A> epilogue = epilogue_;  // a store to the result cannot change it
    epilogue.with_activation([&](auto activate) {
      write_pixels<T, A>(row_, result_, lanes_, offset_, step, pixels_, [=](Vector<A> sum, const T* to, int64_t n) {
        return activate(epilogue.add_residual(sum, to, step, n));
      });
    });
  }

  const ConvJob& job_;
  const EpilogueOf<T, A> epilogue_;
  const LaneBand& band_;
  LaneStager<T, A> stager_;
  LaneTap* taps_;
  const A* stage_;
  A* weight_;
  A* row_;  // pixels_ results that wait to be written, from element offset_ of each plane on
  int64_t block_ = -1, offset_ = 0, pixels_ = 0, q_[kSpatialAxes] = {0, 0, 0};
  Planes<const T, A> source_;
  Planes<T, A> result_;
  Vector<A> bias_ = {};
  int lanes_ = 0;
};

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
    for (int64_t t = 0; t < tap_count_; ++t) {
      const Tap tap = tap_at(job_.source_region, t);
      T* to = static_cast<T*>(job_.result) + block * W * s.outer + tap.t[0] * s.axis[0] + tap.t[1] * s.axis[1] +
              tap.t[2] * s.axis[2];
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
