// From sums to wgrad's result, and from [tap][channel], as products leave a filter's sums, to its [channel][tap].
// Include only from engine.inl.h.
#pragma once

// Writes filter `index` of the result from sums that stand at tap * tap_distance + channel * channel_distance.
template <class T, class A>
void write_filter(const WgradJob& job, int64_t index, const A* sum, int64_t tap_distance, int64_t channel_distance) {
  const Strides& s = job.result_strides;
  T* result = static_cast<T*>(job.result) + index * s.outer;
  for (int64_t t = 0; t < job.source_region.taps(); ++t) {
    const Tap tap = tap_at(job.source_region, t);
    T* to = result + tap.t[0] * s.axis[0] + tap.t[1] * s.axis[1] + tap.t[2] * s.axis[2];
    store_line(to, s.channel, sum + t * tap_distance, channel_distance, job.problem->in_channels);
  }
}

// Sums that are turned together.
inline constexpr int kTapsAtOnce = 32;
template <class A>
inline constexpr int kChannelsAtOnce = 8 * kLanes<A>;

// Vector I of the result of interleave_taps: the lanes of tap after tap join those of the taps before.
template <int kTaps, std::size_t I, class A>
inline Vector<A> interleaved(const Vector<A> (&row)[kTaps]) {
  constexpr std::size_t W = kLanes<A>;
  constexpr auto channel = [](std::size_t l) { return (I * W + l) / kTaps; };
  constexpr auto tap = [](std::size_t l) { return (I * W + l) % kTaps; };
  constexpr auto first = [=](std::size_t l) { return tap(l) == 1 ? W + channel(l) : channel(l); };
  constexpr auto third = [=](std::size_t l) { return tap(l) == 2 ? W + channel(l) : l; };
  constexpr auto fourth = [=](std::size_t l) { return tap(l) == 3 ? W + channel(l) : l; };
  Vector<A> v = shuffle<A>(row[0], row[1], first, LaneSequence<A>{});
  if constexpr (kTaps > 2) v = shuffle<A>(v, row[2], third, LaneSequence<A>{});
  if constexpr (kTaps > 3) v = shuffle<A>(v, row[3], fourth, LaneSequence<A>{});
  return v;
}

// to[c][tap] = rows[tap][c] of a few taps, for which a square would be empty for the most part: each vector of the
// result takes a shuffle for every tap but one.
template <int kTaps, class A>
inline void interleave_taps(const A* const* rows, int64_t n, A* to) {
  constexpr int W = kLanes<A>;
  for (int64_t c = 0; c < n; c += W) {
    Vector<A> row[kTaps];
    for (int t = 0; t < kTaps; ++t) {
      A part[W] = {};
      if (c + W > n) copy_fewer<W>(part, rows[t] + c, n - c);
      row[t] = load(c + W > n ? part : rows[t] + c);
    }
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (store(to + c * kTaps + I * W, interleaved<kTaps, I, A>(row)), ...);
    }(std::make_index_sequence<kTaps>{});
  }
}

// Writes channels [c, c + n) under all taps of one filter, whose sums under a tap stand at sums_of(tap): some taps at
// a time, turned where they are the inner index of the result.
template <class T, class A, class SumsOf>
inline void store_taps(const WgradJob& job, T* result, int64_t c, int64_t n, SumsOf sums_of) {
  constexpr int kTaps = kTapsAtOnce, kChannels = kChannelsAtOnce<A>;
  const int64_t taps = job.source_region.taps();
  const bool turns = taps > 1 && job.result_strides.channel == taps && job.taps_are_dense();
  A turned[kTaps * kChannels];
  for (int64_t first = 0; first < taps; first += kTaps) {
    const int64_t count = std::min<int64_t>(kTaps, taps - first);
    const A* rows[kTaps];
    for (int64_t t = 0; t < count; ++t) {
      rows[t] = sums_of(first + t);
      if (!turns)
        store_line(result + job.result_offset(first + t) + c * job.result_strides.channel, job.result_strides.channel,
                   rows[t], 1, n);
    }
    if (!turns) continue;
    switch (count) {
      case 2: interleave_taps<2>(rows, n, turned); break;
      case 3: interleave_taps<3>(rows, n, turned); break;
      case 4: interleave_taps<4>(rows, n, turned); break;
      default: transpose_rows(rows, static_cast<int>(count), n, turned);
    }
    if (count == taps) {
      store_line(result + c * taps, 1, turned, 1, n * taps);
    } else {
      for (int64_t i = 0; i < n; ++i) store_line(result + (c + i) * taps + first, 1, turned + i * count, 1, count);
    }
  }
}

// Adds the slices' partial results in order and writes result row `index`, counted over (group, k).
template <class T, class A>
void finish_wgrad_row(const WgradJob& job, int64_t index) {
  constexpr int64_t kChannels = kChannelsAtOnce<A>;
  const ConvProblem& p = *job.problem;
  const int64_t group = index / p.out_channels, row = index % p.out_channels;
  const int64_t slice_distance = p.groups * job.partial_elements();
  const A* partial = static_cast<const A*>(job.partial) + group * job.partial_elements() + row * job.partial_columns();
  T* result = static_cast<T*>(job.result) + index * job.result_strides.outer;
  A sums[kTapsAtOnce * kChannels];
  for (int64_t c = 0; c < p.in_channels; c += kChannels) {
    const int64_t n = std::min(kChannels, p.in_channels - c);
    store_taps<T, A>(job, result, c, n, [&](int64_t tap) {
      const A* from = partial + tap * job.tap_distance() + c;
      if (job.slices == 1) return from;
      A* sum = sums + tap % kTapsAtOnce * kChannels;
      copy_row(sum, from, n);
      for (int64_t s = 1; s < job.slices; ++s)
        for (int64_t i = 0; i < n; ++i) sum[i] += from[s * slice_distance + i];
      return static_cast<const A*>(sum);
    });
  }
}
