// Depthwise convolution on channels_last images: channels lie along the vector, so nothing is staged and nothing moves.
//
//   result[q, c .. c+W) = bias + sum over taps of weight[tap, c ..] * source[x(q, tap), c ..]
//
//                     tap 0   tap 1   tap 2           A block of kPixels neighbouring result pixels shares the weight
//   pixel q     ptr     ptr     ptr                   vectors; each (tap, pixel) is a pointer to source channels, to
//   pixel q+1   ptr     ptr     ptr                   zeros where the tap falls into zero padding. 4 x 2 accumulators.
//
// The weight is transposed to [tap][channel] once a call. Include only from engine.inl.h.
#pragma once

inline constexpr int kPixels = 4;
inline constexpr int kChannelVectors = 2;

// Visits channels [0, channels) in vectors: visit.template operator()<kCount>(first channel). The last vector overlaps
// the one before it, which recomputes the same values; the plan sends fewer channels than a vector elsewhere.
template <class A, class Visit>
inline void for_each_channel_vector(int64_t channels, Visit visit) {
  constexpr int W = kLanes<A>;
  int64_t c = 0;
  for (; c + kChannelVectors * W <= channels; c += kChannelVectors * W) visit.template operator()<kChannelVectors>(c);
  for (; c + W <= channels; c += W) visit.template operator()<1>(c);
  if (c < channels) visit.template operator()<1>(channels - W);
}

// Where the taps of a region read, for one row of result pixels.
template <class T>
class TapRows {
 public:
  TapRows(const ImageReader<T>& image, const T** rows) : image_(image), rows_(rows) {}

  // Sets the source row of every (depth tap, height tap) for result row (qd, qh) of image n; null where it is padding.
  void enter(int64_t n, int64_t qd, int64_t qh) {
    const GatherAxis* g = image_.region->axis;
    const T** row = rows_;
    for (int64_t td = 0; td < g[0].taps; ++td)
      for (int64_t th = 0; th < g[1].taps; ++th) {
        const int64_t d = padded_source(image_.mode, qd * g[0].step + tap_offset(g[0], td), g[0].extent);
        const int64_t h = padded_source(image_.mode, qh * g[1].step + tap_offset(g[1], th), g[1].extent);
        *row++ = d < 0 || h < 0
                     ? nullptr
                     : image_.data + n * image_.strides.outer + d * image_.strides.axis[0] + h * image_.strides.axis[1];
      }
  }

  // The channels that pixel qw reads under tap (row, tw), or null.
  const T* at(int64_t row, int64_t tw, int64_t qw) const {
    const GatherAxis& g = image_.region->axis[2];
    const int64_t w = padded_source(image_.mode, qw * g.step + tap_offset(g, tw), g.extent);
    return w < 0 || !rows_[row] ? nullptr : rows_[row] + w * image_.strides.axis[2];
  }

  // The positions [begin, end) of `width` where taps [first, last) of a row all read inside of the image.
  std::pair<int64_t, int64_t> inner(int64_t first, int64_t last, int64_t width) const {
    const GatherAxis& g = image_.region->axis[2];
    int64_t begin = 0, end = width;
    for (int64_t t = first; t < last; ++t) {
      const int64_t x = tap_offset(g, t);
      begin = std::max(begin, positions_below(x, g.step));
      end = std::min(end, positions_below(x - g.extent, g.step));
    }
    begin = std::min(begin, width);
    return {begin, std::max(begin, end)};
  }
  // Distance between what neighbouring positions read.
  int64_t advance() const { return image_.region->axis[2].step * image_.strides.axis[2]; }

  int64_t rows() const { return image_.region->axis[0].taps * image_.region->axis[1].taps; }
  int64_t columns() const { return image_.region->axis[2].taps; }

 private:
  const ImageReader<T>& image_;
  const T** rows_;
};

// Gathers one tap's weights of all channels for [tap][channel]; steps are counted over (region, tap).
template <class T, class A>
void pack_depthwise_tap(const ConvJob& job, int64_t index) {
  const RegionJob* r = job.wave.data();
  while (r + 1 < job.wave.data() + job.wave.size() && (r + 1)->first_pack <= index) ++r;
  const int64_t channels = job.problem->groups;
  const Tap tap = tap_at(*r->region, index - r->first_pack);
  const T* from = static_cast<const T*>(job.weight);
  for (int i = 0; i < kSpatialAxes; ++i)
    from += (r->region->axis[i].tap0 + tap.t[i] * r->region->axis[i].tap_step) * job.weight_tap[i];
  A* to = static_cast<A*>(job.packed_weight) + index * channels;
  for (int64_t c = 0; c < channels; ++c) to[c] = widen(from[c * job.weight_group]);
}

// fprop and dgrad; a unit is one row of result pixels, counted over (region, image, depth, height).
template <class T, class A>
class DepthwiseChannels {
 public:
  // The workspace holds kPixels pointers a tap, a pointer a tap row, the taps' numbers, and a zero for every channel.
  DepthwiseChannels(const ConvJob& job, void* workspace) : job_(job), epilogue_(job), channels_(job.problem->groups) {
    const int64_t taps = kernel_taps(*job.problem);
    source_ = static_cast<const T**>(workspace);
    rows_ = source_ + kPixels * taps;
    tap_ = reinterpret_cast<int64_t*>(rows_ + taps);
    zeros_ = reinterpret_cast<T*>(tap_ + taps);
    std::memset(static_cast<void*>(zeros_), 0, static_cast<std::size_t>(channels_) * sizeof(T));
  }

  void run(int64_t index) {
    const RegionJob* r = job_.wave.data();
    while (r + 1 < job_.wave.data() + job_.wave.size() && (r + 1)->first_unit <= index) ++r;
    const GatherAxis* g = r->region->axis;
    int64_t local = index - r->first_unit;
    const int64_t qh = local % g[1].count;
    local /= g[1].count;
    const int64_t qd = local % g[0].count, n = local / g[0].count;
    const ImageReader<T> image{static_cast<const T*>(job_.source), job_.source_strides, r->region, job_.source_mode,
                               job_.problem};
    TapRows<T> rows(image, rows_);
    rows.enter(n, qd, qh);
    const Strides& s = job_.result_strides;
    T* to = static_cast<T*>(job_.result) + n * s.outer + (g[0].out0 + qd * g[0].out_step) * s.axis[0] +
            (g[1].out0 + qh * g[1].out_step) * s.axis[1] + g[2].out0 * s.axis[2];
    const int64_t distance = g[2].out_step * s.axis[2];
    const A* weight = static_cast<const A*>(job_.packed_weight) + r->first_pack * channels_;
    const auto [begin, end] = rows.inner(0, rows.columns(), g[2].count);
    int64_t listed = -1;  // the position that source_ was listed for, if it holds inside of the image
    for (int64_t qw = 0; qw < g[2].count; qw += kPixels) {
      const int64_t pixels = std::min<int64_t>(kPixels, g[2].count - qw);
      const bool inside = qw >= begin && qw + kPixels <= end;
      if (!inside || listed < 0) {
        list_sources(rows, qw, pixels);
        listed = inside ? qw : -1;
      }
      const int64_t shift = inside ? (qw - listed) * rows.advance() : 0;
      if (epilogue_.is_bias()) {
        run_pixels<true>(weight, shift, pixels, to + qw * distance, distance);
      } else {
        run_pixels<false>(weight, shift, pixels, to + qw * distance, distance);
      }
    }
  }

 private:
  // Lists the taps whose source row is inside of the image: tap_[i], and what each pixel reads there,
  // source_[i * kPixels + pixel]. Pixels beyond the result's row repeat its last one.
  void list_sources(const TapRows<T>& rows, int64_t qw, int64_t pixels) {
    taps_ = 0;
    for (int64_t row = 0; row < rows.rows(); ++row) {
      if (!rows_[row]) continue;
      for (int64_t tw = 0; tw < rows.columns(); ++tw) {
        for (int64_t j = 0; j < kPixels; ++j) {
          const T* from = rows.at(row, tw, qw + std::min(j, pixels - 1));
          source_[taps_ * kPixels + j] = from ? from : zeros_;
        }
        tap_[taps_++] = row * rows.columns() + tw;
      }
    }
  }

  // kPixels results from the listed sources, all moved on by `shift` elements.
  template <bool kIsBias>
  void run_pixels(const A* weight, int64_t shift, int64_t pixels, T* to, int64_t distance) const {
    constexpr int W = kLanes<A>;
    const T* bias = static_cast<const T*>(job_.epilogue.bias);
    for_each_channel_vector<A>(channels_, [&]<int kCount>(int64_t c) {
      Vector<A> sum[kPixels][kCount] = {};
      for (int64_t t = 0; t < taps_; ++t) {
        const A* tap_weight = weight + tap_[t] * channels_ + c;
        Vector<A> w[kCount];
#pragma GCC unroll 2
        for (int v = 0; v < kCount; ++v) w[v] = load(tap_weight + v * W);
#pragma GCC unroll 4
        for (int j = 0; j < kPixels; ++j)
#pragma GCC unroll 2
          for (int v = 0; v < kCount; ++v)
            sum[j][v] += w[v] * load_widened<A>(source_[t * kPixels + j] + shift + c + v * W);
      }
      if constexpr (kIsBias) {
        for (int64_t j = 0; j < pixels; ++j)
#pragma GCC unroll 2
          for (int v = 0; v < kCount; ++v)
            store_narrowed<T, A>(to + j * distance + c + v * W,
                                 (bias ? load_widened<A>(bias + c + v * W) : Vector<A>{}) + sum[j][v]);
        return;
      }
      if (epilogue_.is_clamp()) {
        for (int64_t j = 0; j < pixels; ++j)
#pragma GCC unroll 2
          for (int v = 0; v < kCount; ++v) {
            T* at = to + j * distance + c + v * W;
            const Vector<A> biased = (bias ? load_widened<A>(bias + c + v * W) : Vector<A>{}) + sum[j][v];
            store_narrowed<T, A>(at, clamped<A>(epilogue_.add_residual(biased, at, 1, W), epilogue_.clamp()));
          }
        return;
      }
      A finished[kPixels][kCount * W];
#pragma GCC unroll 4
      for (int j = 0; j < kPixels; ++j)
#pragma GCC unroll 2
        for (int v = 0; v < kCount; ++v)
          store(finished[j] + v * W, (bias ? load_widened<A>(bias + c + v * W) : Vector<A>{}) + sum[j][v]);
      epilogue_.write({to + c, distance, 1, finished[0], kCount * W, 1, pixels, kCount * W});
    });
  }

  const ConvJob& job_;
  const EpilogueOf<T, A> epilogue_;
  int64_t channels_, taps_ = 0;
  const T** source_;
  const T** rows_;
  int64_t* tap_;
  T* zeros_;
};

// wgrad; a unit is a block of channels: all images, row by row, in order.
template <class T, class A>
class DepthwiseChannelsWgrad {
 public:
  // The workspace holds a pointer a tap row and two levels of sums for every (tap, channel of the unit).
  DepthwiseChannelsWgrad(const WgradJob& job, void* workspace) : job_(job), channels_(job.problem->groups) {
    rows_ = static_cast<const T**>(workspace);
    sum_ = reinterpret_cast<A*>(rows_ + kernel_taps(*job.problem));
    total_ = sum_ + kernel_taps(*job.problem) * kLanes<A>;
  }

  void run(int64_t unit) {
    constexpr int W = kLanes<A>;
    const Region& region = job_.source_region;
    // The last vector starts early where the channels do not fill it, and writes only the channels it does not share.
    first_ = std::min(unit * W, channels_ - W);
    first_own_ = unit * W - first_;
    std::fill_n(sum_, region.taps() * W, A{0});
    std::fill_n(total_, region.taps() * W, A{0});
    pending_ = 0;
    const ImageReader<T> image{static_cast<const T*>(job_.source) + first_, job_.source_strides, &region,
                               job_.problem->mode, job_.problem};
    TapRows<T> rows(image, rows_);
    for (int64_t n = 0; n < job_.problem->batch; ++n)
      for (int64_t qd = 0; qd < region.axis[0].count; ++qd)
        for (int64_t qh = 0; qh < region.axis[1].count; ++qh) {
          rows.enter(n, qd, qh);
          const Strides& s = job_.grad_strides;
          const T* grad = static_cast<const T*>(job_.grad) + first_ + n * s.outer + qd * s.axis[0] + qh * s.axis[1];
          for (int64_t qw = 0; qw < region.axis[2].count; qw += kReductionBlock) {
            const int64_t last = std::min(qw + kReductionBlock, region.axis[2].count);
            for (int64_t row = 0; row < rows.rows(); ++row)
              if (rows_[row]) add_row(rows, row, grad, qw, last);
            if (++pending_ == kMostPending) fold();
          }
        }
    fold();
    write();
  }

 private:
  // Sums of at most 256 pixels add up in sum_, at most 64 of those in total_: chains of additions stay short.
  static constexpr int kMostPending = 64;
  void fold() {
    for (int64_t i = 0; i < job_.source_region.taps() * kLanes<A>; ++i) total_[i] += sum_[i], sum_[i] = A{0};
    pending_ = 0;
  }

  // Adds pixels [first, last) of a row to the sums of the taps of one kernel row, kMostInFlight taps at a time.
  void add_row(const TapRows<T>& rows, int64_t row, const T* grad, int64_t first, int64_t last) {
    const Panels parts(rows.columns(), kMostInFlight);
    for (int64_t i = 0; i < parts.count; ++i) {
      const int64_t tw = parts.start(i);
      A* sum = sum_ + (row * rows.columns() + tw) * kLanes<A>;
      switch (parts.rows(i)) {
        case 1: add_taps<1>(rows, row, tw, grad, first, last, sum); break;
        case 2: add_taps<2>(rows, row, tw, grad, first, last, sum); break;
        case 3: add_taps<3>(rows, row, tw, grad, first, last, sum); break;
        case 4: add_taps<4>(rows, row, tw, grad, first, last, sum); break;
        case 5: add_taps<5>(rows, row, tw, grad, first, last, sum); break;
        case 6: add_taps<6>(rows, row, tw, grad, first, last, sum); break;
        case 7: add_taps<7>(rows, row, tw, grad, first, last, sum); break;
        default: add_taps<8>(rows, row, tw, grad, first, last, sum); break;
      }
    }
  }

  template <int kCount>
  void add_taps(const TapRows<T>& rows, int64_t row, int64_t tw, const T* grad, int64_t first, int64_t last, A* sum) {
    constexpr int W = kLanes<A>;
    const int64_t step = job_.grad_strides.axis[2], width = job_.source_region.axis[2].count;
    Vector<A> partial[kCount] = {};
    const auto add_edge = [&](int64_t begin, int64_t end) {
      for (int64_t qw = begin; qw < end; ++qw)
        for (int t = 0; t < kCount; ++t)
          if (const T* from = rows.at(row, tw + t, qw))
            partial[t] += load_widened<A>(grad + qw * step) * load_widened<A>(from);
    };
    // Where all taps read inside of the image, each is one pointer that advances evenly.
    const auto inner = rows.inner(tw, tw + kCount, width);
    const int64_t begin = std::clamp(inner.first, first, last), end = std::clamp(inner.second, begin, last);
    add_edge(first, begin);
    if (begin < end) {
      const T* from[kCount];
      for (int t = 0; t < kCount; ++t) from[t] = rows.at(row, tw + t, begin);
      const int64_t advance = rows.advance();
      for (int64_t qw = begin; qw < end; ++qw) {
        const Vector<A> g = load_widened<A>(grad + qw * step);
#pragma GCC unroll 8
        for (int t = 0; t < kCount; ++t) partial[t] += g * load_widened<A>(from[t] + (qw - begin) * advance);
      }
    }
    add_edge(end, last);
    for (int t = 0; t < kCount; ++t) store(sum + t * W, load(sum + t * W) + partial[t]);
  }

  void write() const {
    const Strides& s = job_.result_strides;
    for (int64_t t = 0; t < job_.source_region.taps(); ++t) {
      const Tap tap = tap_at(job_.source_region, t);
      T* to = static_cast<T*>(job_.result) + first_ * s.outer + tap.t[0] * s.axis[0] + tap.t[1] * s.axis[1] +
              tap.t[2] * s.axis[2];
      for (int64_t i = first_own_; i < kLanes<A>; ++i) to[i * s.outer] = Narrow<T>::from(total_[t * kLanes<A> + i]);
    }
  }

  const WgradJob& job_;
  int64_t channels_, first_ = 0, first_own_ = 0;
  const T** rows_;
  A* sum_;
  A* total_;
  int pending_ = 0;
};
