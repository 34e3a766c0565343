// fold for one element type: bands of the image summed from rows of columns. Include only from engine.inl.h.
//
//   image[n, c, i] = sum over taps t, ascending, of columns[n, (c, t), o]  where  o * stride + t * dilation - lo = i
//
// A unit is a band of rows of one plane. Tap by tap, the rows of columns are read in one stream and added to the band's
// sums, which stay in cache. Pixels that one run of columns reaches are `stride` apart, so the sums of a row are kept
// by their phase x mod stride: the run is then contiguous in both.
//
//     image row, stride 2     x0 x1 x2 x3 x4 x5 ...         sums   [ x0 x2 x4 ... | x1 x3 x5 ... ]
//     tap t adds column o to x = 2 o + t - lo                      one of the halves, shifted
#pragma once

template <class T>
struct Adder {  // floating point, narrow types through float
  using Sum = decltype(widen(T{}));
  static Sum zero() { return 0; }
  static Sum add(Sum a, T b) { return a + widen(b); }
  static T finish(Sum a) { return Narrow<T>::from(a); }
};
template <class T>
  requires std::is_unsigned_v<T>
struct Adder<T> {
  using Sum = T;
  static Sum zero() { return 0; }
  static Sum add(Sum a, T b) { return static_cast<T>(a + b); }
  static T finish(Sum a) { return a; }
};
template <>
struct Adder<bool> {  // a sum of truth values is whether any is true
  using Sum = uint8_t;
  static Sum zero() { return 0; }
  static Sum add(Sum a, uint8_t b) { return a | b; }
  static uint8_t finish(Sum a) { return a; }
};
template <class T>
struct Adder<Complex<T>> {
  using Sum = Complex<T>;
  static Sum zero() { return {0, 0}; }
  static Sum add(Sum a, Complex<T> b) { return {a.re + b.re, a.im + b.im}; }
  static Complex<T> finish(Sum a) { return a; }
};

template <class T>
class FoldBands {
  using A = typename Adder<T>::Sum;
  using Element = std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>;

 public:
  explicit FoldBands(const FoldJob& job)
      : job_(job), p_(job.problem), phases_(p_.axis[2].stride <= kLargestPhases ? p_.axis[2].stride : 1) {}

  void run(int64_t unit) const {
    const ConvAxis &d = p_.axis[0], &h = p_.axis[1], &w = p_.axis[2];
    const FoldCut cut = job_.cut();
    Band band;
    band.x0 = unit % cut.chunks * cut.chunk, unit /= cut.chunks;
    band.y0 = unit % cut.bands * cut.rows, unit /= cut.bands;
    band.z = unit % d.input;
    band.plane = unit / d.input;
    band.width = std::min(cut.chunk, w.input - band.x0);
    band.height = std::min(cut.rows, h.input - band.y0);
    band.length = (band.width + phases_ - 1) / phases_;
    A sums[kFoldBytes / sizeof(A)];
    std::fill_n(sums, band.height * band.length * phases_, Adder<T>::zero());
    sum(band, sums);
    finish(band, sums);
  }

 private:
  // Pixels [y0, y0 + height) x [x0, x0 + width) at depth z of one plane; the sums of a row are [phases][length].
  struct Band {
    int64_t plane, z, y0, x0, height, width, length;
  };

  // What one tap of an axis adds to pixels [x0, x0 + size): columns [first, first + count), the first to pixel x0 + at.
  struct Run {
    int64_t first, count, at;
    Run(const ConvAxis& a, int64_t tap, int64_t x0, int64_t size) {
      const int64_t shift = tap * a.dilation - a.lo - x0;  // column o lands on pixel x0 + o * stride + shift
      const auto first_at = [&](int64_t x) {
        const int64_t room = x - shift;
        return room <= 0 ? int64_t{0} : a.stride == 1 ? room : (room + a.stride - 1) / a.stride;
      };
      first = first_at(0);
      count = std::min(first_at(size), a.output) - first;
      at = first * a.stride + shift;
    }
  };

  void sum(const Band& band, A* sums) const {
    const ConvAxis &d = p_.axis[0], &h = p_.axis[1], &w = p_.axis[2];
    const int64_t n = band.plane / p_.channels, c = band.plane % p_.channels;
    const int64_t row_sums = band.length * phases_;
    const Element* row = static_cast<const Element*>(job_.columns) + n * job_.outer + c * unfold_taps(p_) * job_.row;
    for (int64_t td = 0; td < d.kernel; ++td) {
      const Run in_d(d, td, band.z, 1);
      if (in_d.count <= 0) {
        row += h.kernel * w.kernel * job_.row;
        continue;
      }
      for (int64_t th = 0; th < h.kernel; ++th) {
        const Run in_h(h, th, band.y0, band.height);
        const Element* line = row + (in_d.first * h.output + in_h.first) * w.output * job_.block;
        for (int64_t tw = 0; tw < w.kernel; ++tw, line += job_.row, row += job_.row) {
          const Run in_w(w, tw, band.x0, band.width);
          if (in_h.count <= 0 || in_w.count <= 0) continue;
          A* to = sums + in_h.at * row_sums;
          to += phases_ > 1 ? in_w.at % phases_ * band.length + in_w.at / phases_ : in_w.at;
          for (int64_t i = 0; i < in_h.count; ++i)
            add(to + i * h.stride * row_sums, phases_ == w.stride ? 1 : w.stride,
                line + (i * w.output + in_w.first) * job_.block, job_.block, in_w.count);
        }
      }
    }
  }

  static void add(A* sums, int64_t step, const Element* from, int64_t from_step, int64_t n) {
    if (step == 1 && from_step == 1)
      for (int64_t i = 0; i < n; ++i) sums[i] = Adder<T>::add(sums[i], from[i]);
    else
      for (int64_t i = 0; i < n; ++i) sums[i * step] = Adder<T>::add(sums[i * step], from[i * from_step]);
  }

  void finish(const Band& band, const A* sums) const {
    const ConvAxis &h = p_.axis[1], &w = p_.axis[2];
    Element* to = static_cast<Element*>(job_.image) +
                  ((band.plane * p_.axis[0].input + band.z) * h.input + band.y0) * w.input + band.x0;
    for (int64_t y = 0; y < band.height; ++y, to += w.input, sums += band.length * phases_) {
      if (phases_ == 1) {
        for (int64_t x = 0; x < band.width; ++x) to[x] = Adder<T>::finish(sums[x]);
      } else if (phases_ == 2) {  // the common one, as a loop that the compiler makes vectors of
        const A* odd = sums + band.length;
        for (int64_t q = 0; q < band.width / 2; ++q) {
          to[2 * q] = Adder<T>::finish(sums[q]);
          to[2 * q + 1] = Adder<T>::finish(odd[q]);
        }
        if (band.width % 2) to[band.width - 1] = Adder<T>::finish(sums[band.width / 2]);
      } else {
        for (int64_t phase = 0; phase < phases_; ++phase)
          for (int64_t x = phase, q = phase * band.length; x < band.width; x += phases_, ++q)
            to[x] = Adder<T>::finish(sums[q]);
      }
    }
  }

  const FoldJob& job_;
  const UnfoldProblem& p_;
  const int64_t phases_;
};
