// fprop and dgrad on channels_last images to a few result channels. Include only from engine.inl.h.
//
//   result[q, m] = bias[m] + sum over taps t, channels c of source[x(q, t)][c] * weight[t][m][c]
//
// Two result channels fill an eighth of a vector, for which each term of a pixel would be broadcast. So the source's
// channels lie along the vector, as they lie in memory:
//
//                 c .. c + W                     P pixels by all M result channels are P * M sums of lanes, about as
//   pixel q       x[q] * w[0] | x[q] * w[1]      many as a vector has: P + M loads for P * M multiply-adds. Their lanes
//   pixel q + 1   x[q + 1] * w[0] | ..           are then added up, all at once, into one vector [pixel][channel], the
//   ..                                           order of the result.
//
// Rows, taps and edges are depthwise_channels.h's: interior pixels run P at a time, those with a tap in the padding one
// by one. The weight is transposed to [tap][m][c] once a call.
#pragma once

template <class T, class A>
void pack_narrow_tap(const ConvJob& job, int64_t index) {
  const RegionJob* r = job.wave.data();
  while (r + 1 < job.wave.data() + job.wave.size() && (r + 1)->first_pack <= index) ++r;
  const Tap tap = tap_at(*r->region, index - r->first_pack);
  const T* from = static_cast<const T*>(job.weight);
  for (int i = 0; i < kSpatialAxes; ++i)
    from += (r->region->axis[i].tap0 + tap.t[i] * r->region->axis[i].tap_step) * job.weight_tap[i];
  A* to = static_cast<A*>(job.packed_weight) + index * job.rows * job.depth;
  for (int64_t m = 0; m < job.rows; ++m)
    for (int64_t c = 0; c < job.depth; ++c)
      to[m * job.depth + c] = widen(from[m * job.weight_row + c * job.weight_depth]);
}

// Calls visit.template operator()<M>() with the number of result channels.
template <class A, class Visit>
inline void with_result_channels(int64_t channels, Visit visit) {
  if (channels == 1) return visit.template operator()<1>();
  if (channels == 2) return visit.template operator()<2>();
  if constexpr (kLanes<A> >= 4) {
    if (channels == 3) return visit.template operator()<3>();
    if (channels == 4) return visit.template operator()<4>();
  }
}

// A unit is one row of result pixels, counted over (region, image, depth, height).
template <class T, class A, int M>
class NarrowChannels {
  static constexpr int W = kLanes<A>, kPixels = W / M;

 public:
  // The workspace holds a pointer a tap row and two lists of taps.
  NarrowChannels(const ConvJob& job, void* workspace) : job_(job), epilogue_(job) {
    const int64_t taps = kernel_taps(*job.problem);
    rows_ = static_cast<const T**>(workspace);
    inner_ = reinterpret_cast<TapRun<T, A>*>(rows_ + taps);
    edge_ = inner_ + taps;
    A bias[W] = {};
    if (job.epilogue.bias)
      for (int i = 0; i < W; ++i) bias[i] = static_cast<const A*>(job.packed_bias)[i % M];
    bias_ = load(bias);
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
    to_step_ = g[2].out_step * s.axis[2];
    tap_step_ = rows.tap_step(), pixel_step_ = rows.advance();
    weight_ = static_cast<const A*>(job_.packed_weight) + r->first_pack * M * job_.depth;
    const auto [begin, end] = rows.inner(0, rows.columns(), g[2].count);
    const auto multiply_edge = [&](int64_t first, int64_t last) {
      for (int64_t q = first; q < last; ++q) {
        int64_t taps = 1, runs = 0;
        if (job_.source_mode == PaddingMode::kZeros) {
          const auto [t, inside] = rows.taps_inside(q);
          runs = inside > 0 ? list_rows(rows, q, t, edge_) : 0, taps = inside;
        } else {
          runs = list_taps(rows, q);
        }
        multiply<1>({edge_, runs, taps, 0}, to + q * to_step_);
      }
    };
    multiply_edge(0, begin);
    if (begin < end) {
      const int64_t taps = rows.columns(), runs = taps > 0 ? list_rows(rows, begin, 0, inner_) : 0;
      int64_t q = begin;
      // The last pixels are computed with some before them once more.
      if (end - begin >= kPixels)
        for (; q < end; q += kPixels) {
          const int64_t first = std::min(q, end - kPixels);
          multiply<kPixels>({inner_, runs, taps, first - begin}, to + first * to_step_);
        }
      for (; q < end; ++q) multiply<1>({inner_, runs, taps, q - begin}, to + q * to_step_);
    }
    multiply_edge(end, g[2].count);
  }

 private:
  // The taps of a tile, as the pixel that they were listed for reads them, and how many pixels on the tile starts.
  struct Taps {
    const TapRun<T, A>* run;
    int64_t runs, taps;  // taps of a run
    int64_t shift;
  };

  // Addresses follow from a pointer for every third pixel, as in filter_lanes.
  template <int P>
  void multiply(const Taps& given, T* to) const {
    constexpr int kBases = (P + 2) / 3;
    Vector<A> sum[P * M] = {};
    const int64_t depth = job_.depth, pixel_step = pixel_step_, taps = given.taps;
    for (const TapRun<T, A>*run = given.run, *end = run + given.runs; run != end; ++run) {
      const T* source = run->source + given.shift * pixel_step;
      const A* weight = run->weight;
      for (int64_t t = 0; t < taps; ++t, source += tap_step_, weight += M * depth) {
        const T* base[kBases];
        base[0] = source;
#pragma GCC unroll 8
        for (int i = 1; i < kBases; ++i) base[i] = base[i - 1] + 3 * pixel_step;
        for (int64_t c = 0; c < depth; c += W) {
          Vector<A> w[M];
#pragma GCC unroll 4
          for (int m = 0; m < M; ++m) w[m] = load(weight + m * depth + c);
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) {
            const Vector<A> x = load_widened<A>(base[p / 3] + p % 3 * pixel_step);
#pragma GCC unroll 4
            for (int m = 0; m < M; ++m) sum[p * M + m] += x * w[m];
          }
#pragma GCC unroll 8
          for (int i = 0; i < kBases; ++i) base[i] += W;
        }
      }
    }
    Vector<A> lanes[W] = {};
#pragma GCC unroll 16
    for (int i = 0; i < P * M; ++i) lanes[i] = sum[i];
    finish<P>(bias_ + sum_of_lanes<A>(lanes), to);
  }

  template <int P>
  void finish(Vector<A> result, T* to) const {
    A sums[2 * W] = {};  // `write` reads beyond the last
    if constexpr (std::is_same_v<T, A> && P * M == W)
      if (epilogue_.is_bias() && to_step_ == M) return store(to, result);
    store(sums, result);
    if (!epilogue_.is_bias()) return epilogue_.write({to, to_step_, 1, sums, M, 1, P, M});
    if (to_step_ == M) return store_line(to, 1, sums, 1, P * M);
    for (int p = 0; p < P; ++p)
      for (int m = 0; m < M; ++m) to[p * to_step_ + m] = Narrow<T>::from(sums[p * M + m]);
  }

  const A* weight_of(int64_t tap) const { return weight_ + tap * M * job_.depth; }

  // Lists the kernel rows inside of the image, as pixel q reads them from tap t of a row on.
  int64_t list_rows(const TapRows<T>& rows, int64_t q, int64_t t, TapRun<T, A>* runs) const {
    int64_t count = 0;
    for (int64_t row = 0; row < rows.rows(); ++row)
      if (rows_[row]) runs[count++] = {rows.at(row, t, q), weight_of(row * rows.columns() + t)};
    return count;
  }
  // Lists the taps that read inside of the image, or what pads it, for pixel q.
  int64_t list_taps(const TapRows<T>& rows, int64_t q) const {
    int64_t count = 0;
    for (int64_t row = 0; row < rows.rows(); ++row)
      for (int64_t t = 0; rows_[row] && t < rows.columns(); ++t)
        if (const T* from = rows.at(row, t, q)) edge_[count++] = {from, weight_of(row * rows.columns() + t)};
    return count;
  }

  const ConvJob& job_;
  const EpilogueOf<T, A> epilogue_;
  Vector<A> bias_;  // of the result channels, over and over
  const T** rows_;
  TapRun<T, A>* inner_;
  TapRun<T, A>* edge_;
  int64_t to_step_ = 0, tap_step_ = 0, pixel_step_ = 0;
  const A* weight_ = nullptr;  // of the region
};
