// The sums of the direct algorithms, one at a time: of floating and complex numbers in float64, of integers modulo
// 2^64.
//
// constexpr, so that CUDA kernels may call them too.
#pragma once

#include <cstdint>
#include <type_traits>

#include "elements.h"

namespace convext {

// A float64 sum in blocks of 256 terms: the rounding error of a single chain of additions grows with its length.
class BlockedSum {
 public:
  constexpr void add(double x) {
    block_ += x;
    if (++count_ == 256) total_ += block_, block_ = 0, count_ = 0;
  }
  constexpr double total() const { return total_ + block_; }

 private:
  double total_ = 0, block_ = 0;
  int count_ = 0;
};

// Sums of T live in a Sum<T>: unsigned 64-bit for integers (wrap-around is defined), float64 for all others. A real sum
// may be finished by a function, an activation, before it is rounded; there is none for other types.
template <class T, bool = std::is_integral_v<T>>
struct Sum {
  BlockedSum value;
  constexpr void add(T a, T b) { value.add(static_cast<double>(widen(a)) * widen(b)); }
  constexpr void add(T a) { value.add(widen(a)); }
  constexpr T result() const {
    return result([](double total) { return total; });
  }
  template <class Finish>
  constexpr T result(Finish finish) const {
    return Narrow<T>::from(static_cast<decltype(widen(T{}))>(finish(value.total())));
  }
};
template <class T>
struct Sum<T, true> {
  uint64_t value = 0;
  constexpr void add(T a, T b) { value += static_cast<uint64_t>(a) * static_cast<uint64_t>(b); }
  constexpr void add(T a) { value += static_cast<uint64_t>(a); }
  constexpr T result() const { return static_cast<T>(value); }
  template <class Finish>
  constexpr T result(Finish) const {
    return result();
  }
};
template <class R>
struct Sum<Complex<R>, false> {
  BlockedSum re, im;
  constexpr void add(Complex<R> a, Complex<R> b) {
    const double a_re = a.re, a_im = a.im;
    re.add(a_re * b.re - a_im * b.im);
    im.add(a_re * b.im + a_im * b.re);
  }
  constexpr void add(Complex<R> a) { re.add(a.re), im.add(a.im); }
  constexpr Complex<R> result() const { return {static_cast<R>(re.total()), static_cast<R>(im.total())}; }
  template <class Finish>
  constexpr Complex<R> result(Finish) const {
    return result();
  }
};

}  // namespace convext
