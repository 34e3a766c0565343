#include "pool_contract.h"

#include <torch/headeronly/util/Exception.h>

#include <algorithm>

#include "geometry_code.h"

namespace convext {
namespace {

constexpr int64_t kLargestSize = int64_t{1} << 40;

void check_range(int64_t value, int64_t least, const char* name) {
  STD_TORCH_CHECK(value >= least && value <= kLargestSize, "convext: expected ", name, " between ", least,
                  " and 2^40, got ", value);
}

void check_length(const IntList& list, int64_t length, const char* name) {
  STD_TORCH_CHECK(static_cast<int64_t>(list.size()) == length, "convext: expected ", length, " values of ", name,
                  ", got ", list.size());
}

int rank_of(const Tensor& image) {
  const int64_t rank = image.dim() - 2;
  STD_TORCH_CHECK(rank >= 1 && rank <= kSpatialAxes, "convext: expected an image of 3 to 5 dimensions, got ",
                  image.dim());
  return static_cast<int>(rank);
}

const IntList kAdaptive{0, 0, 0, 0};

// The axis has its kernel, steps and padding.
void check_regular(const PoolAxis& a) {
  check_range(a.kernel, 1, "a kernel size");
  check_range(a.stride, 1, "stride");
  check_range(a.dilation, 1, "dilation");
  check_range(a.lo, -kLargestSize, "padding");
  check_range(a.hi, -kLargestSize, "padding");
  STD_TORCH_CHECK(a.kernel <= kLargestSize / a.dilation, "convext: kernel size ", a.kernel, " with dilation ",
                  a.dilation, " is too large");
  STD_TORCH_CHECK(a.output <= 2 * kLargestSize / a.stride, "convext: output size ", a.output, " with stride ", a.stride,
                  " is too large");
}

void set_regular(PoolAxis& a, const PoolGeometry& g, int i) {
  a.kernel = g.kernel_size[i];
  a.stride = g.stride[i];
  a.dilation = g.dilation[i];
  a.lo = g.padding[2 * i];
  a.hi = g.padding[2 * i + 1];
  check_regular(a);
}

// torch's formula: with ceil_mode the last window begins in the input or before it.
int64_t pooled_size(const PoolAxis& a, bool ceil_mode) {
  const int64_t reach = a.input + a.lo + a.hi - a.dilation * (a.kernel - 1) - 1 + (ceil_mode ? a.stride - 1 : 0);
  const int64_t output = (reach >= 0 ? reach : reach - a.stride + 1) / a.stride + 1;
  return ceil_mode && (output - 1) * a.stride >= a.input + a.lo ? output - 1 : output;
}

PoolAxis coded_axis(const CodedPool& g, int axis) {
  ConvAxis steps;
  set_geometry(steps, axis, g.window, g.padding);
  PoolAxis a;
  a.kernel = decode_pair(axis, g.kernel_size).first + 1;
  a.stride = steps.stride;
  a.dilation = steps.dilation;
  a.lo = steps.lo;
  a.hi = steps.hi;
  return a;
}

// Windows of one length side by side are regular ones, which run faster.
void set_adaptive(PoolAxis& a) {
  if (a.input % a.output == 0) {
    a.kernel = a.stride = a.input / a.output;
    return;
  }
  a.adaptive = true;
  a.kernel = (a.input + a.output - 1) / a.output + 1;  // no window is longer; the result records places by it
}

PoolProblem problem_of(const Tensor& image, const PoolGeometry& g, const IntList& other, int64_t PoolAxis::*own_size,
                       int64_t PoolAxis::*other_size) {
  const int rank = rank_of(image);
  check_length(other, rank, "a size");
  const bool adaptive = is_adaptive(g.kernel_size);
  if (adaptive) {
    STD_TORCH_CHECK(g.stride == kAdaptive && g.padding == kAdaptive && g.dilation == kAdaptive,
                    "convext: expected four zeros also of stride, padding and dilation, as of kernel_size");
  } else {
    check_length(g.kernel_size, rank, "kernel_size");
    check_length(g.stride, rank, "stride");
    check_length(g.padding, 2 * rank, "padding");
    check_length(g.dilation, rank, "dilation");
  }
  PoolProblem p;
  p.divides_image = adaptive;
  p.batch = image.size(0);
  p.channels = image.size(1);
  for (int i = 0; i < rank; ++i) {
    PoolAxis& a = p.axis[kSpatialAxes - rank + i];
    a.*own_size = image.size(2 + i);
    a.*other_size = other[i];
    check_range(a.input, 1, "an input size");
    check_range(a.output, 1, "an output size");
    if (adaptive) {
      set_adaptive(a);
    } else {
      set_regular(a, g, i);
    }
  }
  return p;
}

}  // namespace

bool is_adaptive(const IntList& kernel_size) { return kernel_size.size() == kAdaptive.size(); }

PoolProblem pool_problem(const Tensor& input, const PoolGeometry& geometry, const IntList& output_size) {
  return problem_of(input, geometry, output_size, &PoolAxis::input, &PoolAxis::output);
}

PoolProblem pool_adjoint_problem(const Tensor& grad_output, const PoolGeometry& geometry, const IntList& input_size) {
  return problem_of(grad_output, geometry, input_size, &PoolAxis::output, &PoolAxis::input);
}

PoolProblem pool_problem(const Tensor& input, const CodedPool& geometry, bool ceil_mode) {
  const int rank = rank_of(input);
  STD_TORCH_CHECK(input.numel() > 0, "convext: expected an image with elements");
  PoolProblem p;
  p.batch = input.size(0);
  p.channels = input.size(1);
  for (int i = 0; i < rank; ++i) {
    PoolAxis& a = p.axis[kSpatialAxes - rank + i];
    a = coded_axis(geometry, kSpatialAxes - rank + i);
    a.input = input.size(2 + i);
    check_range(a.input, 1, "an input size");
    STD_TORCH_CHECK(std::max(a.lo, a.hi) <= a.kernel / 2, "convext: expected padding of at most half of kernel_size");
    a.output = pooled_size(a, ceil_mode);
    check_range(a.output, 1, "an output size");
    check_regular(a);
  }
  return p;
}

PoolProblem pool_adjoint_problem(const Tensor& grad_output, const CodedPool& geometry, const int64_t* input_size) {
  const int rank = rank_of(grad_output);
  PoolProblem p;
  p.batch = grad_output.size(0);
  p.channels = grad_output.size(1);
  for (int i = 0; i < rank; ++i) {
    const int axis = kSpatialAxes - rank + i;
    PoolAxis& a = p.axis[axis];
    a = coded_axis(geometry, axis);
    a.input = input_size[axis];
    a.output = grad_output.size(2 + i);
    check_range(a.input, 1, "an input size");
    check_range(a.output, 1, "an output size");
    check_regular(a);
  }
  return p;
}

int offset_bytes(const PoolProblem& p) {
  const __int128 taps = static_cast<__int128>(p.axis[0].kernel) * p.axis[1].kernel * p.axis[2].kernel;
  STD_TORCH_CHECK(taps < (__int128{1} << 31),
                  "convext: expected windows of fewer than 2^31 elements where the place of "
                  "the winner is recorded");
  return p.divides_image ? 4 : taps < 256 ? 1 : taps < 32768 ? 2 : 4;
}

ScalarType offset_type(const PoolProblem& problem) {
  const int bytes = offset_bytes(problem);
  return bytes == 1 ? ScalarType::Byte : bytes == 2 ? ScalarType::Short : ScalarType::Int;
}

void check_offsets(const Tensor& offsets, const Tensor& images, const PoolProblem& problem) {
  STD_TORCH_CHECK(offsets.scalar_type() == offset_type(problem), "convext: expected offsets of type ",
                  torch::headeronly::toString(offset_type(problem)), ", got ",
                  torch::headeronly::toString(offsets.scalar_type()));
  STD_TORCH_CHECK(
      offsets.dim() == images.dim() && offsets.size(0) == problem.batch && offsets.size(1) == problem.channels,
      "convext: expected offsets of ", problem.batch, " x ", problem.channels, " planes");
  const int rank = static_cast<int>(offsets.dim()) - 2;
  for (int i = 0; i < rank; ++i) {
    const int64_t expected = problem.axis[kSpatialAxes - rank + i].output;
    STD_TORCH_CHECK(offsets.size(2 + i) == expected, "convext: expected offsets of size ", expected, " on axis ", i,
                    ", got ", offsets.size(2 + i));
  }
}

void check_places(const Tensor& image, const Tensor& places) {
  STD_TORCH_CHECK(image.dim() >= 3 && image.dim() <= 5 && places.dim() == image.dim(),
                  "convext: expected an image and places of 3 to 5 dimensions, got ", image.dim(), " and ",
                  places.dim());
  STD_TORCH_CHECK(places.scalar_type() == ScalarType::Long, "convext: expected places of type int64, got ",
                  torch::headeronly::toString(places.scalar_type()));
  STD_TORCH_CHECK(places.size(0) == image.size(0) && places.size(1) == image.size(1),
                  "convext: expected as many planes of places as of the image");
}

void check_scatter(const Tensor& input, const Tensor& places, const IntList& output_size) {
  check_places(input, places);
  STD_TORCH_CHECK(static_cast<int64_t>(output_size.size()) == input.dim() - 2, "convext: expected ", input.dim() - 2,
                  " values of output_size, got ", output_size.size());
  for (int64_t i = 2; i < input.dim(); ++i)
    STD_TORCH_CHECK(input.size(i) == places.size(i) && output_size[i - 2] >= 1,
                    "convext: expected input and places of one size, and an output size of 1 or more on axis ", i - 2);
}

int64_t check_begins(const Tensor& begins, const PoolProblem& p, const IntList& output_size) {
  int64_t listed = 0;
  for (const int64_t size : output_size) listed += size;
  STD_TORCH_CHECK(begins.dim() == 3 && begins.size(0) == p.batch && begins.size(1) == p.channels &&
                      begins.size(2) == listed && begins.scalar_type() == ScalarType::Long,
                  "convext: expected int64 begins of size [", p.batch, ", ", p.channels, ", ", listed, "]");
  return listed;
}

void check_uniform(const Tensor& uniform, const Tensor& input) {
  STD_TORCH_CHECK(uniform.dim() == input.dim() && uniform.size(0) == input.size(0) &&
                      uniform.size(1) == input.size(1) && uniform.scalar_type() == ScalarType::Double,
                  "convext: expected float64 numbers, one for each window");
}

void check_l2_adjoint(const Tensor& grad_output, const Tensor& output, const Tensor& input, const IntList& kernel_size,
                      const PoolProblem& p) {
  STD_TORCH_CHECK(grad_output.scalar_type() == input.scalar_type() && output.scalar_type() == input.scalar_type(),
                  "convext: expected gradient, output and input of one type");
  STD_TORCH_CHECK(!is_adaptive(kernel_size), "convext: expected a kernel_size, got adaptive windows");
  STD_TORCH_CHECK(std::ranges::equal(output.sizes(), grad_output.sizes()),
                  "convext: expected the gradient and the output to have the same sizes");
  STD_TORCH_CHECK(input.dim() == grad_output.dim() && input.size(0) == p.batch && input.size(1) == p.channels,
                  "convext: expected an input of ", p.batch, " x ", p.channels, " planes");
}

IntList spatial_sizes(const Tensor& image) {
  STD_TORCH_CHECK(image.dim() >= 3 && image.dim() <= 2 + kSpatialAxes,
                  "convext: expected a batch of images of 1 to 3 spatial axes, got ", image.dim(), " dimensions");
  return IntList(image.sizes().begin() + 2, image.sizes().end());
}

IntList with_spatial(const Tensor& image, const IntList& spatial) {
  IntList sizes{image.size(0), image.size(1)};
  sizes.insert(sizes.end(), spatial.begin(), spatial.end());
  return sizes;
}

torch::headeronly::MemoryFormat pool_format(const Tensor& image, const IntList& spatial, bool adaptive, bool average) {
  using torch::headeronly::MemoryFormat;
  if (!suggests_channels_last(image)) return MemoryFormat::Contiguous;
  if (image.dim() == 4) return MemoryFormat::ChannelsLast;
  const bool mean = adaptive && average && spatial == IntList{1, 1, 1};
  return (adaptive || average) && !mean ? MemoryFormat::Contiguous : MemoryFormat::ChannelsLast3d;
}

}  // namespace convext
