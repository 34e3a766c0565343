// The transforms of Winograd's convolution F(4 x 4, 3 x 3). Include only from engine.inl.h.
//
// Six inputs d and 3 taps g give four outputs y with six multiplications, one for each point p of a polynomial
// product's evaluation and interpolation (Toom and Cook; Winograd 1980; Lavin and Gray 2015):
//
//   y = AT [ (G g) . (BT d) ]                 in two dimensions   Y = AT [ (G g GT) . (BT d B) ] A
//
//   AT[i, p] = p^i     G[p, j] = p^j / f(p), f(p) = the product of (p - q) over the other points q
//   BT[p, j] = coefficient j of the product of (x - q) over the other points q; the last point is infinity
//
//       d0 d1 d2 d3 d4 d5         d: one tile of the padded image; neighbours share 2 rows and 2 columns
//       +--------+
//          +--------+             y0 = d0 g0 + d1 g1 + d2 g2 ... y3 = d3 g0 + d4 g1 + d5 g2:
//             +--------+          12 multiplications done as 6; 144 done as 36 in the plane
//                +--------+
//
// The points are 0, +-3/4, +-3/2 and infinity. Symmetric ones cost half, as p and -p share their even and their odd
// part, and every constant of AT and BT is exact. The usual 0, +-1, +-2 have twice the error (random data, 128
// channels: 2.0e-6 against 1.0e-6 relative; those of Barabasz et al. 2018, 0, +-1, 1/2, -2: 1.3e-6).
//
// The adjoints serve wgrad: L = <dY, Y> is linear in each factor, so dg = GT [ sum over tiles (A dY AT) . (BT d B) ] G.
//
// All are straight-line code over vectors; what the lanes are, channels here, does not enter.
#pragma once

struct Winograd {
  static constexpr float a = 0.75f, b = 1.5f;  // the finite points are 0, a, -a, b, -b
  static constexpr float a2 = a * a, b2 = b * b, a3 = a * a2, b3 = b * b2;
  static constexpr double fa = 2.0 * a2 * (a2 - b2), fb = 2.0 * b2 * (b2 - a2);
  static constexpr float g0 = static_cast<float>(1 / (1.0 * a2 * b2));
  static constexpr float ga0 = static_cast<float>(1 / fa), ga1 = static_cast<float>(a / fa),
                         ga2 = static_cast<float>(a2 / fa);
  static constexpr float gb0 = static_cast<float>(1 / fb), gb1 = static_cast<float>(b / fb),
                         gb2 = static_cast<float>(b2 / fb);

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
  static void weight(const V (&g)[3], V (&u)[6]) {
    const V even_a = ga0 * g[0] + ga2 * g[2], even_b = gb0 * g[0] + gb2 * g[2];
    u[0] = g0 * g[0];
    u[1] = even_a + ga1 * g[1];
    u[2] = even_a - ga1 * g[1];
    u[3] = even_b + gb1 * g[1];
    u[4] = even_b - gb1 * g[1];
    u[5] = g[2];
  }
  template <class V>
  static void result(const V (&m)[6], V (&y)[4]) {
    const V sum_a = m[1] + m[2], sum_b = m[3] + m[4], difference_a = m[1] - m[2], difference_b = m[3] - m[4];
    y[0] = m[0] + sum_a + sum_b;
    y[1] = a * difference_a + b * difference_b;
    y[2] = a2 * sum_a + b2 * sum_b;
    y[3] = a3 * difference_a + b3 * difference_b + m[5];
  }
  template <class V>
  static void result_adjoint(const V (&y)[4], V (&m)[6]) {
    const V even_a = y[0] + a2 * y[2], odd_a = y[1] + a2 * y[3];
    const V even_b = y[0] + b2 * y[2], odd_b = y[1] + b2 * y[3];
    m[0] = y[0];
    m[1] = even_a + a * odd_a;
    m[2] = even_a - a * odd_a;
    m[3] = even_b + b * odd_b;
    m[4] = even_b - b * odd_b;
    m[5] = y[3];
  }
  template <class V>
  static void weight_adjoint(const V (&u)[6], V (&g)[3]) {
    const V sum_a = u[1] + u[2], sum_b = u[3] + u[4];
    g[0] = g0 * u[0] + ga0 * sum_a + gb0 * sum_b;
    g[1] = ga1 * (u[1] - u[2]) + gb1 * (u[3] - u[4]);
    g[2] = ga2 * sum_a + gb2 * sum_b + u[5];
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
