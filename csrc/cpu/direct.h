// The direct algorithm: convolution as its definition reads, one sum at a time, for any strides and any element type.
//
//   fprop   y[n, k, o] = b[k] + sum over c, t of       w[k, c, t] * x[n, c, i]     where i = o * stride
//   dgrad   x[n, c, i] = b[c] + sum over k, (o, t) of  w[k, c, t] * y[n, k, o]               + t * dilation - lo:
//   wgrad   w[k, c, t] =        sum over n, o of       y[n, k, o] * x[n, c, i]     tap t of window o reads pixel i
//
//   pixels i     0   1   2   3   4     one axis, three taps, stride 2, lo = 1: window 0 reads a zero and the pixels 0
//   window 0   [ t1  t2  .   .   . ]   and 1, window 1 the pixels 1, 2 and 3
//   window 1   [ .   t0  t1  t2  . ]
//
// It serves the types that have no packed kernel (integers, complex) and is the last resort of every plan. Integer sums
// wrap as two's complement does, which makes the result equal to torch's whatever the order of the additions.
#pragma once

#include <cstdint>

#include "../epilogue.h"
#include "../exact_sum.h"
#include "../problem.h"

namespace convext::direct {

template <class T>
struct Image {
  T* data;
  Strides strides;
  T* at(int64_t outer, int64_t channel) const { return data + outer * strides.outer + channel * strides.channel; }
  int64_t offset(const int64_t (&x)[kSpatialAxes]) const {
    return x[0] * strides.axis[0] + x[1] * strides.axis[1] + x[2] * strides.axis[2];
  }
};

// Calls visit(coordinate) for each index below the three extents, row by row.
template <class Visit>
void for_each_index(int64_t depth, int64_t height, int64_t width, Visit visit) {
  int64_t x[kSpatialAxes];
  for (x[0] = 0; x[0] < depth; ++x[0])
    for (x[1] = 0; x[1] < height; ++x[1])
      for (x[2] = 0; x[2] < width; ++x[2]) visit(x);
}

// Writes the finished sum of channel k.
template <class T>
void finish(Sum<T>& sum, int64_t k, const Epilogue& epilogue, Image<T> result, T* to) {
  if (epilogue.bias) sum.add(static_cast<const T*>(epilogue.bias)[k]);
  if (epilogue.residual) sum.add(static_cast<const T*>(epilogue.residual)[to - result.data]);
  *to = sum.result([&](double total) { return activated(epilogue.activation, epilogue.slope, total); });
}

// One output plane (n, k) of fprop; `plane` counts n * channels + k.
template <class T>
void fprop_plane(const ConvProblem& p, int64_t plane, Image<const T> input, Image<const T> weight,
                 const Epilogue& epilogue, Image<T> output) {
  const int64_t channels = p.groups * p.out_channels, n = plane / channels, k = plane % channels;
  const int64_t first = k / p.out_channels * p.in_channels;
  const ConvAxis* a = p.axis;
  for_each_index(a[0].output, a[1].output, a[2].output, [&](const auto& o) {
    Sum<T> sum;
    for_each_index(a[0].kernel, a[1].kernel, a[2].kernel, [&](const auto& t) {
      int64_t x[kSpatialAxes];
      for (int i = 0; i < kSpatialAxes; ++i) {
        x[i] = padded_source(p.mode, o[i] * a[i].stride + t[i] * a[i].dilation - a[i].lo, a[i].input);
        if (x[i] < 0) return;
      }
      const int64_t at = input.offset(x), tap = weight.offset(t);
      for (int64_t c = 0; c < p.in_channels; ++c) sum.add(input.at(n, first + c)[at], weight.at(k, c)[tap]);
    });
    finish(sum, k, epilogue, output, output.at(n, k) + output.offset(o));
  });
}

// One result plane (n, c) of dgrad: every input pixel gathers the windows that cover one of its padded images.
template <class T>
void dgrad_plane(const ConvProblem& p, int64_t plane, Image<const T> grad, Image<const T> weight,
                 const Epilogue& epilogue, Image<T> result) {
  const int64_t channels = p.groups * p.in_channels, n = plane / channels, c = plane % channels;
  const int64_t first = c / p.in_channels * p.out_channels;
  const ConvAxis* a = p.axis;
  // The output coordinate whose window holds padded coordinate x at tap t, or -1.
  const auto window = [&](int axis, int64_t x, int64_t t) -> int64_t {
    const int64_t start = x + a[axis].lo - t * a[axis].dilation;
    if (start < 0 || start % a[axis].stride != 0) return -1;
    const int64_t o = start / a[axis].stride;
    return o < a[axis].output ? o : -1;
  };
  for_each_index(a[0].input, a[1].input, a[2].input, [&](const auto& i) {
    Sum<T> sum;
    for_each_index(a[0].kernel, a[1].kernel, a[2].kernel, [&](const auto& t) {
      const int64_t tap = weight.offset(t);
      for_each_padded(p.mode, a[0], i[0], [&](int64_t xd) {
        const int64_t od = window(0, xd, t[0]);
        if (od < 0) return;
        for_each_padded(p.mode, a[1], i[1], [&](int64_t xh) {
          const int64_t oh = window(1, xh, t[1]);
          if (oh < 0) return;
          for_each_padded(p.mode, a[2], i[2], [&](int64_t xw) {
            const int64_t ow = window(2, xw, t[2]);
            if (ow < 0) return;
            const int64_t at = grad.offset({od, oh, ow});
            for (int64_t k = 0; k < p.out_channels; ++k)
              sum.add(grad.at(n, first + k)[at], weight.at(first + k, c % p.in_channels)[tap]);
          });
        });
      });
    });
    finish(sum, c, epilogue, result, result.at(n, c) + result.offset(i));
  });
}

// One filter slice (k, c) of wgrad.
template <class T>
void wgrad_slice(const ConvProblem& p, int64_t slice, Image<const T> grad, Image<const T> input, Image<T> result) {
  const int64_t k = slice / p.in_channels, c = slice % p.in_channels;
  const int64_t first = k / p.out_channels * p.in_channels;
  const ConvAxis* a = p.axis;
  for_each_index(a[0].kernel, a[1].kernel, a[2].kernel, [&](const auto& t) {
    Sum<T> sum;
    for (int64_t n = 0; n < p.batch; ++n) {
      const T* g = grad.at(n, k);
      const T* source = input.at(n, first + c);
      for_each_index(a[0].output, a[1].output, a[2].output, [&](const auto& o) {
        int64_t x[kSpatialAxes];
        for (int i = 0; i < kSpatialAxes; ++i) {
          x[i] = padded_source(p.mode, o[i] * a[i].stride + t[i] * a[i].dilation - a[i].lo, a[i].input);
          if (x[i] < 0) return;
        }
        sum.add(g[grad.offset(o)], source[input.offset(x)]);
      });
    }
    result.at(k, c)[result.offset(t)] = sum.result();
  });
}

}  // namespace convext::direct
