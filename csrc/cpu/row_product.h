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
#pragma once

// Rows at this distance, in bytes, fall into one set of L1.
inline constexpr int64_t kSetDistance = 4096;

template <class A, int MR, int kCount>
void multiply_rows(const TileCall<A>& call, int64_t a_row) {
  using V = Vector<A>;
  constexpr int W = kLanes<A>;
  V sum[MR][kCount] = {};
  const A* a = call.a;
  const A* b = call.b;
  for (int64_t k = 0; k < call.kc; ++k, ++a, b += kVectors * W) {
    V row[kCount];
#pragma GCC unroll 4
    for (int j = 0; j < kCount; ++j) row[j] = load(b + j * W);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kCount; ++j) sum[i][j] += row[j] * a[i * a_row];
  }
  finish_tile<A, MR, kCount>(call, sum);
}

template <class A>
using RowsFunction = void (*)(const TileCall<A>&, int64_t);

template <class A, int kCount, std::size_t... I>
constexpr std::array<RowsFunction<A>, sizeof...(I)> rows_functions(std::index_sequence<I...>) {
  return {&multiply_rows<A, static_cast<int>(I) + 1, kCount>...};
}
template <class A, int kCount>
inline constexpr auto kRowsFunctions = rows_functions<A, kCount>(std::make_index_sequence<kTileRows>{});

// A tile of `rows` rows and `columns` result channels, of which the panel may have more.
template <class A>
inline void multiply_in_rows(int64_t rows, int64_t columns, const TileCall<A>& call, int64_t a_row) {
  if (columns <= kLanes<A>) {
    kRowsFunctions<A, 1>[rows - 1](call, a_row);
  } else {
    kRowsFunctions<A, kVectors>[rows - 1](call, a_row);
  }
}
