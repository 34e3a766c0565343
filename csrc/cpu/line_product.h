// The micro-kernel on lines of the weight: C[MR x NR] (+)= A[MR x kc] * B[kc x NR], A a panel that is copied, not
// transposed, and copied behind the multiplications of the panel before it. Include only from engine.inl.h.
//
//   a row of the weight, [term]:    |line 0|line 1|line 2|...      a line: one vector of neighbouring terms
//   the panel:                      row 0's line 0, row 1's line 0, ... row MR - 1's, row 0's line 1, ...
//
// fprop's weight lies in the order of the reduction, [result channel][source channel][tap]. Transposing it to panels
// [term][row] ahead reads it, writes it and reads it again, for all of 9 MB if need be: 5 to 8% of the products of 512
// channels on 28 x 28 pixels and a third on 7 x 7. The broadcasts of a step come from MR neighbouring lines here, which
// costs the product nothing (257 of 258 GFLOP/s from L1); and the product of a panel leaves three quarters of the
// processor's slots empty, enough to move the next panel's lines into L1 in passing (13 tiles a panel, weights from L3:
// 240 GFLOP/s, 234 with the copy before the product, 247 with panels that were packed beforehand).
//
// dgrad's weight of one tap has the terms as its rows, [source channel][result channel], and lines across them: a
// panel is the lines of the terms, of neighbouring result channels each, which need no transposition anyway.
//
//   the panel:                      term 0's line, term 1's line, ...   and then, where a tile has more rows than a
//                                                                       vector lanes, the same of the next vector
//
// dgrad's weight of more taps has, of pairs (pack_tap_lines), the taps of a result channel as segments of the
// reduction, each begun with a new line:
//
//   the panel:                      row 0's taps of pair 0, row 1's, ... row MR - 1's, row 0's taps of pair 1, ...
//
// The tile and the arithmetic are microkernel.h's: one FMA (or dot product) a term from zero, then the addend. kCount =
// 1 is the last tile of a row of tiles, if half of a tile holds its columns.
#pragma once

// What is left to copy of a panel: lines of W terms, of one row after the other. It stays in memory: beside the product
// there are not registers enough for it, and GCC takes a vector's from the sums (a third slower).
template <class A>
struct LineCopy {
  const A* from = nullptr;  // the next line of row 0
  int64_t distance = 0;     // between rows
  int64_t rows = 1;         // of the panel
  A* to = nullptr;
  int64_t row = 0;            // the next one
  int64_t left = 0;           // lines
  int64_t pace = 0;           // lines to copy for each W terms of the product
  int64_t ahead = kLanes<A>;  // elements from a line to the one that is asked for as it is copied

  template <bool kAcross>
  [[gnu::always_inline]] void copy(int64_t most) {
    for (; most > 0 && left > 0; --most) {
      const A* line = from + row * distance;
      __builtin_prefetch(line + ahead);
      if (kAcross) __builtin_prefetch(line + ahead + kLanes<A> - 1);  // most lines across begin inside of a cache's
      store(to, load(line));
      to += kLanes<A>, --left;
      if (++row == rows) row = 0, from += kLanes<A>;
      asm volatile("" : : : "memory");
    }
  }
};

template <class A, class Product, int MR, int kCount, bool kAcross>
void multiply_copying(const TileCall<A>& call, int64_t segment, LineCopy<A>& next) {
  using V = Vector<A>;
  constexpr int W = kLanes<A>;
  V sum[MR][kCount] = {};
  constexpr int kStep = kAcross ? W : 1;  // from a term to the next
  const A *line = call.a, *b = call.b;
  const int64_t far = call.kc * W;  // from a term's line to its next one
  const int64_t b_row = call.b_row;
  for (int64_t done = 0; done < call.kc; done += segment)
    for (int64_t left = segment; left > 0; left -= W, line += (kAcross ? W : MR) * W) {
      next.template copy<kAcross>(next.pace);
      const A* a = line;
      for (const A* end = a + std::min<int64_t>(left, W) * kStep; a != end; a += kStep, b += b_row) {
        V row[kCount];
#pragma GCC unroll 4
        for (int j = 0; j < kCount; ++j) row[j] = load(b + j * W);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
          for (int j = 0; j < kCount; ++j)
            sum[i][j] = Product::add(sum[i][j], row[j], kAcross ? a[i / W * far + i % W] : a[i * W]);
      }
    }
  finish_tile<A, MR, kCount>(call, sum);
}

template <class A>
using LinesFunction = void (*)(const TileCall<A>&, int64_t, LineCopy<A>&);

template <class A, class Product, int kCount, bool kAcross, std::size_t... I>
constexpr std::array<LinesFunction<A>, sizeof...(I)> lines_functions(std::index_sequence<I...>) {
  return {&multiply_copying<A, Product, static_cast<int>(I) + 1, kCount, kAcross>...};
}
template <class A, class Product, int kCount, bool kAcross>
inline constexpr auto kLinesFunctions =
    lines_functions<A, Product, kCount, kAcross>(std::make_index_sequence<kTileRows>{});

// A tile of `rows` rows and `columns` columns, which are a whole tile's or one vector's. Lines are of `segment` terms,
// those of a block or a part of them: a segment's last line is shorter.
template <class A, class Product, bool kAcross>
inline void multiply_in_lines(int64_t rows, int64_t columns, const TileCall<A>& call, int64_t segment,
                              LineCopy<A>& next) {
  constexpr const auto& kHalf = kLinesFunctions<A, Product, 1, kAcross>;
  constexpr const auto& kWhole = kLinesFunctions<A, Product, kVectors, kAcross>;
  (columns <= kLanes<A> ? kHalf : kWhole)[rows - 1](call, segment, next);
}
