// Grouped wgrad, with the filters of a group along the vector. Include only from engine.inl.h.
//
//   result[k, (c, t)] = sum over p of stage[offset(c, t) + p] * grad[p][k]
//
//   grad: pixel p   +------------------+       One step of p: load a vector of filters, broadcast what 8 channels read
//                   | grad[p][k .. k+W)|       there under 3 taps: 24 FMAs for 25 loads, and no sum over lanes at the
//   stage  +------+ +------------------+       end (correlation.h), which on few pixels takes longer than the
//   (c, t) | p .. | |  sums            |       products.
//          +------+ +------------------+
//
// A unit is a vector of filters of one group: all images, in order. The image is staged as for fprop (grouped_job.h),
// grad turned into [pixel][k], or copied. Sums run over at most kReductionBlock pixels before they are added up.
#pragma once

// Of a tile: more than the eight sums that hide an FMA's latency, so that loads which come late hide as well, while its
// addresses, channels at one distance and taps at another, still fit the integer registers. Where a group has one or
// two channels, tiles of a channel take more taps.
inline constexpr int kMostTileTaps = 3, kMostTileChannels = kVectorBytes == 64 ? 8 : 4;

template <class A>
struct GroupedWgradTile {
  const A* grad;    // [row][column][lane]
  const A* source;  // of the first pixel
  int64_t rows, columns, pitch;
  const int64_t* offset;  // of each tap of the tile
  int64_t channel_size;   // from a channel to the next in the stage
  A* to;                  // sums [tap][lane] of a channel, added to
  int64_t to_channel;     // from a channel to the next there
};

template <class A, int kChannels, int kTaps>
void multiply_terms(const GroupedWgradTile<A>& tile) {
  constexpr int W = kLanes<A>;
  Vector<A> sum[kChannels][kTaps] = {};
  int64_t tap[kTaps];  // from the first tap
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) tap[t] = tile.offset[t] - tile.offset[0];
  const A* grad = tile.grad;
  for (int64_t y = 0; y < tile.rows; ++y) {
    const A* from[kChannels];
#pragma GCC unroll 8
    for (int c = 0; c < kChannels; ++c) from[c] = tile.source + tile.offset[0] + y * tile.pitch + c * tile.channel_size;
    for (int64_t x = 0; x < tile.columns; ++x, grad += W) {
      const Vector<A> g = load(grad);
#pragma GCC unroll 8
      for (int c = 0; c < kChannels; ++c)
#pragma GCC unroll 8
        for (int t = 0; t < kTaps; ++t) sum[c][t] += g * from[c][x + tap[t]];
    }
  }
  A* const first = tile.to;
  const int64_t channel = tile.to_channel;
#pragma GCC unroll 8
  for (int c = 0; c < kChannels; ++c)
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) {
      A* to = first + c * channel + t * W;
      store(to, load(to) + sum[c][t]);
    }
}

template <class A>
using MultiplyTerms = void (*)(const GroupedWgradTile<A>&);
template <class A, int kChannels, std::size_t... T>
constexpr auto multiply_term_functions(std::index_sequence<T...>) {
  return std::array<MultiplyTerms<A>, kMostInFlight>{&multiply_terms<A, kChannels, static_cast<int>(T) + 1>...};
}
template <class A, std::size_t... C>
constexpr auto multiply_channel_functions(std::index_sequence<C...>) {
  return std::array{multiply_term_functions<A, static_cast<int>(C) + 1>(
      std::make_index_sequence<(C == 0 ? kMostInFlight : kMostTileTaps)>{})...};
}
// kMultiplyTerms<A>[channels - 1][taps - 1]
template <class A>
inline constexpr auto kMultiplyTerms = multiply_channel_functions<A>(std::make_index_sequence<kMostTileChannels>{});

template <class T, class A>
class GroupedWgrad {
 public:
  GroupedWgrad(const WgradJob& job, const GroupedShape& shape, std::byte* workspace)
      : GroupedWgrad(job, shape, workspace, GroupedWgradWorkspace(shape, kLanes<A>, sizeof(A))) {}

  void run(int64_t unit) {
    const ConvProblem& p = *job_.problem;
    const int64_t vector = unit % shape_.vectors, group = unit / shape_.vectors;
    const int64_t first = group * shape_.rows + vector * W, lanes = std::min<int64_t>(W, shape_.rows - vector * W);
    const Strides& s = job_.source_strides;
    const T* source = static_cast<const T*>(job_.source) + group * shape_.depth * s.channel;
    std::fill_n(sums_, shape_.depth * shape_.taps * W, A{0});
    for (int64_t n = 0; n < p.batch; ++n) {
      stager_.fill(source + n * s.outer, shape_.depth);
      turn_grad(static_cast<const T*>(job_.grad) + n * job_.grad_strides.outer + first * job_.grad_strides.channel,
                lanes);
      add_image();
    }
    write(first, lanes);
  }

 private:
  static constexpr int W = kLanes<A>;

  GroupedWgrad(const WgradJob& job, const GroupedShape& shape, std::byte* workspace, const GroupedWgradWorkspace& at)
      : job_(job),
        shape_(shape),
        offset_(reinterpret_cast<int64_t*>(workspace + at.offsets)),
        stage_(reinterpret_cast<A*>(workspace + at.stage)),
        grad_(reinterpret_cast<A*>(workspace + at.grad)),
        sums_(reinterpret_cast<A*>(workspace + at.sums)),
        stager_(shape.staged, shape.band, shape.mode, job.source_strides,
                reinterpret_cast<RowCopy*>(workspace + at.copies), stage_, shape.stage_elements()) {
    for (int64_t t = 0; t < shape.taps; ++t) {
      const Tap tap = tap_at(job.source_region, t);
      offset_[t] = shape.offset(job.source_region, 0, tap.t[1], tap.t[2]);
    }
  }

  // grad_[pixel][lane]; lanes without a filter repeat the last.
  void turn_grad(const T* from, int64_t lanes) const {
    const Strides& s = job_.grad_strides;
    if (s.channel == 1) return copy_grad(from, lanes);
    Planes<const T, A> planes;
    for (int64_t l = 0; l < W; ++l) planes.start[l] = from + std::min(l, lanes - 1) * s.channel;
    const int64_t height = shape_.pixels / shape_.width;
    const bool dense = height == 1 || s.axis[1] == shape_.width * s.axis[2];
    const int64_t lines = dense ? 1 : height, pixels = shape_.pixels / lines;
    planes.room = (height - 1) * s.axis[1] + (shape_.width - 1) * s.axis[2] + 1;
    A* to = grad_;
    for (int64_t y = 0; y < lines; ++y)
      for (int64_t x = 0; x < pixels; x += W)
        read_pixels<T, A>(planes, y * s.axis[1] + x * s.axis[2], s.axis[2], std::min<int64_t>(W, pixels - x),
                          [&](int, Vector<A> v) { store(to, v), to += W; });
  }

  // The same of filters that follow each other: no lane stands for another.
  void copy_grad(const T* from, int64_t lanes) const {
    const Strides& s = job_.grad_strides;
    A* to = grad_;
    for (int64_t i = 0; i < shape_.pixels; i += shape_.width, from += s.axis[1])
      for (int64_t x = 0; x < shape_.width; ++x, to += W) store(to, load_first<A>(from + x * s.axis[2], lanes));
  }

  void add_image() const {
    const int64_t height = shape_.pixels / shape_.width;
    const int64_t columns = std::min(shape_.width, kReductionBlock),
                  rows = std::max<int64_t>(1, kReductionBlock / shape_.width);
    const bool few = shape_.depth <= 2;
    const Panels channels(shape_.depth, few ? 1 : kMostTileChannels),
        taps(shape_.taps, few ? kMostInFlight : kMostTileTaps);
    for (int64_t y = 0; y < height; y += rows)
      for (int64_t x = 0; x < shape_.width; x += columns)
        for (int64_t i = 0; i < channels.count; ++i)
          for (int64_t j = 0; j < taps.count; ++j) {
            const int64_t c = channels.start(i), t = taps.start(j);
            kMultiplyTerms<A>[channels.rows(i) - 1][taps.rows(j) - 1](
                {grad_ + (y * shape_.width + x) * W, stage_ + c * shape_.band.channel_size + y * shape_.band.pitch + x,
                 std::min(rows, height - y), std::min(columns, shape_.width - x), shape_.band.pitch, offset_ + t,
                 shape_.band.channel_size, sums_ + (c * shape_.taps + t) * W, shape_.taps * W});
          }
  }

  void write(int64_t first, int64_t lanes) const {
    Planes<T, A> filters;
    for (int64_t l = 0; l < W; ++l)
      filters.start[l] = static_cast<T*>(job_.result) + (first + std::min(l, lanes - 1)) * job_.result_strides.outer;
    const auto as_they_are = [](Vector<A> sum, const T*, int64_t) { return sum; };
    const int64_t depth = shape_.depth, taps = shape_.taps;
    if (job_.result_strides.channel != 1 || depth == 1)
      return write_pixels<T, A>(sums_, filters, static_cast<int>(lanes), 0, 1, depth * taps, as_they_are);
    A* by_tap = grad_;
    const int64_t room = shape_.pixels;  // channels that fit there, now that all images are done
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t c = 0; c < depth; c += room) {
        const int64_t n = std::min(room, depth - c);
        for (int64_t i = 0; i < n; ++i) store(by_tap + i * W, load(sums_ + ((c + i) * taps + t) * W));
        write_pixels<T, A>(by_tap, filters, static_cast<int>(lanes), job_.result_offset(t) + c, 1, n, as_they_are);
      }
  }

  const WgradJob& job_;
  const GroupedShape& shape_;
  int64_t* offset_;
  A *stage_, *grad_, *sums_;
  PlaneStager<T, A> stager_;
};
