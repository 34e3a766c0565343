// Depthwise convolution (one input channel a group) on images whose channels are not contiguous, a vector of planes at
// a time (lane_band.h); the transposed source stays in L2.
//
//   fprop, dgrad   result[q] = bias + sum over taps of weight[tap] * stage[q + offset(tap)]
//   wgrad          result[tap] = sum over q of grad[q] * stage[q + offset(tap)]
//
//                      lane 0 .. kLanes - 1
//   result row    q    sum[0]     = sum over taps t of   weight[t] * stage[q + offset(t)]
//                 q+1  sum[1]                            weight[t] * stage[q + 1 + offset(t)]
//                 ..   up to kMostPixels sums in flight: one load and one FMA each, the weight's load shared; where
//                      neighbouring taps read neighbours, one load for all taps of a row (filter_tap_rows)
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

// Rows of taps that read neighbouring positions: what a pixel reads is loaded once for all taps of a row, which keep
// their weights in registers, and what lies beside the image is left out (of 49 products of 7 x 7 pixels under a row of
// 7 taps 12). Rows of taps take turns at two sets of sums, as few pixels would leave an FMA waiting for the one before
// it.
inline constexpr int kMostRowPixels = 8;

template <class A>
struct TapRowTile {
  const A* weight;
  const LaneTap* taps;            // of the first row: the tap that reads the lowest position
  int64_t row_step, weight_step;  // between rows of taps; between the weights of a row's taps, from that one on
  int64_t rows;
  int64_t begin, end;  // of the positions that a row reads, from its lowest on: those inside of the image
  const A* from;
  A* to;
  int64_t to_step;
};

template <class A, int kTaps, int kPixels>
void filter_tap_rows(const TapRowTile<A>& tile, Vector<A> bias) {
  constexpr int W = kLanes<A>;
  Vector<A> even[kPixels] = {}, odd[kPixels] = {};
  const int64_t begin = tile.begin, end = tile.end, weight_step = tile.weight_step * W;
  const LaneTap* taps = tile.taps;
  const auto add_row = [&](Vector<A>(&sum)[kPixels]) __attribute__((always_inline)) {
    const A* from = tile.from + taps->source * W;
    const A* weight = tile.weight + taps->weight * W;
    Vector<A> w[kTaps];
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t, weight += weight_step) w[t] = load(weight);
#pragma GCC unroll 16
    for (int x = 0; x < kPixels + kTaps - 1; ++x) {
      if (x < begin || x >= end) continue;
      const Vector<A> value = load(from + x * W);
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t)
        if (x >= t && x - t < kPixels) sum[x - t] += w[t] * value;
    }
    taps += tile.row_step;
  };
  int64_t row = 0;
  for (; row + 2 <= tile.rows; row += 2) add_row(even), add_row(odd);
  if (row < tile.rows) add_row(even);
  A* const to = tile.to;
  const int64_t to_step = tile.to_step;
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) store(to + p * to_step * W, bias + (even[p] + odd[p]));
}

template <class A, int kTaps, std::size_t... I>
constexpr auto tap_row_functions(std::index_sequence<I...>) {
  return std::array{&filter_tap_rows<A, kTaps, static_cast<int>(I) + 1>...};
}
// kFilterTapRows<A, taps of a row>[pixels - 1]
template <class A, int kTaps>
inline constexpr auto kFilterTapRows = tap_row_functions<A, kTaps>(std::make_index_sequence<kMostRowPixels>{});

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

// Whether the taps of a filter follow each other in memory.
inline bool is_one_run(const int64_t (&step)[kSpatialAxes], const ConvAxis (&axis)[kSpatialAxes]) {
  int64_t elements = 1;
  for (int i = kSpatialAxes; i-- > 0; elements *= axis[i].kernel)
    if (axis[i].kernel > 1 && step[i] != elements) return false;
  return true;
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
    const auto& axis = conv.problem->axis;
    A* to = weight_;
    // Whole vectors of taps are turned, also of few taps where what they read beyond is weight.
    const T* const end = static_cast<const T*>(conv.weight) + (conv.problem->groups - 1) * conv.weight_group +
                         (conv.rows - 1) * conv.weight_row + band_.taps;
    const bool readable = end - *std::max_element(weight, weight + W) >= round_up(band_.taps, W);
    if (is_one_run(conv.weight_tap, axis) && (readable || band_.taps >= W)) {
      const T* rows[W];
      for (int64_t c = 0; c < band_.depth; ++c, to += band_.taps * W) {
        for (int l = 0; l < W; ++l) rows[l] = weight[l] + c * conv.weight_depth;
        transpose_rows(rows, W, band_.taps, to, readable);
      }
      return;
    }
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
      const TapRange inside = taps_of_row(*r.region, h / step_h);
      filter_row(r.region->axis[2], taps_ + r.first_pack + inside.first, inside.count,
                 divide_up(columns - phase, step_w), from, to + phase * W, step_w);
    }
  }

  // The taps of a row of positions: without the rows of taps that read padding above or below the image (7 x 7 taps on
  // 7 x 7 pixels: a quarter).
  struct TapRange {
    int64_t first, count;
  };
  TapRange taps_of_row(const Region& region, int64_t row) const {
    const GatherAxis& g = region.axis[1];
    if (job_.source_mode != PaddingMode::kZeros || band_.depth * region.axis[0].taps != 1)
      return {0, region.taps() * band_.depth};
    const auto outside = [&](int64_t tap) {
      const int64_t y = row * g.step + tap_offset(g, tap);
      return y < 0 || y >= g.extent;
    };
    int64_t first = 0, last = g.taps;
    while (first < last && outside(first)) ++first;
    while (first < last && outside(last - 1)) --last;
    return {first * region.axis[2].taps, (last - first) * region.axis[2].taps};
  }

  void filter_row(const GatherAxis& w, const LaneTap* taps, int64_t tap_count, int64_t columns, const A* from, A* to,
                  int64_t to_step) {
    // 16 sums and a row's weights take more registers than narrower levels have. Rows of three taps gain nothing.
    if constexpr (kVectorBytes == 64) {
      if (w.taps == 7 && reads_neighbours(w, tap_count))
        return filter_tap_rows_of<7>(w, taps, tap_count, columns, from, to, to_step);
      if (w.taps == 5 && reads_neighbours(w, tap_count))
        return filter_tap_rows_of<5>(w, taps, tap_count, columns, from, to, to_step);
    }
    const Panels parts(columns, kMostPixels);
    for (int64_t i = 0; i < parts.count; ++i) {
      const int64_t p = parts.start(i);
      for (int64_t t = 0; t < std::max<int64_t>(tap_count, 1); t += kReductionBlock)
        kFilter<A>[parts.rows(i) - 1](weight_, taps + t, std::min(kReductionBlock, tap_count - t), bias_, from + p * W,
                                      to + p * to_step * W, to_step, t > 0);
    }
  }

  static bool reads_neighbours(const GatherAxis& w, int64_t tap_count) {
    return w.step == 1 && (w.off_step == 1 || w.off_step == -1) && tap_count > 0 && tap_count <= kReductionBlock;
  }

  template <int kTaps>
  [[gnu::noinline]] void filter_tap_rows_of(const GatherAxis& w, const LaneTap* taps, int64_t tap_count,
                                            int64_t columns, const A* from, A* to, int64_t to_step) const {
    const bool ascending = w.off_step > 0;
    const int64_t lowest = q_[2] + (ascending ? w.off0 : tap_offset(w, kTaps - 1));
    const bool zeros = job_.source_mode == PaddingMode::kZeros;
    const Panels parts(columns, kMostRowPixels);
    for (int64_t i = 0; i < parts.count; ++i) {
      const int64_t p = parts.start(i), begin = zeros ? -(lowest + p) : 0;
      kFilterTapRows<A, kTaps>[static_cast<std::size_t>(parts.rows(i) - 1)](
          {weight_, ascending ? taps : taps + kTaps - 1, kTaps, ascending ? w.tap_step : -w.tap_step, tap_count / kTaps,
           begin, zeros ? w.extent + begin : columns + kTaps, from + p * W, to + p * to_step * W, to_step},
          bias_);
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
