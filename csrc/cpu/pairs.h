// Panels of pairs: what an instruction that adds two products a lane multiplies. Include only from an engine.
//
// Channels 2p and 2p + 1 of the source stand side by side in the element of a panel that elsewhere holds one widened
// term, so a reduction over pairs is a reduction over half as many channels: blocks, panels, bands and workspace are
// those of the widened panels. An odd channel is paired with zeros, on both sides. wgrad pairs pixels. Packed fprop
// pairs neighbouring terms (channel, tap) of as many channels where its weight can be read as it lies (line_plan.h).
//
//   NCHW            pairs of rows are interleaved as they are copied           half the stores of widening
//   channels_last   neighbours in memory are a pair already: transposed whole  half the shuffles
//
// A is as wide as two elements and never calculated with: its bits are moved.
#pragma once

template <class T>
inline uint32_t pair_bits(T even, T odd) {
  return __builtin_bit_cast(uint16_t, even) | static_cast<uint32_t>(__builtin_bit_cast(uint16_t, odd)) << 16;
}

// to[i] = (even[i], odd[i]) for i < N, a power of two.
template <int N, class T, class A>
inline void interleave_group(A* to, const T* even, const T* odd) {
  static_assert(sizeof(T) == 2 && sizeof(A) == 4);
  if constexpr (N == 1) {
    const uint32_t bits = pair_bits(*even, *odd);
    std::memcpy(to, &bits, sizeof bits);
  } else {
    using Pairs = typename Group<uint32_t, N>::type;
    typename Group<uint16_t, N>::type low, high;
    std::memcpy(&low, even, sizeof low);
    std::memcpy(&high, odd, sizeof high);
    const Pairs pairs = __builtin_convertvector(low, Pairs) | __builtin_convertvector(high, Pairs) << 16;
    std::memcpy(to, &pairs, sizeof pairs);
  }
}

// The same for n < 2 * N, as copy_fewer: with at most two overlapping groups.
template <int N, class T, class A>
inline void interleave_fewer(A* to, const T* even, const T* odd, int64_t n) {
  if (n >= N) {
    interleave_group<N>(to, even, odd);
    interleave_group<N>(to + n - N, even + n - N, odd + n - N);
  } else if constexpr (N > 1) {
    interleave_fewer<N / 2>(to, even, odd, n);
  }
}

// The same for any n, reading and writing nothing outside of n elements.
template <class T, class A>
inline void interleave_row(A* to, const T* even, const T* odd, int64_t n) {
  constexpr int W = kLanes<A>;
  int64_t i = 0;
  for (; i + 2 * W <= n; i += W) interleave_group<W>(to + i, even + i, odd + i);
  interleave_fewer<W>(to + i, even + i, odd + i, n - i);
}

// to[i] = (even[2 * i], odd[2 * i]) for i < N: an element and the next are one lane. The last ones are read with the
// elements before them, as nothing may be read beyond.
template <int N, class T, class A>
inline void interleave_even_group(A* to, const T* even, const T* odd, bool last) {
  if constexpr (N == 1) {
    interleave_group<1>(to, even, odd);
  } else {
    typename Group<uint32_t, N>::type low, high;
    std::memcpy(&low, even - last, sizeof low);
    std::memcpy(&high, odd - last, sizeof high);
    const auto pairs = last ? low >> 16 | (high & 0xffff0000u) : (low & 0xffff) | high << 16;
    std::memcpy(to, &pairs, sizeof pairs);
  }
}
template <int N, class T, class A>
inline void interleave_even_fewer(A* to, const T* even, const T* odd, int64_t n) {  // n <= 2 * N
  if (n > N) {
    interleave_even_group<N>(to, even, odd, false);
    interleave_even_group<N>(to + n - N, even + 2 * (n - N), odd + 2 * (n - N), true);
  } else if constexpr (N > 1) {
    interleave_even_fewer<N / 2>(to, even, odd, n);
  } else if (n == 1) {
    interleave_group<1>(to, even, odd);
  }
}

// to[i] = (even[i * step], odd[i * step]); a missing `odd` is zeros.
template <class T, class A>
inline void interleave_strided(A* to, const T* even, const T* odd, int64_t step, int64_t n) {
  if (odd && step == 1) return interleave_row(to, even, odd, n);
  int64_t i = 0;
  if (odd && step == 2) {
    constexpr int W = kLanes<A>;
    for (; i + 2 * W < n; i += W) interleave_even_group<W>(to + i, even + 2 * i, odd + 2 * i, false);
    return interleave_even_fewer<W>(to + i, even + 2 * i, odd + 2 * i, n - i);
  }
  for (; i < n; ++i) {
    const uint32_t bits = pair_bits(even[i * step], odd ? odd[i * step] : T{});
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

// The pair of rows of source channels 2p, 2p + 1 of `channels`; nothing where there is no second.
template <class T>
inline const T* odd_channel(const T* even, int64_t p, int64_t channels, int64_t distance) {
  return 2 * p + 1 < channels ? even + distance : nullptr;
}

// gather_pixelwise on pairs: the block's channels are pairs of the source's `channels`.
template <class T, class A>
void gather_pairs_pixelwise(const ImageReader<T>& image, int64_t channels, const Block& block, const PixelRun* runs,
                            int run_count, int64_t columns, const RowTarget<A>& target) {
  Piece pieces[kMostPieces];
  const int64_t used = runs[run_count - 1].column + runs[run_count - 1].len;
  const int64_t step = image.region->axis[2].step * image.strides.axis[2], distance = image.strides.channel;
  for (int64_t t = 0; t < block.taps; ++t) {
    int made = make_pieces(image, tap_at(*image.region, block.tap + t), runs, run_count, pieces);
    if (used < columns) pieces[made++] = {static_cast<int32_t>(used), static_cast<int32_t>(columns - used), -1};
    for (int i = 0; i < made; ++i) {
      A* to = target.to + t * target.tap_step + pieces[i].column;
      const int64_t len = pieces[i].len;
      for (int64_t p = block.channel; p < block.channel + block.channels; ++p, to += target.channel_step) {
        if (pieces[i].offset < 0) {
          std::fill_n(to, len, A{0});
        } else {
          const T* even = image.data + 2 * p * distance + pieces[i].offset;
          interleave_strided(to, even, odd_channel(even, p, channels, distance), step, len);
        }
      }
    }
  }
}

// channel_rows on pairs, of an even number of contiguous channels.
template <class T, class A>
void channel_pair_rows(const ImageReader<T>& image, const Block& block, int64_t tap, const PixelRun* runs,
                       int run_count, const A* zeros, const A** rows) {
  Piece pieces[kMostPieces];
  const int made = make_pieces(image, tap_at(*image.region, block.tap + tap), runs, run_count, pieces);
  const int64_t step = image.region->axis[2].step * image.strides.axis[2];
  for (int i = 0; i < made; ++i)
    for (int32_t j = 0; j < pieces[i].len; ++j)
      rows[pieces[i].column + j] =
          pieces[i].offset < 0
              ? zeros
              : reinterpret_cast<const A*>(image.data + 2 * block.channel + pieces[i].offset + j * step);
}

// fprop's contiguous weight: row (pair, tap) of a channel's taps, which stand [channel][tap]. Few taps are short runs,
// copied one by one at some twenty cycles each; the vectors of a row are picked from two vectors of the weight instead,
// wherever their elements are, and that is the same for all result channels.
//
//   taps = 3:   a0 a1 a2 b0 b1 b2 | c0 c1 c2 d0 d1 d2 | ..    ->    (a0 b0) (a1 b1) (a2 b2) (c0 d0) (c1 d1) ..
template <class A, class Product>
class PairedTaps {
  static constexpr int W = kLanes<A>;

 public:
  // Taps up to which all elements of a vector are within reach of its first one.
  static constexpr int64_t kMostTaps = W;

  // The vectors of so many taps repeat after as many of them.
  explicit PairedTaps(int64_t taps) : taps_(taps) {
    int64_t tap = 0, even = 0;
    for (int64_t v = 0; v < taps; ++v) {
      first_[v] = even;
      for (int64_t i = 0; i < W; ++i) {
        index_[v][2 * i] = static_cast<uint16_t>(even - first_[v]);
        index_[v][2 * i + 1] = static_cast<uint16_t>(even - first_[v] + taps);
        ++even;
        if (++tap == taps) tap = 0, even += taps;
      }
    }
  }

  // Copies a row of `length` pairs; reads and writes up to a vector more.
  template <class T>
  void copy(A* to, const T* from, int64_t length) const {
    for (int64_t done = 0; done < length; from += 2 * W * taps_)
      for (int64_t v = 0; v < taps_ && done < length; ++v, done += W)
        store(to + done, Product::pick(from + first_[v], index_[v]));
  }

 private:
  int64_t taps_;
  int64_t first_[kMostTaps];
  Vector<uint16_t> index_[kMostTaps];
};

// A panel of the weight: `from` is the first result channel's first source channel, pair 0 of the block; rows of
// `width` result channels, the last of them zeros; offset[t] is the distance to tap t. Pair p under tap t is row
// p * pair_step + t * tap_step.
template <class T>
struct WeightPairs {
  const T* from;
  int64_t row_distance, channel_distance;
  int64_t channels;  // from the first one of the block on
  int64_t rows, width;
};
template <class T, class A, class Product>
void pack_weight_pairs(const WeightPairs<T>& weight, const Block& block, const int64_t* offset, int64_t pair_step,
                       int64_t tap_step, A* to) {
  const auto [from, row_distance, channel_distance, channels, rows, width] = weight;
  const bool whole = 2 * block.channels <= channels;                         // no channel is without its partner
  if (block.taps == 1 && whole && rows == width && channel_distance == 1) {  // each row is one run of pairs
    const A* row[kTileColumns<A>];
    for (int64_t i = 0; i < rows; ++i) row[i] = reinterpret_cast<const A*>(from + offset[0] + i * row_distance);
    return transpose_rows(row, static_cast<int>(width), block.channels, to);
  }
  // dgrad's contiguous weight: a channel's taps of all rows are one run, which is paired and then turned.
  constexpr int64_t kTaps = 32;
  int64_t nearest = offset[0], farthest = offset[0];
  bool ascending = true;
  for (int64_t t = 1; t < block.taps; ++t) {
    nearest = std::min(nearest, offset[t]);
    farthest = std::max(farthest, offset[t]);
    ascending = ascending && offset[t] == offset[0] + t;
  }
  if (whole && row_distance > 1 && row_distance <= kTaps && nearest >= 0 && farthest < row_distance) {
    A run[kTileColumns<A> * kTaps] = {}, turned[kTileColumns<A> * kTaps];
    const A* row[kTileColumns<A>];
    for (int64_t i = 0; i < width; ++i) row[i] = i < rows ? run + i * row_distance : kZeros<A>;
    for (int64_t p = 0; p < block.channels; ++p) {
      const T* even = from + 2 * p * channel_distance;
      interleave_row(run, even, even + channel_distance, (rows - 1) * row_distance + farthest + 1);
      transpose_rows(row, static_cast<int>(width), farthest + 1, turned);
      for (int64_t t = 0; t < block.taps; ++t)
        copy_row(to + (p * pair_step + t * tap_step) * width, turned + offset[t] * width, width);
    }
    return;
  }
  // fprop's contiguous weight: a row's taps of each pair are one run, and so are its pairs in the panel.
  if (whole && ascending && channel_distance >= block.taps && tap_step == 1 && row_distance > channel_distance) {
    A run[(kTileColumns<A> * kReductionBlock) + kLanes<A>];
    const A* row[kTileColumns<A>];
    const bool dense = channel_distance == block.taps && block.taps <= PairedTaps<A, Product>::kMostTaps;
    const PairedTaps<A, Product> taps(dense ? block.taps : 0);
    for (int64_t i = 0; i < width; ++i) {
      A* pairs = run + i * block.length();
      row[i] = i < rows ? pairs : kZeros<A>;
      if (i >= rows) continue;
      const T* even = from + i * row_distance + offset[0];
      if (dense && i + 1 < rows && row_distance >= Product::kReach) {  // what is read beyond belongs to the next row
        taps.copy(pairs, even, block.length());
        continue;
      }
      for (int64_t p = 0; p < block.channels; ++p, even += 2 * channel_distance, pairs += block.taps)
        interleave_row(pairs, even, even + channel_distance, block.taps);
    }
    return transpose_rows(row, static_cast<int>(width), block.length(), to);
  }
  for (int64_t p = 0; p < block.channels; ++p) {
    const T* even = from + 2 * p * channel_distance;
    const T* odd = odd_channel(even, p, channels, channel_distance);
    for (int64_t t = 0; t < block.taps; ++t) {
      A* row = to + (p * pair_step + t * tap_step) * width;
      interleave_strided(row, even + offset[t], odd ? odd + offset[t] : nullptr, row_distance, rows);
      std::fill(row + rows, row + width, A{0});
    }
  }
}

// dgrad's contiguous weight as lines (line_product.h): the taps of a result channel follow each other, and of two
// source channels they are interleaved as they lie. Nothing is turned, and nothing read from `end` on.
//
//   a0 a1 a2 .. and b0 b1 b2 ..    ->    (a0 b0) (a1 b1) (a2 b2) ..     a line for each (pair, vector of taps, row)
template <class T, class A>
void pack_tap_lines(const WeightPairs<T>& weight, int64_t taps, const T* end, A* to) {
  constexpr int W = kLanes<A>;
  const int64_t distance = weight.channel_distance, length = (weight.rows - 1) * weight.row_distance + taps;
  for (int64_t c = 0; c < weight.channels; c += 2) {
    const T* pair = weight.from + c * distance;
    if (c + 4 <= weight.channels)  // the next pair's
      for (int64_t i = 0; i < length; i += 64 / static_cast<int64_t>(sizeof(T))) {
        __builtin_prefetch(pair + 2 * distance + i);
        __builtin_prefetch(pair + 3 * distance + i);
      }
    for (int64_t t = 0; t < taps; t += W)
      for (int64_t i = 0; i < weight.rows; ++i, to += W) {
        const T *even = pair + i * weight.row_distance + t, *odd = even + distance;
        if (odd + W <= end) {
          interleave_group<W>(to, even, odd);
        } else {
          interleave_fewer<W>(to, even, odd, std::min<int64_t>(W, taps - t));
        }
      }
  }
}

// Pixels 2i and 2i + 1 of `rows`, each `count` channels: panel rows of `distance`.
template <class T, class A>
void interleave_pixels(const T* const* rows, int64_t length, int64_t count, int64_t distance, A* to) {
  for (int64_t i = 0; i < length; i += 2, to += distance)
    interleave_strided(to, rows[i], i + 1 < length ? rows[i + 1] : nullptr, 1, count);
}
