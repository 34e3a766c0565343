// The micro-kernel on rows that lie in memory as they are: C[MR x NR] (+)= A[MR x kc] * B[kc x NR], where row i of A
// stands at a + i * a_row and is contiguous. Include only from engine.inl.h.
//
//                      B: panel [term][2 vectors]       The tile and the arithmetic are microkernel.h's: one FMA a
//                      +-----------------------+        term from zero, then the addend. Only the place of A differs:
//                      |  b[k*2W .. k*2W+NR)   |        a pixel of a channels_last image is a row of terms already, and
//                      +-----------------------+        to pack it is to transpose it.
//   a + i * a_row +--------- terms -----> k             A broadcast reads from MR lines instead of one; L1 holds them
//                 +--------------------->               all for sixteen terms, unless their distance is a multiple of
//                                                       4 KiB (kSetDistance).
//
// kCount = 1 leaves the second vector of the panel alone: up to kLanes result channels cost half of a tile.
//
// kCount = 4 takes two panels, one behind the other, by kPairRows rows: 10 loads for 24 FMAs instead of 16 for 28, and
// a line of the result is written at once, not in halves with other rows between them. Only for short reductions: a
// pair of panels has to stay in L1 (kMostPairTerms).
//
// With kIndirect, term k of row i stands at a + a_offset[k] + i * a_row: rows that overlap, as the windows of
// neighbouring pixels do in the image itself. The offset is one load for MR * kCount multiplications.
#pragma once

// Rows at this distance, in bytes, fall into one set of L1.
inline constexpr int64_t kSetDistance = 4096;

// The rows of a tile: `distance` apart, and where their terms are; null if side by side.
struct RowPlaces {
  int64_t distance;
  const int64_t* offset;
};

template <class A, int MR, int kCount, bool kIndirect>
void multiply_rows(const TileCall<A>& call, const RowPlaces& rows) {
  using V = Vector<A>;
  constexpr int W = kLanes<A>;
  V sum[MR][kCount] = {};
  const int64_t a_row = rows.distance, panel = kTileColumns<A> * call.kc;
  const A* b = call.b;
  for (int64_t k = 0; k < call.kc; ++k, b += kVectors * W) {
    const A* a = call.a + (kIndirect ? rows.offset[k] : k);
    V row[kCount];
#pragma GCC unroll 4
    for (int j = 0; j < kCount; ++j) row[j] = load(b + j / kVectors * panel + j % kVectors * W);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kCount; ++j) sum[i][j] += row[j] * a[i * a_row];
  }
  finish_tile<A, MR, kCount>(call, sum);
}

template <class A>
using RowsFunction = void (*)(const TileCall<A>&, const RowPlaces&);

template <class A, int kCount, bool kIndirect, std::size_t... I>
constexpr std::array<RowsFunction<A>, sizeof...(I)> rows_functions(std::index_sequence<I...>) {
  return {&multiply_rows<A, static_cast<int>(I) + 1, kCount, kIndirect>...};
}
template <class A, int kCount, bool kIndirect>
inline constexpr auto kRowsFunctions = rows_functions<A, kCount, kIndirect>(std::make_index_sequence<kTileRows>{});

// Rows of a tile of two panels: its sums, four vectors of B and a broadcast have to fit 32 registers. Of 16 registers
// it would be two rows, with less to gain.
inline constexpr int kPairRows = kTileRows * kVectors > 24 ? 6 : 0;
// Terms up to which two panels take half of an L1 of 32 KiB.
inline constexpr int64_t kMostPairTerms = (16 << 10) / (2 * kVectors * kVectorBytes);
template <class A, bool kIndirect>
inline constexpr auto kPairFunctions =
    rows_functions<A, 2 * kVectors, kIndirect>(std::make_index_sequence<kPairRows>{});

// A tile of `rows` rows, at most kPairRows, and two whole panels.
template <class A>
inline void multiply_by_pair(int64_t rows, const TileCall<A>& call, const RowPlaces& places) {
  const auto at = static_cast<std::size_t>(rows - 1);
  (places.offset ? kPairFunctions<A, true>[at] : kPairFunctions<A, false>[at])(call, places);
}

// A tile of `rows` rows and `columns` result channels, of which the panel may have more.
template <class A>
inline void multiply_in_rows(int64_t rows, int64_t columns, const TileCall<A>& call, const RowPlaces& places) {
  const auto multiply_by = [&]<bool kIndirect>(std::bool_constant<kIndirect>) {
    if (columns <= kLanes<A>) {
      kRowsFunctions<A, 1, kIndirect>[rows - 1](call, places);
    } else {
      kRowsFunctions<A, kVectors, kIndirect>[rows - 1](call, places);
    }
  };
  if (places.offset) {
    multiply_by(std::true_type{});
  } else {
    multiply_by(std::false_type{});
  }
}
