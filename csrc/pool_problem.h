// What a pooling is, independent of how it is computed: the windows of each axis and the count of what they hold.
//
// Every problem has three spatial axes (depth, height, width); 1-D and 2-D problems carry leading axes of size one.
// Output o looks at taps t of its window, at the input coordinates begin(o) + t * dilation that lie inside:
//
//   regular    begin(o) = o * stride - lo,             kernel taps
//   adaptive   begin(o) = floor(o * input / output),   up to ceil((o + 1) * input / output)
//
// A tap of a whole window has the code (td * KH + th) * KW + tw: what max pooling records of its winner.
#pragma once

#include <algorithm>
#include <cstdint>

#include "problem.h"

namespace convext {

struct PoolAxis {
  int64_t input = 1, output = 1;
  int64_t kernel = 1;  // adaptive: the longest window
  int64_t stride = 1, dilation = 1;
  int64_t lo = 0, hi = 0;  // padding before the first and after the last element; negative crops
  bool adaptive = false;

  constexpr int64_t limit() const { return hi < 0 ? input + hi : input; }  // windows see nothing from here on
};

struct PoolProblem {
  int64_t batch = 0, channels = 0;
  PoolAxis axis[kSpatialAxes];
  bool divides_image = false;  // the caller gave no windows but their number, also where they turn out regular

  int64_t planes() const { return batch * channels; }
  int64_t input_pixels() const { return axis[0].input * axis[1].input * axis[2].input; }
  int64_t output_pixels() const { return axis[0].output * axis[1].output * axis[2].output; }
};

inline int64_t kernel_taps(const PoolProblem& p) { return p.axis[0].kernel * p.axis[1].kernel * p.axis[2].kernel; }

// Taps [first, last) of the window are inside of the input; none where first == last.
struct PoolWindow {
  int64_t begin, first, last;
  bool empty() const { return first >= last; }
};

constexpr int64_t divide_up_signed(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
constexpr int64_t divide_down_signed(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

constexpr int64_t window_begin(const PoolAxis& a, int64_t o) {
  return a.adaptive ? static_cast<int64_t>(static_cast<__int128>(o) * a.input / a.output) : o * a.stride - a.lo;
}

constexpr PoolWindow window_at(const PoolAxis& a, int64_t o) {
  const int64_t begin = window_begin(a, o);
  if (a.adaptive) {
    const __int128 end = (static_cast<__int128>(o + 1) * a.input + a.output - 1) / a.output;
    return {begin, 0, static_cast<int64_t>(end) - begin};
  }
  const int64_t limit = a.limit();
  if (begin >= 0 && begin + (a.kernel - 1) * a.dilation < limit) return {begin, 0, a.kernel};  // most: no division
  const int64_t first = begin >= 0 ? 0 : (-begin + a.dilation - 1) / a.dilation;
  const int64_t last = begin >= limit ? 0 : (limit - begin + a.dilation - 1) / a.dilation;
  return {begin, first, std::max(first, std::min(last, a.kernel))};
}

// What an average counts on one axis: the taps inside of the input, or inside of its padding too.
constexpr int64_t window_count(const PoolAxis& a, int64_t o, bool include_pad) {
  const PoolWindow w = window_at(a, o);
  if (!include_pad || a.adaptive || w.last - w.first == a.kernel) return w.last - w.first;
  return std::clamp<int64_t>(divide_up_signed(a.input + a.hi - w.begin, a.dilation), 0, a.kernel);
}

// Calls visit(o, t) for every tap t of a window o that reads input coordinate i: the adjoint of window_at.
template <class Visit>
constexpr void for_each_window(const PoolAxis& a, int64_t i, Visit visit) {
  if (a.adaptive) {
    int64_t o = static_cast<int64_t>(static_cast<__int128>(i) * a.output / a.input);
    for (; o < a.output; ++o) {
      const int64_t t = i - window_begin(a, o);
      if (t < 0) return;
      visit(o, t);
    }
    return;
  }
  if (i >= a.limit()) return;
  if (a.dilation == 1) {  // i = o * stride - lo + t
    const auto divided = [&](int64_t n) { return a.stride == 1 ? n : a.stride == 2 ? n / 2 : n / a.stride; };
    const int64_t x = i + a.lo, last = x < 0 ? 0 : divided(x), least = x - last * a.stride;
    if (x < 0 || least >= a.kernel) return;
    int64_t o = last - divided(a.kernel - 1 - least);
    for (int64_t t = x - o * a.stride; t >= 0; t -= a.stride, ++o)
      if (o >= 0 && o < a.output) visit(o, t);
    return;
  }
  for (int64_t t = a.kernel - 1; t >= 0; --t) {
    const int64_t x = i + a.lo - t * a.dilation;
    if (x >= 0 && x % a.stride == 0 && x / a.stride < a.output) visit(x / a.stride, t);
  }
}

// The windows [begin, end) that may read input coordinates [from, to); a few more are harmless.
struct PoolRange {
  int64_t begin, end;
};
inline PoolRange windows_reading(const PoolAxis& a, int64_t from, int64_t to) {
  if (a.adaptive) {
    const __int128 first = static_cast<__int128>(from) * a.output / a.input;
    const __int128 end = (static_cast<__int128>(to) * a.output + a.input - 1) / a.input;
    return {static_cast<int64_t>(first), static_cast<int64_t>(end)};
  }
  const int64_t first = divide_up_signed(from + a.lo - (a.kernel - 1) * a.dilation, a.stride);
  const int64_t last = divide_down_signed(to - 1 + a.lo, a.stride);
  return {std::clamp<int64_t>(first, 0, a.output), std::clamp<int64_t>(last + 1, 0, a.output)};
}

}  // namespace convext
