// A matrix product of its own at each position: what unshared weights need. Include only from engine.inl.h.
//
//   out[i, j, p] = sum over r, ascending, of a[i, r, p] * b[j, r, p]
//
// Positions are contiguous, so they are the vectors. A unit is a tile of 4 x 4 rows of the result by 256 positions: its
// sums stay in L1, and each vector of a and b is read once for four products. Four terms of the reduction are taken at
// a time, so that a sum is loaded and stored once for four. Narrow types are widened into a buffer first.
//
// The tile is small because nothing is used often: each element of the weight meets one of the image, and memory
// decides.
#pragma once

template <class T, class A>
class PositionProduct {
  static constexpr int kTile = PositionProductJob::kTile;
  static constexpr int kTerms = 4;
  static constexpr int kPositions = PositionProductJob::kPositions;

 public:
  explicit PositionProduct(const PositionProductJob& job) : job_(job) {}

  // Rows innermost: the columns' operand, in a layer the larger one, is read from memory once for all rows.
  void run(int64_t unit) {
    const int64_t row_tiles = job_.tiles(job_.rows), column_tiles = job_.tiles(job_.columns);
    const int64_t i0 = unit % row_tiles * kTile, j0 = unit / row_tiles % column_tiles * kTile;
    const int64_t p0 = unit / row_tiles / column_tiles * kPositions;
    const int64_t n = std::min<int64_t>(kPositions, job_.positions - p0);
    std::memset(sums_, 0, sizeof sums_);
    for (int64_t r = 0; r < job_.depth; r += kTerms) {
      const int terms = static_cast<int>(std::min<int64_t>(kTerms, job_.depth - r));
      const A *a[kTile][kTerms], *b[kTile][kTerms];
      for (int t = 0; t < terms; ++t)
        for (int k = 0; k < kTile; ++k) {  // beyond the edge a row is computed again, and dropped
          const int64_t i = std::min(i0 + k, job_.rows - 1), j = std::min(j0 + k, job_.columns - 1);
          a[k][t] = line(job_.a, i * job_.a_row + (r + t) * job_.a_depth + p0, n, wide_[0][k][t]);
          b[k][t] = line(job_.b, j * job_.b_row + (r + t) * job_.b_depth + p0, n, wide_[1][k][t]);
        }
      if (terms == kTerms) {
        multiply<kTerms>(a, b, n);
      } else {
        for (int t = 0; t < terms; ++t) {
          for (int k = 0; k < kTile; ++k) a[k][0] = a[k][t], b[k][0] = b[k][t];
          multiply<1>(a, b, n);
        }
      }
    }
    for (int64_t i = i0; i < std::min(i0 + kTile, job_.rows); ++i)
      for (int64_t j = j0; j < std::min(j0 + kTile, job_.columns); ++j)
        store_line(static_cast<T*>(job_.out) + (i * job_.columns + j) * job_.positions + p0, 1, sums_[i - i0][j - j0],
                   1, n);
  }

 private:
  static const A* line(const void* operand, int64_t offset, int64_t n, A* wide) {
    const T* from = static_cast<const T*>(operand) + offset;
    if constexpr (std::is_same_v<T, A>) {
      return from;
    } else {
      for (int64_t p = 0; p < n; ++p) wide[p] = widen(from[p]);
      return wide;
    }
  }

  template <int Terms>
  void multiply(const A* const (&a)[kTile][kTerms], const A* const (&b)[kTile][kTerms], int64_t n) {
    constexpr int W = kLanes<A>;
    constexpr int kColumns = kVectorBytes == 64 ? kTile : 2;  // sixteen sums and their factors need 32 registers
    int64_t p = 0;
    for (; p + W <= n; p += W) {
      for (int j0 = 0; j0 < kTile; j0 += kColumns) {
        Vector<A> s[kTile][kColumns];
        for (int i = 0; i < kTile; ++i)
          for (int j = 0; j < kColumns; ++j) s[i][j] = load(&sums_[i][j0 + j][p]);
        for (int t = 0; t < Terms; ++t)
          for (int i = 0; i < kTile; ++i)
            for (int j = 0; j < kColumns; ++j) s[i][j] += load(a[i][t] + p) * load(b[j0 + j][t] + p);
        for (int i = 0; i < kTile; ++i)
          for (int j = 0; j < kColumns; ++j) store(&sums_[i][j0 + j][p], s[i][j]);
      }
    }
    for (; p < n; ++p)
      for (int t = 0; t < Terms; ++t)
        for (int i = 0; i < kTile; ++i)
          for (int j = 0; j < kTile; ++j) sums_[i][j][p] += a[i][t][p] * b[j][t][p];
  }

  const PositionProductJob& job_;
  alignas(64) A sums_[kTile][kTile][kPositions];
  alignas(64) A wide_[2][kTile][kTerms][std::is_same_v<T, A> ? 1 : kPositions];
};
