// The micro-kernel of Winograd's products: C[rows x NR] (+)= A[rows x kc] * B[kc x NR], or the sum of such products of
// several depth taps, each from an A and a B of its own. Include only from engine.inl.h.
//
// The register tile is microkernel.h's. Here A is not packed: transformed tiles are used by a few panels only, where
// packing, a transpose, would cost as much as the transform. So A's element (i, k) stands at i * a_row + k * a_step,
// of which one is 1:
//
//   fprop, dgrad   A = tiles of the source [tile][channel]           B = a panel of the weight [channel][NR]
//   wgrad          A = tiles of the gradient [tile][channel], by columns   B = tiles of the source [tile][channel]
#pragma once

template <class A>
struct ProductCall {
  int64_t kc;
  const A* a;
  int64_t a_stride;  // a_row, or a_step
  const A* b;
  int64_t b_step;
  A* c;
  int64_t ldc;
  bool adds;                               // to what C holds
  int64_t taps = 1;                        // products that are summed,
  int64_t a_tap_step = 0, b_tap_step = 0;  // elements from the operands of one to the next's
};

template <class A, int MR, int kCount, bool kAlongRows>
void multiply_unpacked(const ProductCall<A>& call) {
  using V = Vector<A>;
  constexpr int W = kLanes<A>;
  V sum[MR][kCount] = {};
  const int64_t row_step = kAlongRows ? 1 : call.a_stride;
  for (int64_t tap = 0; tap < call.taps; ++tap) {
    const A* a = call.a + tap * call.a_tap_step;
    const A* b = call.b + tap * call.b_tap_step;
    for (int64_t k = 0; k < call.kc; ++k) {
      V row[kCount];
#pragma GCC unroll 4
      for (int j = 0; j < kCount; ++j) row[j] = load(b + j * W);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < kCount; ++j) sum[i][j] += row[j] * a[i * row_step];
      a += kAlongRows ? call.a_stride : 1;
      b += call.b_step;
    }
  }
  A* c = call.c;
  if (call.adds) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kCount; ++j) store(c + i * call.ldc + j * W, load(c + i * call.ldc + j * W) + sum[i][j]);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kCount; ++j) store(c + i * call.ldc + j * W, sum[i][j]);
  }
}

template <class A, int kCount, bool kAlongRows, std::size_t... I>
constexpr std::array<void (*)(const ProductCall<A>&), sizeof...(I)> product_functions(std::index_sequence<I...>) {
  return {&multiply_unpacked<A, static_cast<int>(I) + 1, kCount, kAlongRows>...};
}
template <class A, int kCount, bool kAlongRows>
inline constexpr auto kProductFunctions =
    product_functions<A, kCount, kAlongRows>(std::make_index_sequence<kTileRows>{});

// `rows` rows of C, in panels of a tile's rows. Of the tile's columns as many count as there are: up to a vector of
// them take half as long.
template <class A, bool kAlongRows>
inline void multiply_all(int64_t rows, int64_t columns, ProductCall<A> call) {
  const auto& functions =
      columns > kLanes<A> ? kProductFunctions<A, kVectors, kAlongRows> : kProductFunctions<A, 1, kAlongRows>;
  const Panels panels(rows, kTileRows);
  const A* a = call.a;
  A* c = call.c;
  for (int64_t p = 0; p < panels.count; ++p) {
    call.a = a + panels.start(p) * (kAlongRows ? 1 : call.a_stride);
    call.c = c + panels.start(p) * call.ldc;
    functions[panels.rows(p) - 1](call);
  }
}
