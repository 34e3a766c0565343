// fprop on images of one pixel, a fully connected layer: inner products of rows as they lie. Include only from an
// engine.
//
//   result[n, m] = bias[m] + sum over c of source[n][c] * weight[m][c]
//
// Both operands have their terms in a row already, so nothing is packed: a weight that one sample, or a few, meet is
// read once instead of being turned into panels first, and a layer of one result channel does not fill a tile of 32
// columns with zeros. The tile is correlation.h's, up to 4 samples by 8 result channels, a vector of lanes to each sum:
//
//                      weight[m .. m + NR)[c .. c + W)
//   source[n    ][c..]  sum  sum  ...  sum            Sums are cut into chunks of 64 or 256 vectors, whose lanes are
//   source[n + 1][c..]  sum  sum  ...  sum            added up, pairwise, and join the ones before. Neither the tile
//   ..                                                nor the unit enters the arithmetic.
//
// Rows of a narrower type are widened into L2 first, unless the level multiplies pairs; the end of a row that fills no
// vector is copied beside zeros.
#pragma once

template <class T, class A, class Product>
class InnerProduct {
  static constexpr bool kPairs = Product::kTerms == 2;
  using Element = std::conditional_t<kPairs, uint16_t, T>;
  using Staged = std::conditional_t<kPairs, uint16_t, A>;
  static constexpr bool kInPlace = std::is_same_v<Element, Staged>;
  static constexpr int W = kLanes<Staged>;
  static constexpr InnerProductShape kShape = InnerProductShape::of(kInPlace);
  static constexpr int64_t kSamples = kShape.samples, kFilters = kShape.filters, kChunk = kShape.vectors * W;

 public:
  InnerProduct(const ConvJob& job, void* workspace)
      : job_(job), epilogue_(job), source_rows_(static_cast<Staged*>(workspace)) {
    weight_rows_ = source_rows_ + kSamples * kShape.copied * W;
  }

  // A block of samples by a block of result channels of a group.
  void run(int64_t unit) {
    const int64_t sample_blocks = divide_up(job_.problem->batch, kSamples), blocks = divide_up(job_.rows, kFilters);
    const int64_t n0 = unit % sample_blocks * kSamples, m0 = unit / sample_blocks % blocks * kFilters;
    const int64_t group = unit / sample_blocks / blocks;
    const int64_t samples = std::min(kSamples, job_.problem->batch - n0), filters = std::min(kFilters, job_.rows - m0);
    const int64_t source_distance = job_.source_strides.outer, weight_distance = job_.weight_row;
    const Element* source = static_cast<const Element*>(job_.source) + n0 * source_distance +
                            group * job_.depth * job_.source_strides.channel;
    const Element* weight = static_cast<const Element*>(job_.weight) + group * job_.weight_group + m0 * weight_distance;
    for (int64_t c = 0; c < job_.depth; c += kChunk) {
      const int64_t length = std::min(kChunk, job_.depth - c), whole = kInPlace ? length / W * W : 0;
      CorrelationSegment<Staged> segments[2];
      int64_t offsets[2][kFilters] = {}, count = 0;
      if constexpr (kInPlace) {
        for (int64_t m = 0; m < filters; ++m) offsets[0][m] = m * weight_distance;
        if (whole > 0) segments[count++] = {source + c, source_distance, weight + c, offsets[0], whole};
      }
      if (whole < length) {  // what is not read in place
        const int64_t staged = round_up(length - whole, W);
        stage(source + c + whole, source_distance, samples, length - whole, source_rows_);
        stage(weight + c + whole, weight_distance, filters, length - whole, weight_rows_);
        for (int64_t m = 0; m < filters; ++m) offsets[1][m] = m * staged;
        segments[count++] = {source_rows_, staged, weight_rows_, offsets[1], staged};
      }
      multiply(segments, count, samples, filters, c > 0);
    }
    write(group, n0, m0, samples, filters);
  }

 private:
  // Copies rows of `length` elements, widened, and fills their last vectors up with zeros.
  static void stage(const Element* from, int64_t distance, int64_t rows, int64_t length, Staged* to) {
    const int64_t whole = length / W * W;
    for (int64_t i = 0; i < rows; ++i, from += distance) {
      if constexpr (!kInPlace)
        for (int64_t f = 0; f < whole; f += W, to += W) store(to, load_widened<A>(from + f));
      if (whole == length) continue;
      Element rest[W] = {};
      copy_fewer<W>(rest, from + whole, length - whole);
      if constexpr (kInPlace) {
        store(to, load(rest));
      } else {
        store(to, load_widened<A>(rest));
      }
      to += W;
    }
  }

  void multiply(const CorrelationSegment<Staged>* segments, int64_t count, int64_t samples, int64_t filters, bool add) {
    const Panels rows(samples, kCorrelationRows);
    const Panels columns(filters, correlation_columns(static_cast<int>(rows.base + (rows.extra > 0))));
    for (int64_t j = 0; j < columns.count; ++j)
      for (int64_t i = 0; i < rows.count; ++i) {
        const int64_t row = rows.start(i), column = columns.start(j);
        kCorrelate<A, Staged, Product>[rows.rows(i) - 1][columns.rows(j) - 1](
            {segments, count, row, column, &sums_[row][column], kFilters, add});
      }
  }

  void write(int64_t group, int64_t n0, int64_t m0, int64_t samples, int64_t filters) {
    if (job_.epilogue.bias) {
      const A* bias = static_cast<const A*>(job_.packed_bias) + group * job_.bias_channels() + m0;
      for (int64_t i = 0; i < samples; ++i)
        for (int64_t m = 0; m < filters; ++m) sums_[i][m] += bias[m];
    }
    const Strides& s = job_.result_strides;
    T* to = static_cast<T*>(job_.result) + n0 * s.outer + (group * job_.rows + m0) * s.channel;
    epilogue_.write({to, s.outer, s.channel, &sums_[0][0], kFilters, 1, samples, filters});
  }

  const ConvJob& job_;
  const EpilogueOf<T, A> epilogue_;
  Staged* source_rows_;
  Staged* weight_rows_;
  alignas(64) A sums_[kSamples][kFilters];
};
