// The transforms of Winograd's convolutions F(4 x 4, 3 x 3) and F(2 x 2, 5 x 5). Include only from engine.inl.h.
//
// Six inputs d and r taps g give m = 7 - r outputs y with six multiplications, one for each point p of a polynomial
// product's evaluation and interpolation (Toom and Cook; Winograd 1980; Lavin and Gray 2015):
//
//   y = AT [ (G g) . (BT d) ]                 in two dimensions   Y = AT [ (G g GT) . (BT d B) ] A
//
//   AT[i, p] = p^i     G[p, j] = p^j / f(p), f(p) = the product of (p - q) over the other points q
//   BT[p, j] = coefficient j of the product of (x - q) over the other points q; the last point is infinity
//
//       d0 d1 d2 d3 d4 d5         d: one tile of the padded image; neighbours share r - 1 rows and columns
//       +--------+
//          +--------+             r = 3: y0 = d0 g0 + d1 g1 + d2 g2 ... y3 = d3 g0 + d4 g1 + d5 g2:
//             +--------+          12 multiplications done as 6; 144 done as 36 in the plane
//                +--------+       r = 5: 10 done as 6; 100 done as 36
//
// BT knows nothing of r. The points are 0, +-3/4, +-3/2 and infinity. Symmetric ones cost half, as p and -p share their
// even and their odd part, and every constant of AT and BT is exact. The usual 0, +-1, +-2 have twice the error (r = 3,
// random data, 128 channels: 2.0e-6 against 1.0e-6 relative; those of Barabasz et al. 2018, 0, +-1, 1/2, -2: 1.3e-6).
//
// The adjoints serve wgrad: L = <dY, Y> is linear in each factor, so dg = GT [ sum over tiles (A dY AT) . (BT d B) ] G.
//
// All are straight-line code over vectors of A; what the lanes are, channels here, does not enter.
#pragma once

template <class A, int kKernel>
struct Winograd {
  static constexpr int kTile = kWinogradEdge + 1 - kKernel;
  static constexpr A a = A(0.75), b = A(1.5);  // the finite points are 0, a, -a, b, -b
  static constexpr A a2 = a * a, b2 = b * b;
  static constexpr double fa = 2.0 * a2 * (a2 - b2), fb = 2.0 * b2 * (b2 - a2);
  static constexpr A g0 = A(1 / (1.0 * a2 * b2));
  static constexpr double power(double p, int i) { return i == 0 ? 1 : p * power(p, i - 1); }
  static constexpr A ga(int j) { return A(power(a, j) / fa); }
  static constexpr A gb(int j) { return A(power(b, j) / fb); }

  template <class V>
  static void image(const V (&d)[6], V (&v)[6]) {
    const V even_a = d[4] - b2 * d[2], odd_a = d[3] - b2 * d[1];
    const V even_b = d[4] - a2 * d[2], odd_b = d[3] - a2 * d[1];
    v[0] = (d[4] - (a2 + b2) * d[2]) + (a2 * b2) * d[0];
    v[1] = even_a + a * odd_a;
    v[2] = even_a - a * odd_a;
    v[3] = even_b + b * odd_b;
    v[4] = even_b - b * odd_b;
    v[5] = (d[5] - (a2 + b2) * d[3]) + (a2 * b2) * d[1];
  }
  template <class V>
  static void weight(const V (&g)[kKernel], V (&u)[6]) {
    V even_a = ga(0) * g[0], odd_a = ga(1) * g[1], even_b = gb(0) * g[0], odd_b = gb(1) * g[1];
#pragma GCC unroll 5
    for (int j = 2; j < kKernel; ++j) {
      (j % 2 ? odd_a : even_a) += ga(j) * g[j];
      (j % 2 ? odd_b : even_b) += gb(j) * g[j];
    }
    u[0] = g0 * g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[kKernel - 1];
  }
  template <class V>
  static void result(const V (&m)[6], V (&y)[kTile]) {
    const V sum_a = m[1] + m[2], sum_b = m[3] + m[4], difference_a = m[1] - m[2], difference_b = m[3] - m[4];
    y[0] = m[0] + sum_a + sum_b;
#pragma GCC unroll 4
    for (int i = 1; i < kTile; ++i)
      y[i] = A(power(a, i)) * (i % 2 ? difference_a : sum_a) + A(power(b, i)) * (i % 2 ? difference_b : sum_b);
    y[kTile - 1] += m[5];
  }
  template <class V>
  static void result_adjoint(const V (&y)[kTile], V (&m)[6]) {
    V even_a = y[0], odd_a = y[1], even_b = y[0], odd_b = y[1];
    if constexpr (kTile == 4) {
      even_a += a2 * y[2], odd_a += a2 * y[3];
      even_b += b2 * y[2], odd_b += b2 * y[3];
    }
    m[0] = y[0];
    m[1] = even_a + a * odd_a;
    m[2] = even_a - a * odd_a;
    m[3] = even_b + b * odd_b;
    m[4] = even_b - b * odd_b;
    m[5] = y[kTile - 1];
  }
  template <class V>
  static void weight_adjoint(const V (&u)[6], V (&g)[kKernel]) {
    const V sum_a = u[1] + u[2], sum_b = u[3] + u[4], difference_a = u[1] - u[2], difference_b = u[3] - u[4];
#pragma GCC unroll 5
    for (int j = 0; j < kKernel; ++j)
      g[j] = ga(j) * (j % 2 ? difference_a : sum_a) + gb(j) * (j % 2 ? difference_b : sum_b);
    g[0] += g0 * u[0];
    g[kKernel - 1] += u[5];
  }
};

// A transform of every column and then of every row: In x In values that read(i, j) gives, Out x Out that write(i, j,
// v) takes.
template <int In, int Out, class V, class Transform, class Read, class Write>
inline void transform_plane(Transform transform, Read read, Write write) {
  V half[Out][In];
#pragma GCC unroll 6
  for (int j = 0; j < In; ++j) {
    V from[In], to[Out];
#pragma GCC unroll 6
    for (int i = 0; i < In; ++i) from[i] = read(i, j);
    transform(from, to);
#pragma GCC unroll 6
    for (int i = 0; i < Out; ++i) half[i][j] = to[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < Out; ++i) {
    V to[Out];
    transform(half[i], to);
#pragma GCC unroll 6
    for (int j = 0; j < Out; ++j) write(i, j, to[j]);
  }
}
