// Depthwise convolution of several filters a channel ("channel multiplier") on channels_last images, beside
// depthwise_channels.h, whose rows, runs and edges these are. Include only from engine.inl.h.
//
//   fprop   result[q, g * M + m] = bias + sum over taps t of weight[t][m][g] * source[x(q, t), g]
//   dgrad   result[q, g] = bias + sum over taps t, filters m of weight[t][g * M + m] * source[x(q, t), g * M + m]
//
// A vector of 16 channels meets M vectors of filters. Within the sums over taps no lane changes its place:
//
//   fprop   M sums of one source vector, a filter each, whose lanes are interleaved at the end: M log2 M shuffles
//   dgrad   M sums of M source vectors, of which M neighbouring lanes at a time are added up at the end
#pragma once

// The sums of M neighbouring lanes at a time, of the M * kLanes lanes of v.
template <class A, int M>
[[gnu::always_inline]] inline Vector<A> add_neighbours(Vector<A> (&v)[M]) {
#pragma GCC unroll 4
  for (int left = M / 2; left > 0; left /= 2)
#pragma GCC unroll 4
    for (int i = 0; i < left; ++i) v[i] = even_lanes<A>(v[2 * i], v[2 * i + 1]) + odd_lanes<A>(v[2 * i], v[2 * i + 1]);
  return v[0];
}

// kPixels neighbouring results, all their channels; of fprop, or (kAdds) dgrad.
template <class T, class A, int M, bool kAdds, int kPixels>
void filter_multiplied(const LaneRow<T, A>& given) {
  constexpr int W = kLanes<A>, kBases = (kPixels + 2) / 3, kResults = kAdds ? 1 : M;
  const LaneRow<T, A> row = given;  // in registers: a store to the result cannot change it
  for_each_channel_vector<A, 1>(
      row.channels, [&]<int kCount>(int64_t channel) __attribute__((always_inline)) {
        Vector<A> sum[kPixels][M] = {};
        const int64_t pixel_step = row.pixel_step, tap_step = row.tap_step, taps = row.taps, channels = row.channels;
        const int64_t first = kAdds ? channel * M : channel, apart = kAdds ? W : channels;
        const TapRun<T, A>* const end = row.run + row.runs;
        for (const TapRun<T, A>* run = row.run; run != end; ++run) {
          const T* base[kBases];
          base[0] = run->source + row.shift + first;
#pragma GCC unroll 8
          for (int i = 1; i < kBases; ++i) base[i] = base[i - 1] + 3 * pixel_step;
          const A* weight = run->weight + first;
          for (int64_t t = 0; t < taps; ++t, weight += M * channels) {
            Vector<A> w[M];
#pragma GCC unroll 4
            for (int m = 0; m < M; ++m) w[m] = load(weight + m * apart);
#pragma GCC unroll 16
            for (int p = 0; p < kPixels; ++p) {
              const T* from = base[p / 3] + p % 3 * pixel_step;
              Vector<A> x = load_widened<A>(from);
#pragma GCC unroll 4
              for (int m = 0; m < M; ++m) {
                if (kAdds && m > 0) x = load_widened<A>(from + m * W);
                sum[p][m] += w[m] * x;
              }
            }
#pragma GCC unroll 8
            for (int i = 0; i < kBases; ++i) base[i] += tap_step;
          }
        }
        const int64_t place = kAdds ? channel : channel * M;
        Vector<A> bias[kResults] = {};
        if (row.bias)
          for (int v = 0; v < kResults; ++v) bias[v] = load(row.bias + place + v * W);
        T* to = row.to + place;
        A sums[kPixels * kResults * W];
#pragma GCC unroll 16
        for (int p = 0; p < kPixels; ++p) {
          if constexpr (kAdds) {
            sum[p][0] = add_neighbours<A, M>(sum[p]);
          } else {
            shuffle_stages<A, M>(sum[p]);
          }
#pragma GCC unroll 4
          for (int v = 0; v < kResults; ++v) {
            const Vector<A> result = bias[v] + sum[p][v];
            if (row.epilogue) {
              store(sums + (p * kResults + v) * W, result);
            } else {
              store_narrowed<T, A>(to + p * row.to_step + v * W, result);
            }
          }
        }
        if (row.epilogue) finish_lanes<T, A, kPixels, kResults>(row, sums, to);
      });
}

template <class T, class A, int M, bool kAdds, int... I>
constexpr std::array<LaneFunction<T, A>, sizeof...(I)> multiplied_functions(std::integer_sequence<int, I...>) {
  return {&filter_multiplied<T, A, M, kAdds, I + 1>...};
}
template <class T, class A, int M, bool kAdds>
inline constexpr auto kFilterMultiplied =
    multiplied_functions<T, A, M, kAdds>(std::make_integer_sequence<int, std::max(1, kLanePixels<T, A> / M)>{});

// The functions of a job: of groups with as many channels on both sides, or of one channel on one side.
template <class T, class A>
inline LaneFilters<T, A> lane_filters(const ConvJob& job) {
  LaneFilters<T, A> filters;
  if (job.rows == job.depth) {
    with_group<A>(job.rows, [&]<int kGroup>() { filters = kFilterLanes<T, A, kGroup>; });
  } else if (job.depth == 1) {
    with_multiplier(job.rows, [&]<int M>() { filters = kFilterMultiplied<T, A, M, false>; });
  } else {
    with_multiplier(job.depth, [&]<int M>() { filters = kFilterMultiplied<T, A, M, true>; });
  }
  return filters;
}
