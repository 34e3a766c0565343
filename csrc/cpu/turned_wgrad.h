// wgrad of few channels in NCHW as outer products of pixels (outer_wgrad.h), for which lines of both images are turned
// first. Include only from engine.inl.h.
//
//   image[c][y][x]   ->   stage[row][x][c]                 with its padding, once for all taps of a plane
//   grad[k][pixel]   ->   turned[vector of k][pixel][W]    once for all taps
//
//                       turned[..][pixel]: NV vectors of filters
//                            +---------+---------+
//   stage[row][x][..]        | sum     | sum     |    One pixel: NV loads, MR broadcasts, MR * NV fused multiply-adds.
//   broadcast: a row of      |  MR rows|         |    What a row of taps reads, (tw, c), is one run in the stage,
//   taps of all channels     +---------+---------+    whatever the stride: three channels under seven taps are 21.
//
// Correlation adds up the lanes of every sum at the end of a chunk, and multiplies what lies between two rows; here a
// chunk's sums are vectors of the result, and only pixels are multiplied. It takes K / 2 cycles a pixel to turn the
// gradient, against (C taps) K / 32 of products.
#pragma once

// to[i * kChannels + c] = from[c * distance + i] for i < len.
template <int kChannels, class A>
void join_channels(const A* from, int64_t distance, int64_t len, A* to) {
  constexpr int W = kLanes<A>;
  const auto join = [](const A* source, int64_t apart, A* target) __attribute__((always_inline)) {
    Vector<A> row[kChannels];
    for (int c = 0; c < kChannels; ++c) row[c] = load(source + c * apart);
    const auto store_all = [&]<std::size_t... V>(std::index_sequence<V...>) __attribute__((always_inline)) {
      (store(target + static_cast<int>(V) * W, interleaved<kChannels, V, A>(row)), ...);
    };
    store_all(std::make_index_sequence<kChannels>{});
  };
  if (len < W) {
    A part[kChannels * W] = {}, joint[kChannels * W];
    for (int c = 0; c < kChannels; ++c) copy_fewer<W>(part + c * W, from + c * distance, len);
    join(part, W, joint);
    return copy_row(to, joint, len * kChannels);
  }
  for (int64_t i = 0; i < len; i += W) {
    i = std::min(i, len - W);  // the last vectors overlap those before
    join(from + i, distance, to + i * kChannels);
  }
}

// One unit: all filters, of one slice of the chunks.
template <class A>
class TurnedWgrad {
  static constexpr int W = kLanes<A>;

 public:
  TurnedWgrad(const WgradJob& job, void* workspace)
      : job_(job),
        p_(*job.problem),
        region_(job.source_region),
        lines_of_(region_, p_.batch),
        sizes_(lines_of_, region_, p_.in_channels, p_.out_channels, W),
        stage_(static_cast<A*>(workspace)),
        turned_(stage_ + sizes_.stage),
        columns_(region_.axis[2].taps * p_.in_channels) {}

  void run(int64_t slice) {
    to_ = static_cast<A*>(job_.partial) + slice * p_.out_channels * job_.columns();
    const int64_t chunks = lines_of_.chunks(p_.batch), begin = slice * chunks / job_.slices;
    const int64_t end = (slice + 1) * chunks / job_.slices;
    if (begin == end) std::fill_n(to_, p_.out_channels * job_.columns(), A{0});
    for (int64_t chunk = begin; chunk < end; ++chunk) run_chunk(chunk, chunk > begin);
  }

 private:
  // A piece of a result row.
  struct Place {
    int64_t n, d, h, w, length;
    int64_t row;  // of the stage, that its first tap reads
  };

  void run_chunk(int64_t chunk, bool add) {
    const GatherAxis* g = region_.axis;
    const int64_t first = chunk * lines_of_.in_chunk;
    count_ = std::min(first + lines_of_.in_chunk, p_.batch * lines_of_.in_image) - first;
    find_places(first);
    turn_grad();
    for (int64_t td = 0; td < g[0].taps; ++td) {
      stage_rows(td);
      for (int64_t th = 0; th < g[1].taps; ++th) {
        int64_t lines = 0;
        for (int64_t i = 0; i < count_; ++i) {
          const Place& place = places_[i];
          if (source_of(0, place.d, td) < 0 || source_of(1, place.h, th) < 0) continue;
          lines_[lines++] = {stage_ + (place.row + th) * sizes_.row, turned_ + i * lines_of_.length * W, place.length};
        }
        A* to = to_ + (td * g[1].taps + th) * columns_ * p_.out_channels;
        if (lines > 0) {
          multiply_run(lines, add, to);
        } else if (!add) {
          std::fill_n(to, columns_ * p_.out_channels, A{0});
        }
      }
    }
  }

  int64_t source_of(int axis, int64_t q, int64_t tap) const {
    const GatherAxis& g = region_.axis[axis];
    return padded_source(p_.mode, q * g.step + tap_offset(g, tap), g.extent);
  }

  // Lines below each other read some rows in common, which the stage has once.
  void find_places(int64_t first) {
    const GatherAxis* g = region_.axis;
    const int64_t in_row = divide_up(g[2].count, lines_of_.length);
    int64_t row = 0;
    for (int64_t i = 0; i < count_; ++i) {
      int64_t index = first + i;
      Place& place = places_[i];
      place.w = index % in_row * lines_of_.length, index /= in_row;
      place.h = index % g[1].count, index /= g[1].count;
      place.d = index % g[0].count, place.n = index / g[0].count;
      place.length = std::min(lines_of_.length, g[2].count - place.w);
      if (i > 0) row += is_below(i) ? g[1].step : std::max(g[1].step, g[1].taps);
      place.row = row;
    }
  }
  bool is_below(int64_t i) const {
    const Place &place = places_[i], &before = places_[i - 1];
    return place.n == before.n && place.d == before.d && place.h == before.h + 1 && place.w == before.w;
  }

  // Every line's gradient; lines that follow each other in memory as one.
  void turn_grad() {
    const Strides& s = job_.grad_strides;
    const A* grad = static_cast<const A*>(job_.grad);
    const auto start = [&](int64_t i) {
      const Place& place = places_[i];
      return place.n * s.outer + place.d * s.axis[0] + place.h * s.axis[1] + place.w * s.axis[2];
    };
    for (int64_t i = 0, end; i < count_; i = end) {
      int64_t length = places_[i].length;
      const auto goes_on = [&] {
        return s.axis[2] == 1 && length == (end - i) * lines_of_.length && start(end) == start(i) + length;
      };
      for (end = i + 1; end < count_ && goes_on(); ++end) length += places_[end].length;
      for (int64_t k = 0; k < p_.out_channels; k += W)
        turn_filters(grad + start(i) + k * s.channel, std::min<int64_t>(W, p_.out_channels - k), length,
                     turned_ + k * sizes_.pixels + i * lines_of_.length * W);
    }
  }

  void turn_filters(const A* from, int64_t filters, int64_t length, A* to) const {
    const int64_t step = job_.grad_strides.axis[2], distance = job_.grad_strides.channel;
    if (step == 1) {
      const A* row[W];
      for (int64_t i = 0; i < W; ++i) row[i] = i < filters ? from + i * distance : kZeros<A>;
      return transpose_rows(row, W, length, to);
    }
    for (int64_t j = 0; j < length; ++j)
      for (int64_t i = 0; i < W; ++i) to[j * W + i] = i < filters ? from[i * distance + j * step] : A{0};
  }

  // What the lines read under all taps of a plane.
  void stage_rows(int64_t td) const {
    int64_t done = 0;  // rows of the stage
    for (int64_t i = 0; i < count_; ++i) {
      const Place& place = places_[i];
      const int64_t d = source_of(0, place.d, td);
      for (int64_t row = std::max(place.row, done); d >= 0 && row < place.row + region_.axis[1].taps; ++row) {
        const int64_t h = source_of(1, place.h, row - place.row);
        if (h >= 0) stage_row(place, d, h, stage_ + row * sizes_.row);
      }
      done = place.row + region_.axis[1].taps;
    }
  }

  void stage_row(const Place& place, int64_t d, int64_t h, A* to) const {
    const GatherAxis& g = region_.axis[2];
    const Strides& s = job_.source_strides;
    const int64_t channels = p_.in_channels, pixels = (place.length - 1) * g.step + g.taps;
    const int64_t first = place.w * g.step + g.off0;
    const A* row = static_cast<const A*>(job_.source) + place.n * s.outer + d * s.axis[0] + h * s.axis[1];
    const int64_t begin = std::min(pixels, positions_below(first, 1));
    const int64_t end = std::max(begin, std::min(pixels, g.extent - first));
    const auto pad = [&](int64_t from, int64_t last) {
      for (int64_t i = from; i < last; ++i) {
        const int64_t x = padded_source(p_.mode, first + i, g.extent);
        for (int64_t c = 0; c < channels; ++c) to[i * channels + c] = x < 0 ? A{0} : row[x * s.axis[2] + c * s.channel];
      }
    };
    pad(0, begin);
    if (begin < end) turn_pixels(row + (first + begin) * s.axis[2], end - begin, to + begin * channels);
    pad(end, pixels);
  }

  void turn_pixels(const A* from, int64_t pixels, A* to) const {
    const int64_t channels = p_.in_channels, step = job_.source_strides.axis[2], distance = job_.source_strides.channel;
    if (step == 1 && channels == 1) return copy_row(to, from, pixels);
    if (step == 1 && channels == 2) return join_channels<2>(from, distance, pixels, to);
    if (step == 1 && channels == 3) return join_channels<3>(from, distance, pixels, to);
    if (step == 1 && channels <= kMostTurnedChannels) {
      const A* row[kMostTurnedChannels];
      for (int64_t c = 0; c < channels; ++c) row[c] = from + c * distance;
      return transpose_rows(row, static_cast<int>(channels), pixels, to);
    }
    for (int64_t i = 0; i < pixels; ++i)
      for (int64_t c = 0; c < channels; ++c) to[i * channels + c] = from[i * step + c * distance];
  }

  // All tiles of a row of taps.
  void multiply_run(int64_t lines, bool add, A* to) const {
    for (int64_t k = 0; k < p_.out_channels; k += kVectors * W) {
      if (p_.out_channels - k > W) {
        multiply_vectors<kVectors>(lines, k, add, to + k);
      } else {
        multiply_vectors<1>(lines, k, add, to + k);
      }
    }
  }

  template <int NV>
  void multiply_vectors(int64_t lines, int64_t first, bool add, A* to) const {
    alignas(kVectorBytes) A sums[kOuterRows<NV> * NV * W];
    int64_t column[NV];
    for (int v = 0; v < NV; ++v) column[v] = (first + v * W) * sizes_.pixels;
    const int64_t filters = std::min<int64_t>(NV * W, p_.out_channels - first);
    const int64_t row_step = region_.axis[2].step * p_.in_channels;
    const Panels rows(columns_, kOuterRows<NV>);
    for (int64_t i = 0; i < rows.count; ++i) {
      const int64_t row = rows.start(i), height = rows.rows(i);
      kOuter<A, NV>[height - 1]({lines_, lines, row_step, W, row, column, sums});
      for (int64_t r = 0; r < height; ++r) {
        A* sum = to + (row + r) * p_.out_channels;
        const A* from = sums + r * NV * W;
        int64_t j = 0;
        for (; j + W <= filters; j += W) store(sum + j, add ? load(sum + j) + load(from + j) : load(from + j));
        for (; j < filters; ++j) sum[j] = add ? sum[j] + from[j] : from[j];
      }
    }
  }

  const WgradJob& job_;
  const ConvProblem& p_;
  const Region& region_;
  const OuterLines lines_of_;
  const TurnedLines sizes_;
  A* stage_;
  A* turned_;
  const int64_t columns_;
  A* to_ = nullptr;
  int64_t count_ = 0;
  Place places_[kReductionBlock];
  OuterLine<A> lines_[kReductionBlock];
};

// Adds the slices' partial results [(tap, channel)][filter] in order, in the first one, and writes filters [begin,
// end).
template <class A>
void finish_turned_filters(const WgradJob& job, int64_t begin, int64_t end) {
  const ConvProblem& p = *job.problem;
  const int64_t filters = p.out_channels, columns = job.columns(), channels = p.in_channels;
  A* sum = static_cast<A*>(job.partial);
  for (int64_t s = 1; s < job.slices; ++s) {
    const A* partial = sum + s * filters * columns;
    for (int64_t i = 0; i < columns; ++i)
      for (int64_t k = begin; k < end; ++k) sum[i * filters + k] += partial[i * filters + k];
  }
  const int64_t taps = job.source_region.taps();
  if (!job.taps_are_dense() || (channels > 1 && job.result_strides.channel != taps)) {
    for (int64_t k = begin; k < end; ++k) write_filter<A>(job, k, sum + k, channels * filters, filters);
    return;
  }
  constexpr int W = kLanes<A>;
  A lines[W * W];
  for (int64_t j = 0; j < columns; j += W) {  // of the result: (channel, tap)
    const int64_t width = std::min<int64_t>(W, columns - j);
    for (int64_t k = begin; k < end; k += W) {
      const int64_t count = std::min<int64_t>(W, end - k);
      const A* row[W];
      for (int64_t i = 0; i < width; ++i) {
        const int64_t c = (j + i) / taps, t = (j + i) % taps;
        row[i] = sum + (t * channels + c) * filters + k;
      }
      transpose_rows(row, static_cast<int>(width), count, lines);
      for (int64_t i = 0; i < count; ++i)
        copy_row(static_cast<A*>(job.result) + (k + i) * job.result_strides.outer + j, lines + i * width, width);
    }
  }
}
