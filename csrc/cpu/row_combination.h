// dgrad on images of one pixel, of a fully connected layer or a transposed one whose result is its kernel: combinations
// of the weight's rows as they lie. Include only from engine.inl.h.
//
//   result[n, m] = bias[m] + sum over c of source[n][c] * weight[c][m]
//
// What inner_product.h is for fprop. The terms of a sum stand in rows of the weight, so vectors run along the results,
// and nothing is packed: a weight that few samples meet is read once, not turned into panels, written and read again.
//
//                        weight[c][m .. m + kCombinedVectors)       One term of one sample: a load for each fused
//   source[n][c]          sum  sum  sum  ..  sum  sum               multiply-add, into sums that stay in registers.
//
// A single sample passes over all terms of a block at once, and pieces of the rows to come are fetched meanwhile: a row
// further on is a page further on, which the processor does not foresee. More samples take turns for every few terms,
// whose rows they find in L1, and the first of them fetches those of the next turn. Blocks are those of any reduction,
// and a sum is one chain in a block, however many turns it takes: the bits are those of packed panels, whatever the
// batch.
#pragma once

template <class A>
struct RowCombination {
  const A* source;  // the sample's first term, and the distance between terms
  int64_t term;
  const A* weight;  // of the first term, and the distance between rows
  int64_t row;
  int64_t terms;
  int64_t ahead;  // rows from the one that is multiplied to the one that is fetched
  A* sums;
};

// Terms of a turn: rows whose distance is a power of two share a set of 12 lines, and so do those of the next turn.
inline constexpr int64_t kCombinedTerms = 4;
inline constexpr int64_t kFetchedAhead = 8;      // rows, for a single sample
inline constexpr int64_t kCombinedSamples = 16;  // that take turns
inline constexpr int kCombinedVectors = std::min(16, kTileRows* kVectors);

template <class A, int NV, bool kFetches>
void combine_rows(const RowCombination<A>& call) {
  constexpr int W = kLanes<A>;
  Vector<A> sum[NV];
#pragma GCC unroll 16
  for (int v = 0; v < NV; ++v) sum[v] = load(call.sums + v * W);
  const A *source = call.source, *weight = call.weight;
  const int64_t ahead = call.ahead * call.row;
  for (int64_t c = call.terms; c > 0; --c, source += call.term, weight += call.row) {
    const A factor = *source;
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) {
      if constexpr (kFetches) __builtin_prefetch(weight + ahead + v * W);
      sum[v] += load(weight + v * W) * factor;
    }
  }
#pragma GCC unroll 16
  for (int v = 0; v < NV; ++v) store(call.sums + v * W, sum[v]);
}

// A unit is a block of kCombinedResults results of a group, for all samples.
template <class A>
class RowCombinations {
  static constexpr int W = kLanes<A>;
  static constexpr int64_t kWidth = kCombinedVectors * W;

 public:
  explicit RowCombinations(const ConvJob& job) : job_(job), epilogue_(job), reduction_(1, job.depth, false) {}

  void run(int64_t unit) {
    const int64_t blocks = divide_up(job_.rows, kCombinedResults), group = unit / blocks;
    const int64_t first = unit % blocks * kCombinedResults, last = std::min(first + kCombinedResults, job_.rows);
    for (int64_t n = 0; n < job_.problem->batch; n += kCombinedSamples) {
      const int64_t samples = std::min(kCombinedSamples, job_.problem->batch - n);
      int64_t m = first;
      for (; m + kWidth <= last; m += kWidth) run_tile(group, n, samples, m, kWidth);
      for (; m < last; m += W) run_tile(group, n, samples, m, std::min<int64_t>(W, last - m));
    }
  }

 private:
  void run_tile(int64_t group, int64_t n, int64_t samples, int64_t m, int64_t width) {
    const Strides& from = job_.source_strides;
    const A* source = static_cast<const A*>(job_.source) + n * from.outer + group * job_.depth * from.channel;
    const A* weight = static_cast<const A*>(job_.weight) + group * job_.weight_group + m;
    begin_sums(group, samples, m, width);
    for (int64_t b = 0; b < reduction_.blocks(); ++b) {
      const Block block = reduction_.block(b);
      RowCombination<A> call{nullptr,
                             from.channel,
                             weight + block.channel * job_.weight_depth,
                             job_.weight_depth,
                             0,
                             samples == 1 ? kFetchedAhead : kCombinedTerms,
                             nullptr};
      if (width < W) copy_rows(call, block.channels, width);  // a vector would end beyond the last row
      std::fill_n(&partial_[0][0], samples * kWidth, A{0});
      const int64_t turn = samples == 1 ? block.channels : kCombinedTerms;
      for (int64_t c = 0; c < block.channels; c += turn, call.weight += turn * call.row) {
        call.terms = std::min(turn, block.channels - c);
        for (int64_t i = 0; i < samples; ++i) {
          call.source = source + i * from.outer + (block.channel + c) * from.channel;
          call.sums = partial_[i];
          combine(call, width, i == 0);
        }
      }
      for (int64_t i = 0; i < samples; ++i)
        for (int64_t j = 0; j < width; ++j) sums_[i][j] += partial_[i][j];
    }
    const Strides& to = job_.result_strides;
    epilogue_.write({static_cast<A*>(job_.result) + n * to.outer + (group * job_.rows + m) * to.channel, to.outer,
                     to.channel, &sums_[0][0], kWidth, 1, samples, width});
  }

  static void combine(const RowCombination<A>& call, int64_t width, bool fetches) {
    if (width <= W) return combine_rows<A, 1, false>(call);
    (fetches ? combine_rows<A, kCombinedVectors, true> : combine_rows<A, kCombinedVectors, false>)(call);
  }

  void begin_sums(int64_t group, int64_t samples, int64_t m, int64_t width) {
    const A* bias = static_cast<const A*>(job_.packed_bias) + group * job_.bias_channels() + m;
    for (int64_t i = 0; i < samples; ++i) {
      if (job_.epilogue.bias) {
        copy_row(sums_[i], bias, width);
      } else {
        std::fill_n(sums_[i], width, A{0});
      }
    }
  }

  void copy_rows(RowCombination<A>& call, int64_t terms, int64_t width) {
    for (int64_t c = 0; c < terms; ++c) {
      store(rows_ + c * W, Vector<A>{});
      copy_fewer<W>(rows_ + c * W, call.weight + c * call.row, width);
    }
    call.weight = rows_, call.row = W;
  }

  const ConvJob& job_;
  const EpilogueOf<A, A> epilogue_;
  const Reduction reduction_;
  alignas(kVectorBytes) A sums_[kCombinedSamples][kWidth];
  alignas(kVectorBytes) A partial_[kCombinedSamples][kWidth];
  alignas(kVectorBytes) A rows_[kReductionBlock * W];
};
