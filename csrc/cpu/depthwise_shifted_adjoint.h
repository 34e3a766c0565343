// Both gradients of a depthwise layer of 3 x 3 taps in one pass over its planes. Include only from engine.inl.h.
//
//   image[y]  +=  weight[k][j] * g_j[r]        with source row y = r * stride + k - lo,
//   sums[k][j] += source[y] * g_j[r]           and g_j[r] row r of grad, shifted to the columns that meet under tap j
//
//     source rows   y      carried   |  A row of grad is shifted once for each column of taps, and then serves nine
//                   y + 1  ...       |  products of either gradient. Three rows of the source, and three of its
//     stride -----> y + 2  loaded    |  gradient's sums, move along in registers: the first `stride` of them are
//                                       complete after each row of grad.
//
// Under a stride of two a source row is two vectors, of its even and its odd columns, each of which meets the taps of
// its parity; rows of the gradient are interleaved as they are stored. So grad is read once for both gradients, and the
// source by vectors that no shift makes cross one another. A vector of grad takes 18 FMAs, with 4 loads and 3 shuffles
// under a stride of one, 7 and 11 under two. (depthwise_shifted.h and depthwise_shifted_wgrad.h have the kernels of
// other taps.)
//
// The image's gradient adds up as depthwise_shifted.h does, by ascending rows of grad, and comes to the same bits. The
// weight's alone takes this way too. Lanes where a tap reads beside grad are left out of the weight's sums by a mask:
// there a source that is not finite meets no zeros. Rows beside the source are zeros that are multiplied.
#pragma once

inline constexpr int kAdjointTaps = 3;  // an axis

template <class A>
struct AdjointTile {
  const FetchPlan<A>* fetches;  // of each column of taps; its mask are the lanes of the source that meet it
  const A* grad;
  int64_t grad_pitch, grad_height;
  const A* source;  // the first row, from the tile's first column on
  int64_t pitch, height;
  int64_t lo;  // rows of padding above the source
  A* sums;     // [tap][lane], added to
  // The image's gradient, where it is made.
  const A* weight;  // [tap]
  A* to;
  int64_t to_pitch, whole_rows;  // rows that are written there, in whole vectors; the others, vectors only, to `rest`
  A* rest;
};

// kParity: of the columns that lie beside the source on the left.
template <class A, Fetch kFetch, int kStride, int kParity, bool kImage>
void filter_adjoint(const AdjointTile<A>& tile) {
  constexpr int W = kLanes<A>, K = kAdjointTaps,
                kNew = K - kStride;  // rows from kNew on are new after each row of grad
  constexpr auto phase = [](int j) { return kStride == 1 ? 0 : (j + kParity) % 2; };
  Vector<A> w[K][K], sum[K][K] = {}, source[K][kStride] = {}, image[K][kStride] = {};
  LaneIndices<A> meets[K];
  Fetcher<A, kFetch> fetch[K];
  int64_t column[K];
#pragma GCC unroll 3
  for (int j = 0; j < K; ++j) {
    fetch[j] = Fetcher<A, kFetch>(tile.fetches[j]);
    column[j] = tile.fetches[j].first;
    LaneIndices<A> mask;
    std::memcpy(&mask, tile.fetches[j].lanes + W, sizeof mask);
    meets[j] = mask != 0;
    if constexpr (kImage)
#pragma GCC unroll 3
      for (int k = 0; k < K; ++k) w[k][j] = tile.weight[k * K + j] - Vector<A>{};  // which leaves -0 as it is
  }
  const A *const first_row = tile.source, *const first_grad = tile.grad;
  A *const to_whole = tile.to, *const to_rest = tile.rest;
  const int64_t pitch = tile.pitch, grad_pitch = tile.grad_pitch, to_pitch = tile.to_pitch;
  const int64_t height = tile.height, grad_height = tile.grad_height, whole = tile.whole_rows, lo = tile.lo;
  const int64_t last = (height + lo - 1) >> (kStride - 1);
  for (int64_t r = (lo + kStride - K) >> (kStride - 1); r <= last; ++r) {
    const int64_t y = r * kStride - lo;
#pragma GCC unroll 2
    for (int k = kNew; k < K; ++k) {
      const A* from = first_row + (y + k) * pitch;
      if (y + k < 0 || y + k >= height) {
        for (int b = 0; b < kStride; ++b) source[k][b] = Vector<A>{};
      } else if constexpr (kStride == 1) {
        source[k][0] = load(from);
      } else {
        const Vector<A> low = load(from), high = load(from + W);
        source[k][0] = even_lanes<A>(low, high);
        source[k][1] = odd_lanes<A>(low, high);
      }
    }
    if (r >= 0 && r < grad_height) {
      Vector<A> g[K];
#pragma GCC unroll 3
      for (int j = 0; j < K; ++j) g[j] = fetch[j](first_grad + r * grad_pitch + column[j]);
#pragma GCC unroll 3
      for (int j = 0; j < K; ++j)
#pragma GCC unroll 3
        for (int k = 0; k < K; ++k) {
          sum[k][j] = meets[j] ? sum[k][j] + g[j] * source[k][phase(j)] : sum[k][j];
          if constexpr (kImage) image[k][phase(j)] += w[k][j] * g[j];
        }
    }
#pragma GCC unroll 2
    for (int k = 0; k < kStride; ++k) {
      if (!kImage || y + k < 0 || y + k >= height) continue;
      const int64_t row = y + k;
      A* to = row < whole ? to_whole + row * to_pitch : to_rest + (row - whole) * kStride * W;
      for (int b = 0; b < kStride; ++b) image[k][b] += Vector<A>{};  // as dgrad ends its sums: no -0 is left of them
      if constexpr (kStride == 1) {
        store(to, image[k][0]);
      } else {
        store(to, interleave_low<A>(image[k][0], image[k][1]));
        store(to + W, interleave_high<A>(image[k][0], image[k][1]));
      }
    }
#pragma GCC unroll 3
    for (int k = 0; k < K; ++k)
      for (int b = 0; b < kStride; ++b) {
        if (k < kNew) source[k][b] = source[k + kStride][b];
        image[k][b] = k < kNew ? image[k + kStride][b] : Vector<A>{};
      }
  }
#pragma GCC unroll 3
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 3
    for (int j = 0; j < K; ++j) {
      A* to = tile.sums + (k * K + j) * W;
      store(to, load(to) + sum[k][j]);
    }
}

// The strips of vectors that cover a plane of the source, and how each reads grad.
template <class A>
class AdjointStrips {
 public:
  AdjointStrips(const ConvProblem& p, const ShiftedShape& shape, FetchPlan<A>* fetches, LaneInteger<A>* lanes)
      : shape_(shape), stride_(p.axis[2].stride), lo_(p.axis[1].lo), fetches_(fetches) {
    const int64_t left = p.axis[2].lo;
    parity_ = left & 1;
    for (int64_t v = 0; v < shape.vectors; ++v) {
      const int64_t x = start(v);  // the last vector starts early, and leaves out what the one before it has added
      for (int64_t j = 0; j < kAdjointTaps; ++j, lanes += 2 * W) {
        const int64_t phase = stride_ == 1 ? 0 : (j + left) & 1, offset = (phase + left - j) / stride_;
        FetchPlan<A>& fetch = fetches[v * kAdjointTaps + j];
        fetch = FetchPlan<A>({1, 0, x, 0, W, 1, offset, shape.width}, lanes);
        for (int64_t l = 0; l < W; ++l)
          if (x + l < v * W || (x + l) * stride_ + phase >= shape.source_width) lanes[W + l] = 0;
      }
    }
  }

  // Runs the planes of a channel: grad's and the source's, and if `to` is not null that of the source's gradient.
  void run(AdjointTile<A> tile) const {
    const A* const source = tile.source;
    A* const to = tile.to;
    const int64_t chunk = stride_ * W, width = shape_.source_width;
    tile.grad_height = shape_.height, tile.height = shape_.source_height, tile.lo = lo_;
    for (int64_t v = 0; v < shape_.vectors; ++v) {
      const int64_t column = start(v) * stride_;
      tile.fetches = fetches_ + v * kAdjointTaps;
      tile.source = source + column;
      if (to) tile.to = to + column;
      const int64_t length = std::min(chunk, width - column), room = tile.height * width - chunk;
      tile.whole_rows = length == chunk ? tile.height : 0;
      // What is written beyond the end of a row is written once more with the next.
      if (length < chunk && shape_.vectors == 1 && tile.to_pitch == width && room >= 0)
        tile.whole_rows = room / width + 1;
      const Fetch kind = std::max({tile.fetches[0].kind, tile.fetches[1].kind, tile.fetches[2].kind});
      if (!to) {
        run_tile<false>(tile, kind);
        continue;
      }
      run_tile<true>(tile, kind);
      for (int64_t y = tile.whole_rows; y < tile.height; ++y)
        copy_row(tile.to + y * tile.to_pitch, tile.rest + (y - tile.whole_rows) * chunk, length);
    }
  }

 private:
  static constexpr int64_t W = kLanes<A>;

  int64_t start(int64_t vector) const { return std::max<int64_t>(0, std::min(vector * W, shape_.positions - W)); }

  template <bool kImage>
  void run_tile(const AdjointTile<A>& tile, Fetch kind) const {
    if (kind == Fetch::kWhole) return run_fetch<Fetch::kWhole, kImage>(tile);
    run_fetch<Fetch::kShifted, kImage>(tile);
  }
  template <Fetch kFetch, bool kImage>
  void run_fetch(const AdjointTile<A>& tile) const {
    if (stride_ == 1) return filter_adjoint<A, kFetch, 1, 0, kImage>(tile);
    if (parity_ == 0) return filter_adjoint<A, kFetch, 2, 0, kImage>(tile);
    filter_adjoint<A, kFetch, 2, 1, kImage>(tile);
  }

  const ShiftedShape& shape_;
  int64_t stride_, lo_, parity_;
  const FetchPlan<A>* fetches_;
};
