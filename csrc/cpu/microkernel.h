// The micro-kernel: C[MR x NR] (+)= A[MR x kc] * B[kc x NR] on packed panels. Include only from engine.inl.h.
//
//                      B: kc rows of NR = kVectors * kLanes       One step of k: load kVectors vectors of B, broadcast
//                      +-----------------------+                  MR scalars of A, MR * kVectors fused multiply-adds
//                      |  b[k*NR .. k*NR+NR)   |                  into accumulators that never leave the registers.
//                      +-----------------------+
//   A: kc rows    +--+ +-----------------------+                  AVX-512 (32 registers): 14 x 2 accumulators, 2 of B,
//   of MR         |a | |  MR x kVectors        |                  broadcasts folded into the FMA: 28 FMAs for 2 loads.
//                 |  | |  accumulators         |                  AVX2 (16): 6 x 2. SSE2 (16, two-operand): 4 x 2.
//                 +--+ +-----------------------+
//
// Panels hold exactly MR rows, for every MR up to the tile's, so an edge costs no wasted multiplication. A sum is
// always: accumulate from zero over one reduction block with one FMA a term, then add to what C holds. Neither MR nor
// the lane enters the arithmetic, so tiles can be cut to suit the threads without changing a bit of the result.
#pragma once

// What the finished block sum is added to.
enum class TileStart { kZero, kPartialSum, kRowBias, kColumnBias };

inline constexpr int kVectors = 2;
template <class A>
inline constexpr int kTileColumns = kVectors * kLanes<A>;

// Panels of one reduction block, and the tile of C they contribute to. `bias` has MR or NR elements, by `start`. With
// `b_offset`, row k of B stands at b + b_offset[k]: a staged image read where it lies, no panel at all.
template <class A>
struct TileCall {
  int64_t kc;
  const A* a;
  const A* b;
  A* c;
  int64_t ldc;
  TileStart start;
  const A* bias;
  const int64_t* b_offset = nullptr;
  const Clamp<A>* clamp = nullptr;  // of a tile whose sums this block completes, if an epilogue follows
  const A* residual = nullptr;      // which has C's distances between rows
  int64_t apart = kLanes<A>;        // elements from a vector of B, and of C, to the next: of a staged image
  const A* sums = nullptr;          // partial sums that are not in C: a tile of their own, kTileColumns wide
  int64_t b_row = 0;                // elements from a row of B to the next, for panels of lines (line_product.h)
};

// How the micro-kernel multiplies: what an element of a panel is, and what is added to a sum.
template <class A>
struct MultiplyAdd {
  static constexpr int kTerms = 1;  // of the reduction, in an element of a panel
  static Vector<A> add(Vector<A> sum, Vector<A> b, A a) { return sum + b * a; }
  static Vector<A> add(Vector<A> sum, Vector<A> a, Vector<A> b) { return sum + a * b; }
};

// Adds a tile's sums to what the call says, and stores them. Every lambda must be inlined, which compilers leave off in
// large files unless told: a sum whose address is taken is stored to memory in each step of the product.
template <class A, int MR, int kCount, bool kIndirect = false>
[[gnu::always_inline]] inline void finish_tile(const TileCall<A>& call, Vector<A> (&sum)[MR][kCount]) {
  using V = Vector<A>;
  constexpr int W = kLanes<A>;
  A* c = call.c;
  const int64_t apart = kIndirect ? call.apart : W;
  const A* sums = call.sums ? call.sums : c;
  const int64_t sums_row = call.sums ? kTileColumns<A> : call.ldc;
  const auto for_each_vector = [](auto visit) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kCount; ++j) visit(i, j);
  };
  // visit(addend), the vector that a sum is added to as a function of its place
  const auto with_addend = [&](auto visit) __attribute__((always_inline)) {
    switch (call.start) {
      case TileStart::kZero: return visit([](int, int) __attribute__((always_inline)) { return V{}; });
      case TileStart::kPartialSum:
        return visit([&](int i, int j)
                         __attribute__((always_inline)) { return load(sums + i * sums_row + j * apart); });
      case TileStart::kRowBias:
        return visit([&](int i, int) __attribute__((always_inline)) { return V{} + call.bias[i]; });
      case TileStart::kColumnBias:
        return visit([&](int, int j) __attribute__((always_inline)) { return load(call.bias + j * W); });
    }
  };
  if (kIndirect || !call.clamp)
    return with_addend([&](auto addend) __attribute__((always_inline)) {
      for_each_vector([&](int i, int j) __attribute__((always_inline)) {
        store(c + i * call.ldc + j * apart, addend(i, j) + sum[i][j]);
      });
    });
  with_addend([&](auto addend) __attribute__((always_inline)) {
    for_each_vector([&](int i, int j) __attribute__((always_inline)) { sum[i][j] = addend(i, j) + sum[i][j]; });
  });
  if (call.residual)
    for_each_vector([&](int i, int j)
                        __attribute__((always_inline)) { sum[i][j] += load(call.residual + i * call.ldc + j * W); });
  const Clamp<A> clamp = *call.clamp;
  for_each_vector([&](int i, int j) __attribute__((always_inline)) {
    store(c + i * call.ldc + j * W, clamped<A>(sum[i][j], clamp));
  });
}

// kCount = 1: the last tile of a row of tiles, if half of a tile holds its columns.
template <class A, int MR, bool kIndirect, class Product, int kCount = kVectors>
void multiply_tile(const TileCall<A>& call) {
  using V = Vector<A>;
  constexpr int W = kLanes<A>;
  V sum[MR][kCount] = {};
  const A* a = call.a;
  const A* b = call.b;
  const int64_t apart = kIndirect ? call.apart : W;
  for (int64_t k = 0; k < call.kc; ++k) {
    V row[kCount];
    if constexpr (kIndirect) b = call.b + call.b_offset[k];
#pragma GCC unroll 4
    for (int j = 0; j < kCount; ++j) row[j] = load(b + j * apart);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kCount; ++j) sum[i][j] = Product::add(sum[i][j], row[j], a[i]);
    a += MR;
    if constexpr (!kIndirect) b += kCount * W;
  }
  finish_tile<A, MR, kCount, kIndirect>(call, sum);
}

template <class A>
using TileFunction = void (*)(const TileCall<A>&);

template <class A, bool kIndirect, class Product, int kCount, std::size_t... I>
constexpr std::array<TileFunction<A>, sizeof...(I)> tile_functions(std::index_sequence<I...>) {
  return {&multiply_tile<A, static_cast<int>(I) + 1, kIndirect, Product, kCount>...};
}

// kTileFunctions<A, kIndirect, Product, kCount>[rows - 1] multiplies a tile of that many rows and kCount vectors.
template <class A, bool kIndirect, class Product, int kCount = kVectors>
inline constexpr auto kTileFunctions =
    tile_functions<A, kIndirect, Product, kCount>(std::make_index_sequence<kTileRows>{});

template <class A, bool kIndirect = false, class Product = MultiplyAdd<A>>
inline void multiply(int64_t rows, const TileCall<A>& call) {
  kTileFunctions<A, kIndirect, Product>[rows - 1](call);
}

// A tile of packed panels that are as wide as a tile or as a single vector.
template <class A, class Product>
inline void multiply_columns(int64_t rows, int64_t width, const TileCall<A>& call) {
  (width <= kLanes<A> ? kTileFunctions<A, false, Product, 1> : kTileFunctions<A, false, Product>)[rows - 1](call);
}

// Low panels of a staged image take three vectors, which as many sums allow: a step of 8 rows is 11 loads for 24 FMAs
// instead of 10 for 16, and a tile's ends are fewer.
inline constexpr int kWideVectors = 3;
inline constexpr int kWideRows = kTileRows * kVectors / kWideVectors;
template <class A, class Product, std::size_t... I>
constexpr std::array<TileFunction<A>, sizeof...(I)> wide_functions(std::index_sequence<I...>) {
  return {&multiply_tile<A, static_cast<int>(I) + 1, true, Product, kWideVectors>...};
}
template <class A, class Product>
inline constexpr auto kWideFunctions = wide_functions<A, Product>(std::make_index_sequence<kWideRows>{});

// A tile of a staged image, of which `columns` are wanted: what is left of the caller's tile, not of its row, as more
// than kTileColumns make low panels store a third vector. For a single vector half of the registers are idle, but a
// step takes the loads of 14 rows, 8 cycles, instead of the 14 of two vectors.
template <class A, class Product>
inline void multiply_staged(int64_t rows, int64_t columns, const TileCall<A>& call) {
  if (columns <= kLanes<A>) {
    kTileFunctions<A, true, Product, 1>[rows - 1](call);
  } else if (columns > kTileColumns<A> && rows <= kWideRows) {
    kWideFunctions<A, Product>[rows - 1](call);
  } else {
    kTileFunctions<A, true, Product>[rows - 1](call);
  }
}
