// What a convolution is, independent of how it is computed: sizes, padding, and the formulas that tie them together.
//
// Every problem has three spatial axes (depth, height, width); 1-D and 2-D problems carry leading axes of size one.
// The three operators share one ConvProblem, named from fprop's point of view:
//
//   fprop   output[n, k, o]   = sum_{c, t} weight[k, c, t] * input[n, c, o * stride + t * dilation - lo]
//   dgrad   input[n, c, i]    = the adjoint of fprop in its input (this is the transposed convolution)
//   wgrad   weight[k, c, t]   = the adjoint of fprop in its weight
#pragma once

#include <cstdint>
#include <utility>

namespace convext {

inline constexpr int kSpatialAxes = 3;

// How a coordinate outside of the input is read; the names and the meaning are torch.nn.functional.pad's.
enum class PaddingMode : int64_t { kZeros = 0, kReflect = 1, kReplicate = 2, kCircular = 3 };

enum class ConvOperator : int64_t { kFprop, kDgrad, kWgrad };

struct ConvAxis {
  int64_t input = 1, kernel = 1, output = 1;
  int64_t stride = 1, dilation = 1;
  int64_t lo = 0, hi = 0;  // padding before the first and after the last element; negative crops
  bool operator==(const ConvAxis&) const = default;
};

struct ConvProblem {
  int64_t batch = 0;
  int64_t groups = 1;
  int64_t in_channels = 0;   // of one group
  int64_t out_channels = 0;  // of one group
  PaddingMode mode = PaddingMode::kZeros;
  ConvAxis axis[kSpatialAxes];
  bool operator==(const ConvProblem&) const = default;
};

// unfold copies window `o` of the padded image, tap by tap, into column `o`; fold, its adjoint, sums them back:
//
//   unfold  columns[n, (c, t), o] = image[n, c, o * stride + t * dilation - lo]
//   fold    image[n, c, i] = sum of columns[n, (c, t), o] over all t and o that unfold would read from i
struct UnfoldProblem {
  int64_t batch = 0;
  int64_t channels = 0;
  ConvAxis axis[kSpatialAxes];
};

// Element strides of a tensor seen as (outer, channel, depth, height, width); `outer` is the batch of an image and the
// output channel of a weight.
struct Strides {
  int64_t outer = 0, channel = 0;
  int64_t axis[kSpatialAxes] = {0, 0, 0};
};

inline int64_t kernel_extent(const ConvAxis& a) { return a.dilation * (a.kernel - 1) + 1; }

// torch.nn.Conv's formula; floor division, so that a negative numerator gives a size below one.
inline int64_t output_size(const ConvAxis& a) {
  const int64_t room = a.input + a.lo + a.hi - kernel_extent(a);
  return (room >= 0 ? room : room - a.stride + 1) / a.stride + 1;
}

// torch.nn.ConvTranspose's formula; output_padding arrives as a smaller `hi`. 128 bits hold any of these sizes.
inline __int128 transposed_size(const ConvAxis& a) {
  return static_cast<__int128>(a.output - 1) * a.stride + kernel_extent(a) - a.lo - a.hi;
}

inline int64_t output_pixels(const ConvProblem& p) { return p.axis[0].output * p.axis[1].output * p.axis[2].output; }
inline int64_t input_pixels(const ConvProblem& p) { return p.axis[0].input * p.axis[1].input * p.axis[2].input; }
inline int64_t kernel_taps(const ConvProblem& p) { return p.axis[0].kernel * p.axis[1].kernel * p.axis[2].kernel; }
inline int64_t unfold_blocks(const UnfoldProblem& p) { return p.axis[0].output * p.axis[1].output * p.axis[2].output; }
inline int64_t unfold_taps(const UnfoldProblem& p) { return p.axis[0].kernel * p.axis[1].kernel * p.axis[2].kernel; }
inline int64_t weight_elements(const ConvProblem& p) {
  return p.groups * p.out_channels * p.in_channels * kernel_taps(p);
}

// Whether the kernel is as large as the image and meets it once: a fully connected layer, written as a convolution.
// Depthwise ones are left out, which have nothing to multiply.
inline bool kernel_is_image(const ConvProblem& p) {
  if (kernel_taps(p) == 1 || p.in_channels * p.out_channels <= 1) return false;
  for (const ConvAxis& a : p.axis)
    if (a.output != 1 || a.kernel != a.input || kernel_extent(a) != a.input || a.lo != 0 || a.hi != 0) return false;
  return true;
}

// The same problem on images of one pixel, with an input channel for each (channel, tap).
inline ConvProblem taps_as_channels(ConvProblem p) {
  p.in_channels *= kernel_taps(p);
  for (ConvAxis& a : p.axis) a = {};
  return p;
}

// Whether windows along an axis are single elements, one at each: a 1 x 1 kernel has two such axes.
inline bool is_pointwise(const ConvAxis& a) { return a.kernel == 1 && a.stride == 1 && a.lo == 0 && a.hi == 0; }

// Leaves an axis out: those before it move up by one.
template <class T>
inline void remove_axis(T (&axis)[kSpatialAxes], int index) {
  for (int i = index; i > 0; --i) axis[i] = axis[i - 1];
  axis[0] = T{};
}

// Leaves out pointwise axes of one element and joins neighbouring pointwise ones, where `continues(i)` says that axis i
// goes on in memory where axis i + 1 ends: rows then are as long as they can be, and what windows span stands next to
// them. `removed(i)` is told of each axis that remove_axis took away. wgrad sums over pixels: under a single tap, which
// reads planes whole if it can, its sums keep their order whatever stands between the rows.
template <class Continues, class Removed>
inline void join_pointwise_axes(ConvOperator op, ConvProblem& p, Continues continues, Removed removed) {
  if (op == ConvOperator::kWgrad && kernel_taps(p) == 1) return;
  const auto remove = [&](int i) {
    remove_axis(p.axis, i);
    removed(i);
  };
  for (int i = 1; i < kSpatialAxes; ++i)
    if (is_pointwise(p.axis[i]) && p.axis[i].input == 1) remove(i);
  for (int i = 0; i + 1 < kSpatialAxes; ++i) {
    const ConvAxis& a = p.axis[i];
    ConvAxis& next = p.axis[i + 1];
    if (!is_pointwise(a) || a.input == 1 || !is_pointwise(next) || !continues(i)) continue;
    next.input = next.output = next.input * a.input;
    remove(i);
  }
}

// Turns a kernel of a single column over long rows, as 3 x 1 x 1 over joined planes is, into one of depth over planes
// of a row each: what a tap reads is then a whole row. Only where its taps are blocks of enough channels each (`block`:
// the terms of a reduction that are summed at once): 3 x 1 x 1 from 144 to 64 channels on 8 planes of 784 pixels 2.2
// to 1.9 ms, 7 x 1 of 64 channels on rows of 256 pixels 24.5 to 20.3 (two threads of a Zen 4). Shorter rows, fewer
// channels and strides were not tried. Depthwise and grouped kernels know no depth. Whether it did.
inline bool column_to_depth(ConvOperator op, ConvProblem& p, int64_t block) {
  constexpr int64_t kLongRow = 256, kLeastTerms = 32;
  const ConvAxis& y = p.axis[1];
  if (op == ConvOperator::kWgrad || p.groups > 1 || p.in_channels == 1) return false;
  if (p.axis[0] != ConvAxis{} || y.kernel == 1 || y.stride > 1 || !is_pointwise(p.axis[2])) return false;
  const int64_t terms = op == ConvOperator::kDgrad ? p.out_channels : p.in_channels;
  if (p.axis[2].input < kLongRow || terms < kLeastTerms || terms * y.kernel <= block) return false;
  std::swap(p.axis[0], p.axis[1]);
  return true;
}

// The input coordinate that padded coordinate x reads, or -1 for a zero.
constexpr int64_t padded_source(PaddingMode mode, int64_t x, int64_t extent) {
  if (x >= 0 && x < extent) return x;
  switch (mode) {
    case PaddingMode::kZeros: return -1;
    case PaddingMode::kReflect: return x < 0 ? -x : 2 * (extent - 1) - x;
    case PaddingMode::kReplicate: return x < 0 ? 0 : extent - 1;
    case PaddingMode::kCircular: return x < 0 ? x + extent : x - extent;
  }
  return -1;
}

// Calls visit(x) for every padded coordinate x in [-lo, input + hi) that reads input coordinate i: the adjoint of
// padded_source. At most three for reflect and circular, up to 1 + lo + hi for replicate.
template <class Visit>
inline void for_each_padded(PaddingMode mode, const ConvAxis& a, int64_t i, Visit visit) {
  const int64_t first = -a.lo, last = a.input + a.hi - 1;
  const auto offer = [&](int64_t x) {
    if (x >= first && x <= last) visit(x);
  };
  switch (mode) {
    case PaddingMode::kZeros: offer(i); return;
    case PaddingMode::kReflect:
      if (i > 0) offer(-i);
      offer(i);
      if (i < a.input - 1) offer(2 * (a.input - 1) - i);
      return;
    case PaddingMode::kReplicate:
      if (i == 0)
        for (int64_t x = first; x < 0; ++x) visit(x);
      offer(i);
      if (i == a.input - 1)
        for (int64_t x = a.input; x <= last; ++x) visit(x);
      return;
    case PaddingMode::kCircular:
      offer(i - a.input);
      offer(i);
      offer(i + a.input);
      return;
  }
}

}  // namespace convext
