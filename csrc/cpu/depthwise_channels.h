// Depthwise and grouped convolution on channels_last images: channels lie along the vector, so nothing is staged and
// nothing moves.
//
//   result[q, k] = bias + sum over taps t, channels c of k's group of weight[t][c][k] * source[x(q, t), group(k) + c]
//
// A group has kGroup = 1 (depthwise), 2, 4 or 8 channels on both sides, so a vector of result channels meets the vector
// of the same source channels: for term c each lane needs its group's channel c, a shuffle by constants. Groups of one
// channel on one side and 2 or 4 on the other are depthwise_multiplier.h's, which brings the functions for their
// panels.
//
//                  tap 0        tap 1                    A panel of up to kLanePixels neighbouring result pixels shares
//   pixel q     x[0] * w[0]  x[1] * w[1]                 each vector of the weight; all that changes from one to
//   pixel q+1   x[1] * w[0]  x[2] * w[1]                 the next is a constant distance. One load (one shuffle, if
//   ..                                                   kGroup > 1) an FMA; 14 sums in flight hide its latency.
//
// Interior pixels run in panels without a test; those where a tap falls into the padding run one by one over a list of
// taps, several vectors of channels at a time for the same number of sums in flight. The weight is transposed to
// [tap][c][channel] once a call, or to what depthwise_multiplier.h says. Include only from engine.inl.h.
#pragma once

// Narrow types are widened lane by lane, which leaves fewer registers, and less to gain.
template <class T, class A>
inline constexpr int kLanePixels = !std::is_same_v<T, A> ? 4
                                   : kVectorBytes == 64  ? 14
                                                         : 7;

// Lane l of the result is channel kTerm of lane l's group.
template <class A, int kGroup, int kTerm>
inline Vector<A> spread(Vector<A> x) {
  if constexpr (kGroup == 1) {
    return x;
  } else {
    constexpr auto index = [](std::size_t i) { return i / kGroup * kGroup + kTerm; };
    return shuffle<A>(x, x, index, LaneSequence<A>{});
  }
}

// Calls visit.template operator()<kTerm>() for every channel of a group. Inlined whatever its size: sums that a
// function takes by reference live in memory.
template <int kGroup, class Visit>
[[gnu::always_inline]] inline void for_each_term(Visit visit) {
  [&]<int... kTerm>(std::integer_sequence<int, kTerm...>) __attribute__((always_inline)) {
    (visit.template operator()<kTerm>(), ...);
  }
  (std::make_integer_sequence<int, kGroup>{});
}

// Calls visit.template operator()<kGroup>() with the number of channels of a group, which divides a vector.
template <class A, class Visit>
inline void with_group(int64_t channels, Visit visit) {
  if (channels == 1) return visit.template operator()<1>();
  if (channels == 2) return visit.template operator()<2>();
  if constexpr (kLanes<A> >= 4)
    if (channels == 4) return visit.template operator()<4>();
  if constexpr (kLanes<A> >= 8)
    if (channels == 8) return visit.template operator()<8>();
}

// The same with the number of filters of a channel, where groups have one.
template <class Visit>
inline void with_multiplier(int64_t filters, Visit visit) {
  if (filters == 2) return visit.template operator()<2>();
  if (filters == 4) return visit.template operator()<4>();
}

// Visits channels [0, channels) in vectors: visit.template operator()<kCount>(first channel), kMost vectors at a time
// and then one. The last vector overlaps the one before it, which recomputes the same values; the plan sends fewer
// channels than a vector elsewhere.
template <class A, int kMost, class Visit>
inline void for_each_channel_vector(int64_t channels, Visit visit) {
  constexpr int W = kLanes<A>;
  int64_t c = 0;
  if constexpr (kMost > 1)
    for (; c + kMost * W <= channels; c += kMost * W) visit.template operator()<kMost>(c);
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
  // The first tap of a kernel row that reads inside of the image at position q, and how many do.
  std::pair<int64_t, int64_t> taps_inside(int64_t q) const {
    const GatherAxis& g = image_.region->axis[2];
    const auto inside = [&](int64_t t) {
      const int64_t w = q * g.step + tap_offset(g, t);
      return w >= 0 && w < g.extent;
    };
    int64_t first = 0, last = g.taps;
    while (first < last && !inside(first)) ++first;
    while (last > first && !inside(last - 1)) --last;
    return {first, last - first};
  }
  // Distance between what neighbouring taps read, and neighbouring positions.
  int64_t tap_step() const { return image_.region->axis[2].off_step * image_.strides.axis[2]; }
  int64_t advance() const { return image_.region->axis[2].step * image_.strides.axis[2]; }

  int64_t rows() const { return image_.region->axis[0].taps * image_.region->axis[1].taps; }
  int64_t columns() const { return image_.region->axis[2].taps; }

 private:
  const ImageReader<T>& image_;
  const T** rows_;
};

// Gathers one tap's weights of all channels for [tap][c][channel]; steps are counted over (region, tap). Where only one
// side of a group has several channels: depthwise_multiplier.h's [tap][m][group], of dgrad [tap][group][m].
template <class T, class A>
void pack_depthwise_tap(const ConvJob& job, int64_t index) {
  const RegionJob* r = job.wave.data();
  while (r + 1 < job.wave.data() + job.wave.size() && (r + 1)->first_pack <= index) ++r;
  const int64_t groups = job.problem->groups, rows = job.rows, depth = job.depth;
  const bool multiplied = rows != depth;
  const int64_t to_depth = multiplied ? 1 : groups * rows, to_row = multiplied ? groups : 1;
  const int64_t to_group = multiplied ? depth : rows;
  const Tap tap = tap_at(*r->region, index - r->first_pack);
  const T* from = static_cast<const T*>(job.weight);
  for (int i = 0; i < kSpatialAxes; ++i)
    from += (r->region->axis[i].tap0 + tap.t[i] * r->region->axis[i].tap_step) * job.weight_tap[i];
  A* to = static_cast<A*>(job.packed_weight) + index * groups * rows * depth;
  for (int64_t c = 0; c < depth; ++c, to += to_depth, from += job.weight_depth)
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t k = 0; k < rows; ++k)
        to[g * to_group + k * to_row] = widen(from[g * job.weight_group + k * job.weight_row]);
}

// Taps at one distance from each other in the source, and one after the other in the weight.
template <class T, class A>
struct TapRun {
  const T* source;  // what the first pixel reads
  const A* weight;
};

template <class T, class A>
struct LaneRow {
  const TapRun<T, A>* run;
  int64_t runs, taps;  // taps of a run
  int64_t tap_step;    // between the sources of neighbouring taps
  int64_t pixel_step;  // between the sources of neighbouring pixels
  int64_t channels;    // of all groups, on the side that has fewer
  int64_t shift;       // from the pixel that the runs were listed for, in elements
  const A* bias;       // or null
  T* to;
  int64_t to_step;  // between pixels of the result
  const EpilogueOf<T, A>* epilogue;
};

// What follows the sums of kPixels x kCount vectors that is more than a bias.
template <class T, class A, int kPixels, int kCount>
[[gnu::noinline]] void finish_lanes(const LaneRow<T, A>& row, A* sums, T* to) {
  constexpr int64_t kLength = kCount * kLanes<A>;
  const EpilogueOf<T, A> epilogue = *row.epilogue;
  if (!epilogue.is_clamp()) return epilogue.write({to, row.to_step, 1, sums, kLength, 1, kPixels, kLength});
  for (int64_t p = 0; p < kPixels; ++p)
    for (int64_t i = 0; i < kLength; i += kLanes<A>) {
      T* at = to + p * row.to_step + i;
      const Vector<A> sum = epilogue.add_residual(load(sums + p * kLength + i), at, 1, kLanes<A>);
      store_narrowed<T, A>(at, clamped<A>(sum, epilogue.clamp()));
    }
}

// kPixels neighbouring results, all their channels, kMost vectors of them at a time.
//
// A pointer for every third pixel and one distance address them all: base, base + distance, base + 2 * distance. Left
// alone, the compiler keeps thirteen multiples of the distance, more than there are registers.
template <class T, class A, int kGroup, int kPixels, int kMost>
void filter_lanes(const LaneRow<T, A>& given) {
  constexpr int W = kLanes<A>, kBases = (kPixels + 2) / 3;
  const LaneRow<T, A> row = given;  // in registers: a store to the result cannot change it
  for_each_channel_vector<A, kMost>(
      row.channels, [&]<int kCount>(int64_t channel) __attribute__((always_inline)) {
        Vector<A> sum[kPixels][kCount] = {};
        const int64_t pixel_step = row.pixel_step, tap_step = row.tap_step, taps = row.taps, channels = row.channels;
        const TapRun<T, A>* const end = row.run + row.runs;
        for (const TapRun<T, A>* run = row.run; run != end; ++run) {
          const T* base[kBases];
          base[0] = run->source + row.shift + channel;
#pragma GCC unroll 8
          for (int i = 1; i < kBases; ++i) base[i] = base[i - 1] + 3 * pixel_step;
          const A* weight = run->weight + channel;
          for (int64_t t = 0; t < taps; ++t) {
            for_each_term<kGroup>([&]<int kTerm>() __attribute__((always_inline)) {
              Vector<A> w[kCount];
#pragma GCC unroll 4
              for (int v = 0; v < kCount; ++v) w[v] = load(weight + v * W);
              weight += channels;
#pragma GCC unroll 16
              for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
                for (int v = 0; v < kCount; ++v)
                  sum[p][v] +=
                      w[v] * spread<A, kGroup, kTerm>(load_widened<A>(base[p / 3] + p % 3 * pixel_step + v * W));
            });
#pragma GCC unroll 8
            for (int i = 0; i < kBases; ++i) base[i] += tap_step;
          }
        }
        Vector<A> bias[kCount] = {};
        if (row.bias)
          for (int v = 0; v < kCount; ++v) bias[v] = load(row.bias + channel + v * W);
        T* to = row.to + channel;
        if (row.epilogue) {
          A sums[kPixels * kCount * W];
#pragma GCC unroll 16
          for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
            for (int v = 0; v < kCount; ++v) store(sums + (p * kCount + v) * W, bias[v] + sum[p][v]);
          return finish_lanes<T, A, kPixels, kCount>(row, sums, to);
        }
#pragma GCC unroll 16
        for (int p = 0; p < kPixels; ++p, to += row.to_step)
#pragma GCC unroll 4
          for (int v = 0; v < kCount; ++v) store_narrowed<T, A>(to + v * W, bias[v] + sum[p][v]);
      });
}

// Fewer pixels take more vectors of channels, for the same sums in flight.
template <class T, class A, int kPixels>
inline constexpr int kLaneVectors = kPixels * 2 > kLanePixels<T, A>   ? 1
                                    : kPixels * 4 > kLanePixels<T, A> ? 2
                                                                      : 4;

template <class T, class A>
using LaneFunction = void (*)(const LaneRow<T, A>&);
template <class T, class A, int kGroup, int... I>
constexpr std::array<LaneFunction<T, A>, sizeof...(I)> lane_functions(std::integer_sequence<int, I...>) {
  return {&filter_lanes<T, A, kGroup, I + 1, kLaneVectors<T, A, I + 1>>...};
}
template <class T, class A, int kGroup>
inline constexpr auto kFilterLanes = lane_functions<T, A, kGroup>(std::make_integer_sequence<int, kLanePixels<T, A>>{});

// The functions of a job's tiles: of so many pixels, up to the most.
template <class T, class A>
using LaneFilters = std::span<const LaneFunction<T, A>>;

// fprop and dgrad; a unit is one row of result pixels, counted over (region, image, depth, height).
template <class T, class A>
class DepthwiseChannels {
 public:
  // The workspace holds a pointer a tap row and two lists of taps.
  DepthwiseChannels(const ConvJob& job, LaneFilters<T, A> filters, void* workspace)
      : job_(job),
        epilogue_(job),
        filters_(filters),
        channels_(job.problem->groups * std::min(job.rows, job.depth)),
        tap_size_(job.problem->groups * job.rows * job.depth) {
    const int64_t taps = kernel_taps(*job.problem);
    rows_ = static_cast<const T**>(workspace);
    inner_ = reinterpret_cast<TapRun<T, A>*>(rows_ + taps);
    edge_ = inner_ + taps;
  }

  void run(int64_t index) {
    const RegionJob* r = region_of_unit(job_, index);
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
    LaneRow<T, A> row{};
    row.tap_step = rows.tap_step(), row.pixel_step = rows.advance();
    row.channels = channels_;
    row.bias = job_.epilogue.bias ? static_cast<const A*>(job_.packed_bias) : nullptr;
    row.to_step = g[2].out_step * s.axis[2];
    row.epilogue = epilogue_.is_bias() ? nullptr : &epilogue_;
    weight_ = static_cast<const A*>(job_.packed_weight) + r->first_pack * tap_size_;
    const auto [begin, end] = rows.inner(0, rows.columns(), g[2].count);
    const auto filter_edge = [&](int64_t first, int64_t last) {
      for (int64_t q = first; q < last; ++q) {
        row.run = edge_, row.taps = 1, row.shift = 0;
        if (job_.source_mode == PaddingMode::kZeros) {
          const auto [t, taps] = rows.taps_inside(q);
          row.runs = taps > 0 ? list_rows(rows, q, t, edge_) : 0, row.taps = taps;
        } else {
          row.runs = list_taps_of(rows, q);
        }
        row.to = to + q * row.to_step;
        filters_[0](row);
      }
    };
    filter_edge(0, begin);
    if (begin < end) {
      row.run = inner_, row.taps = rows.columns();
      row.runs = row.taps > 0 ? list_rows(rows, begin, 0, inner_) : 0;
      const Panels parts(end - begin, std::ssize(filters_));
      for (int64_t i = 0; i < parts.count; ++i) {
        row.shift = parts.start(i) * row.pixel_step;
        row.to = to + (begin + parts.start(i)) * row.to_step;
        filters_[static_cast<std::size_t>(parts.rows(i) - 1)](row);
      }
    }
    filter_edge(end, g[2].count);
  }

 private:
  const A* weight_of(int64_t tap) const { return weight_ + tap * tap_size_; }

  // Lists the kernel rows inside of the image, as pixel q reads them from tap t of a row on.
  int64_t list_rows(const TapRows<T>& rows, int64_t q, int64_t t, TapRun<T, A>* runs) const {
    int64_t count = 0;
    for (int64_t row = 0; row < rows.rows(); ++row)
      if (rows_[row]) runs[count++] = {rows.at(row, t, q), weight_of(row * rows.columns() + t)};
    return count;
  }

  // Lists the taps that read inside of the image for pixel q.
  int64_t list_taps_of(const TapRows<T>& rows, int64_t q) const {
    int64_t count = 0;
    for (int64_t row = 0; row < rows.rows(); ++row)
      for (int64_t tw = 0; rows_[row] && tw < rows.columns(); ++tw)
        if (const T* from = rows.at(row, tw, q)) edge_[count++] = {from, weight_of(row * rows.columns() + tw)};
    return count;
  }

  const ConvJob& job_;
  const EpilogueOf<T, A> epilogue_;
  const LaneFilters<T, A> filters_;
  int64_t channels_, tap_size_;  // lanes of a pixel; weights of a tap
  const T** rows_;
  TapRun<T, A>* inner_;
  TapRun<T, A>* edge_;
  const A* weight_ = nullptr;
};
