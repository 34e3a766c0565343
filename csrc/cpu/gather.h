// Reading the image side of a convolution into panels: im2col, one panel at a time. Include only from engine.inl.h.
//
// A panel row belongs to one (channel, tap), a panel column to one pixel of the result. Pixels are numbered
// n * positions + q over the whole batch and cut into runs that stay within one row of one image, so that a run reads
// source elements at a constant distance. Padding, stride, dilation, layout and the element type are all settled here;
// the micro-kernel sees plain numbers.
//
//   pixel-wise     for each (channel, tap): copy the runs. For sources whose rows are contiguous (NCHW), and in
//                  general: any strides work.
//   channel-wise   for each (pixel, tap): take the run of channels. For sources whose channels are contiguous
//                  (channels_last); the caller transposes or not, as its panel wants.
#pragma once

template <class T>
struct ImageReader {
  const T* data;  // first channel of the group
  Strides strides;
  const Region* region;
  PaddingMode mode;            // of coordinates outside of the source
  const ConvProblem* problem;  // for the axes of folded regions
};

// `len` pixels of image n from position q on, to panel columns from `column` on.
struct PixelRun {
  int32_t column, len;
  int64_t n, q[kSpatialAxes];
};

// The runs of pixels [first, first + count); returns how many. There are at most `count`.
inline int make_runs(const Region& r, int64_t first, int64_t count, PixelRun* runs) {
  const int64_t width = r.axis[2].count, height = r.axis[1].count, depth = r.axis[0].count;
  int64_t rest = first;
  PixelRun run;
  run.q[2] = rest % width, rest /= width;
  run.q[1] = rest % height, rest /= height;
  run.q[0] = rest % depth, run.n = rest / depth;
  int made = 0;
  for (int64_t column = 0; column < count;) {
    const int64_t len = std::min(width - run.q[2], count - column);
    run.column = static_cast<int32_t>(column);
    run.len = static_cast<int32_t>(len);
    runs[made++] = run;
    column += len;
    run.q[2] = 0;
    if (++run.q[1] == height) {
      run.q[1] = 0;
      if (++run.q[0] == depth) run.q[0] = 0, ++run.n;
    }
  }
  return made;
}

// A piece of a run under one tap: `len` columns from a source offset at a constant step, or zeros (offset < 0).
struct Piece {
  int32_t column, len;
  int64_t offset;
};

struct Tap {
  int64_t t[kSpatialAxes];
};

inline Tap tap_at(const Region& r, int64_t index) {
  const int64_t w = r.axis[2].taps, h = r.axis[1].taps;
  return {{index / (w * h), index / w % h, index % w}};
}

// Which of a zone's taps a tap of the kernel is, or -1 if the zone leaves it out.
inline int64_t zone_tap(const Region& zone, const Tap& kernel) {
  int64_t index = 0;
  for (int i = 0; i < kSpatialAxes; ++i) {
    const int64_t tap = kernel.t[i] - zone.axis[i].tap0;
    if (tap < 0 || tap >= zone.axis[i].taps) return -1;
    index = index * zone.axis[i].taps + tap;
  }
  return index;
}

inline int64_t tap_offset(const GatherAxis& g, int64_t tap) { return g.off0 + tap * g.off_step; }

// Number of q >= 0 with q * step + x < 0.
inline int64_t positions_below(int64_t x, int64_t step) { return x >= 0 ? 0 : step == 1 ? -x : (-x + step - 1) / step; }

// The pieces of all runs under one tap of a region that is not folded; at most 2 * runs + columns of them.
template <class T>
int make_pieces(const ImageReader<T>& image, const Tap& tap, const PixelRun* runs, int run_count, Piece* pieces) {
  const GatherAxis* g = image.region->axis;
  const PaddingMode mode = image.mode;
  const int64_t step = g[2].step, extent = g[2].extent;
  const int64_t off[kSpatialAxes] = {tap_offset(g[0], tap.t[0]), tap_offset(g[1], tap.t[1]),
                                     tap_offset(g[2], tap.t[2])};
  int made = 0;
  for (int i = 0; i < run_count; ++i) {
    const PixelRun& run = runs[i];
    const int64_t d = padded_source(mode, run.q[0] * g[0].step + off[0], g[0].extent);
    const int64_t h = padded_source(mode, run.q[1] * g[1].step + off[1], g[1].extent);
    if (d < 0 || h < 0) {
      pieces[made++] = {run.column, run.len, -1};
      continue;
    }
    const int64_t row = run.n * image.strides.outer + d * image.strides.axis[0] + h * image.strides.axis[1];
    const int64_t x = run.q[2] * step + off[2];  // source column of the first pixel
    const int64_t len = run.len;
    const int64_t begin = std::min(positions_below(x, step), len);
    const int64_t end = std::max(begin, std::min(positions_below(x - extent, step), len));
    const auto pad = [&](int64_t from, int64_t to) {
      if (mode == PaddingMode::kZeros) {
        if (from < to) pieces[made++] = {static_cast<int32_t>(run.column + from), static_cast<int32_t>(to - from), -1};
        return;
      }
      for (int64_t j = from; j < to; ++j)
        pieces[made++] = {static_cast<int32_t>(run.column + j), 1,
                          row + padded_source(mode, x + j * step, extent) * image.strides.axis[2]};
    };
    pad(0, begin);
    if (begin < end)
      pieces[made++] = {static_cast<int32_t>(run.column + begin), static_cast<int32_t>(end - begin),
                        row + (x + begin * step) * image.strides.axis[2]};
    pad(end, len);
  }
  return made;
}

// N elements of 16 or 32 bits from the low halves of what stands at `from` and, of the last ones, from the high halves
// of what stands one element earlier. bfloat16 may be widened: it is the high half of a float.
template <int N, class A, class T>
inline void copy_even_group(A* to, const T* from, bool last) {
  using One = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
  using Pair = std::conditional_t<sizeof(T) == 2, uint32_t, uint64_t>;
  if constexpr (N == 1) {
    if constexpr (std::is_same_v<T, A>) {
      *to = *from;
    } else {
      *to = widen(*from);
    }
  } else {
    typename Group<Pair, N>::type pairs;
    std::memcpy(&pairs, from - last, sizeof pairs);
    if constexpr (std::is_same_v<T, A>) {
      const auto even = __builtin_convertvector(last ? pairs >> 8 * sizeof(T) : pairs, typename Group<One, N>::type);
      std::memcpy(to, &even, sizeof even);
    } else {
      static_assert(std::is_same_v<T, BFloat16> && std::is_same_v<A, float>);
      const auto wide = last ? pairs & 0xffff0000u : pairs << 16;
      std::memcpy(to, &wide, sizeof wide);
    }
  }
}
// to[i] = from[2 * i] for 0 < len <= 2 * N.
template <int N, class A, class T>
inline void copy_even_fewer(A* to, const T* from, int64_t len) {
  if (len > N) {
    copy_even_group<N>(to, from, false);
    copy_even_group<N>(to + len - N, from + 2 * (len - N), true);
  } else if constexpr (N > 1) {
    copy_even_fewer<N / 2>(to, from, len);
  } else if (len == 1) {
    copy_even_group<1>(to, from, false);
  }
}
template <class A, class T>
inline void copy_even_bits(A* to, const T* from, int64_t len) {
  constexpr int N = kVectorBytes / 4;
  int64_t i = 0;
  for (; i + 2 * N < len; i += N) copy_even_group<N>(to + i, from + 2 * i, false);
  copy_even_fewer<N>(to + i, from + 2 * i, len - i);
}

// to[i] = from[2 * i], reading nothing beyond the last element.
template <class A>
inline void copy_even(A* to, const A* from, int64_t len) {
  if constexpr (sizeof(A) == 2) return copy_even_bits(to, from, len);
  constexpr int W = kLanes<A>;
  int64_t i = 0;
  for (; i + W < len; i += W) store(to + i, even_lanes<A>(load(from + 2 * i), load(from + 2 * i + W)));
  if (len - i == W) {
    store(to + i, even_lanes_overlapping<A>(load(from + 2 * i), load(from + 2 * i + W - 1)));
  } else if constexpr (sizeof(A) == 4) {
    copy_even_fewer<W / 2>(to + i, from + 2 * i, len - i);
  } else {
    for (; i < len; ++i) to[i] = from[2 * i];
  }
}

// to[i] = from[4 * i], likewise.
template <class A>
inline void copy_fourth(A* to, const A* from, int64_t len) {
  constexpr int W = kLanes<A>;
  int64_t i = 0;
  for (; i + W < len; i += W) {
    const A* p = from + 4 * i;
    store(to + i, even_lanes<A>(even_lanes<A>(load(p), load(p + W)), even_lanes<A>(load(p + 2 * W), load(p + 3 * W))));
  }
  for (; i < len; ++i) to[i] = from[4 * i];
}

template <class T, class A>
inline void copy_strided(A* to, const T* from, int64_t step, int64_t len) {
  if constexpr (std::is_same_v<T, A>) {
    if (step == 1) return copy_row(to, from, len);
    if (step == 2) return copy_even(to, from, len);
    if constexpr (sizeof(A) >= 4)
      if (step == 4) return copy_fourth(to, from, len);
  }
  if constexpr (std::is_same_v<T, BFloat16> && std::is_same_v<A, float>)
    if (step == 2) return copy_even_bits(to, from, len);
  if (step == 1) {
    for (int64_t i = 0; i < len; ++i) to[i] = widen(from[i]);
  } else {
    for (int64_t i = 0; i < len; ++i) to[i] = widen(from[i * step]);
  }
}

// Where panel rows go: row (channel, tap) of the block starts at to + channel * channel_step + tap * tap_step.
template <class A>
struct RowTarget {
  A* to;
  int64_t channel_step, tap_step;
};

// Folded regions: every column sums its padded images. Border pixels only, so simplicity wins over speed.
template <class T, class A>
void gather_folded(const ImageReader<T>& image, const Block& block, const PixelRun* runs, int run_count,
                   int64_t columns, const RowTarget<A>& target) {
  const ConvProblem& p = *image.problem;
  const GatherAxis* g = image.region->axis;
  // Calls visit(source coordinate) for each one that position q of an axis reads under tap t.
  const auto sources = [&](int axis, int64_t q, int64_t t, auto visit) {
    if (!g[axis].folded) {
      const int64_t x = q * g[axis].step + tap_offset(g[axis], t);
      if (x >= 0 && x < g[axis].extent) visit(x);
      return;
    }
    const ConvAxis& a = p.axis[axis];
    for_each_padded(p.mode, a, g[axis].out0 + q, [&](int64_t x) {
      const int64_t start = x + a.lo - t * a.dilation;
      if (start >= 0 && start % a.stride == 0 && start / a.stride < a.output) visit(start / a.stride);
    });
  };
  for (int64_t t = 0; t < block.taps; ++t) {
    const Tap tap = tap_at(*image.region, block.tap + t);
    A* rows = target.to + t * target.tap_step;
    for (int64_t c = 0; c < block.channels; ++c) std::fill_n(rows + c * target.channel_step, columns, A{0});
    for (int i = 0; i < run_count; ++i)
      for (int64_t j = 0; j < runs[i].len; ++j)
        sources(0, runs[i].q[0], tap.t[0], [&](int64_t d) {
          sources(1, runs[i].q[1], tap.t[1], [&](int64_t h) {
            sources(2, runs[i].q[2] + j, tap.t[2], [&](int64_t w) {
              const Strides& s = image.strides;
              const T* from = image.data + runs[i].n * s.outer + block.channel * s.channel + d * s.axis[0] +
                              h * s.axis[1] + w * s.axis[2];
              A* to = rows + runs[i].column + j;
              for (int64_t c = 0; c < block.channels; ++c) to[c * target.channel_step] += widen(from[c * s.channel]);
            });
          });
        });
  }
}

// Most pixels that one gather may span, and so the most pieces it makes.
inline constexpr int kMostColumns = 2 * kReductionBlock;
inline constexpr int kMostPieces = 3 * kMostColumns;

// Fills rows (channel, tap) x columns [0, columns) of a panel, pixel-wise. Columns from the last run's end on are
// zeroed.
template <class T, class A>
void gather_pixelwise(const ImageReader<T>& image, const Block& block, const PixelRun* runs, int run_count,
                      int64_t columns, const RowTarget<A>& target) {
  if (image.region->folded()) return gather_folded(image, block, runs, run_count, columns, target);
  Piece pieces[kMostPieces];
  const int64_t used = runs[run_count - 1].column + runs[run_count - 1].len;
  const int64_t step = image.region->axis[2].step * image.strides.axis[2];
  const T* data = image.data + block.channel * image.strides.channel;
  for (int64_t t = 0; t < block.taps; ++t) {
    int made = make_pieces(image, tap_at(*image.region, block.tap + t), runs, run_count, pieces);
    if (used < columns) pieces[made++] = {static_cast<int32_t>(used), static_cast<int32_t>(columns - used), -1};
    A* rows = target.to + t * target.tap_step;
    for (int i = 0; i < made; ++i) {
      A* to = rows + pieces[i].column;
      const int64_t len = pieces[i].len;
      if (pieces[i].offset < 0) {
        for (int64_t c = 0; c < block.channels; ++c) std::fill_n(to + c * target.channel_step, len, A{0});
      } else {
        const T* from = data + pieces[i].offset;
        for (int64_t c = 0; c < block.channels; ++c)
          copy_strided(to + c * target.channel_step, from + c * image.strides.channel, step, len);
      }
    }
  }
}

// rows[column] = the `channels` contiguous source elements that the column reads under one tap; zeros where it reads
// padding. Elements of another type are widened into `buffer` (columns x channels).
template <class T, class A>
void channel_rows(const ImageReader<T>& image, const Block& block, int64_t tap, const PixelRun* runs, int run_count,
                  const A* zeros, A* buffer, const A** rows) {
  Piece pieces[kMostPieces];
  const int made = make_pieces(image, tap_at(*image.region, block.tap + tap), runs, run_count, pieces);
  const int64_t step = image.region->axis[2].step * image.strides.axis[2];
  for (int i = 0; i < made; ++i)
    for (int32_t j = 0; j < pieces[i].len; ++j) {
      const int32_t column = pieces[i].column + j;
      if (pieces[i].offset < 0) {
        rows[column] = zeros;
        continue;
      }
      const T* from = image.data + block.channel + pieces[i].offset + j * step;
      if constexpr (std::is_same_v<T, A>) {
        rows[column] = from;
      } else {
        A* to = buffer + column * block.channels;
        for (int64_t c = 0; c < block.channels; ++c) to[c] = widen(from[c]);
        rows[column] = to;
      }
    }
}

// What a panel column that reads nothing is made of.
template <class A>
alignas(64) inline constexpr A kZeros[kReductionBlock] = {};
