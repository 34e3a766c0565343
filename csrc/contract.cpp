#include "contract.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <limits>

#include "geometry_code.h"

namespace convext {
namespace {

// Sizes, strides and padding of an axis stay within this, so that their sums do not overflow 64 bits.
constexpr int64_t kLargestSize = int64_t{1} << 40;

int rank_of(const Tensor& t, const char* name) {
  const int64_t rank = t.dim() - 2;
  STD_TORCH_CHECK(rank >= 1 && rank <= kSpatialAxes, "convext: expected ", name, " of 3 to 5 dimensions, got ",
                  t.dim());
  return static_cast<int>(rank);
}

void check_length(const IntList& list, int64_t length, const char* name) {
  STD_TORCH_CHECK(static_cast<int64_t>(list.size()) == length, "convext: expected ", length, " values of ", name,
                  ", got ", list.size());
}

void check_range(int64_t value, int64_t least, const char* name) {
  STD_TORCH_CHECK(value >= least && value <= kLargestSize, "convext: expected ", name, " between ", least,
                  " and 2^40, got ", value);
}

ConvProblem with_geometry(const CodedGeometry& g, int rank) {
  check_range(g.groups, 1, "groups");
  const int64_t mode = g.window >> kModeBit;
  STD_TORCH_CHECK(mode >= 0 && mode <= 3, "convext: expected padding_mode 0 to 3, got ", mode);
  ConvProblem p;
  p.groups = g.groups;
  p.mode = static_cast<PaddingMode>(mode);
  for (int i = kSpatialAxes - rank; i < kSpatialAxes; ++i) set_geometry(p.axis[i], i, g.window, g.padding);
  return p;
}

ConvProblem with_geometry(const ConvGeometry& g, int rank) {
  check_length(g.stride, rank, "stride");
  check_length(g.padding, 2 * rank, "padding");
  check_length(g.dilation, rank, "dilation");
  check_range(g.groups, 1, "groups");
  STD_TORCH_CHECK(g.padding_mode >= 0 && g.padding_mode <= 3, "convext: expected padding_mode 0 to 3, got ",
                  g.padding_mode);
  ConvProblem p;
  p.groups = g.groups;
  p.mode = static_cast<PaddingMode>(g.padding_mode);
  for (int i = 0; i < rank; ++i) {
    ConvAxis& a = p.axis[kSpatialAxes - rank + i];
    a.stride = g.stride[i];
    a.dilation = g.dilation[i];
    a.lo = g.padding[2 * i];
    a.hi = g.padding[2 * i + 1];
    check_range(a.stride, 1, "stride");
    check_range(a.dilation, 1, "dilation");
    check_range(a.lo, -kLargestSize, "padding");
    check_range(a.hi, -kLargestSize, "padding");
  }
  return p;
}

void check_operands(const Tensor& a, const Tensor& b) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), "convext: expected operands of one type, got ",
                  torch::headeronly::toString(a.scalar_type()), " and ", torch::headeronly::toString(b.scalar_type()));
  STD_TORCH_CHECK(a.dim() == b.dim(), "convext: expected operands of one rank, got ", a.dim(), " and ", b.dim());
}

// Sets the channels of one group from the two tensors that know them.
void set_channels(ConvProblem& p, int64_t in_total, int64_t in_group, int64_t out_total) {
  STD_TORCH_CHECK(in_total == in_group * p.groups, "convext: expected ", in_group * p.groups, " input channels, got ",
                  in_total);
  STD_TORCH_CHECK(out_total % p.groups == 0, "convext: expected output channels divisible by groups=", p.groups,
                  ", got ", out_total);
  p.in_channels = in_group;
  p.out_channels = out_total / p.groups;
}

// Before any formula uses them.
void check_kernel(const ConvAxis& a) {
  check_range(a.kernel, 1, "a kernel size");
  STD_TORCH_CHECK(a.kernel <= kLargestSize / a.dilation, "convext: kernel size ", a.kernel, " with dilation ",
                  a.dilation, " is too large");
}

void check_axes(const ConvProblem& p) {
  for (const ConvAxis& a : p.axis) {
    check_range(a.input, 1, "an input size");
    check_range(a.output, 1, "an output size");
    const int64_t limit = p.mode == PaddingMode::kReflect    ? a.input - 1
                          : p.mode == PaddingMode::kCircular ? a.input
                                                             : kLargestSize;
    STD_TORCH_CHECK(a.lo <= limit && a.hi <= limit, "convext: expected padding of at most ", limit,
                    " for this padding_mode, got (", a.lo, ", ", a.hi, ")");
  }
}

// The geometry of unfold and fold; the caller fills in the size of the image before the number of blocks is asked for.
UnfoldProblem with_geometry(const UnfoldGeometry& g, int rank) {
  STD_TORCH_CHECK(rank >= 1 && rank <= kSpatialAxes, "convext: expected 1 to 3 spatial axes, got ", rank);
  check_length(g.kernel_size, rank, "kernel_size");
  check_length(g.dilation, rank, "dilation");
  check_length(g.padding, 2 * rank, "padding");
  check_length(g.stride, rank, "stride");
  UnfoldProblem p;
  for (int i = 0; i < rank; ++i) {
    ConvAxis& a = p.axis[kSpatialAxes - rank + i];
    a.kernel = g.kernel_size[i];
    a.dilation = g.dilation[i];
    a.stride = g.stride[i];
    a.lo = g.padding[2 * i];
    a.hi = g.padding[2 * i + 1];
    check_range(a.stride, 1, "stride");
    check_range(a.dilation, 1, "dilation");
    check_range(a.lo, -kLargestSize, "padding");
    check_range(a.hi, -kLargestSize, "padding");
    check_kernel(a);
  }
  return p;
}

void count_blocks(UnfoldProblem& p) {
  __int128 taps = 1, blocks = 1;
  for (ConvAxis& a : p.axis) {
    check_range(a.input, 1, "an image size");
    a.output = output_size(a);
    check_range(a.output, 1, "a number of blocks");
    taps *= a.kernel, blocks *= a.output;
    STD_TORCH_CHECK(taps <= kLargestSize && blocks <= kLargestSize, "convext: too many taps or blocks");
  }
}

template <class Geometry>
ConvProblem fprop_of(const Tensor& input, const Tensor& weight, const Geometry& geometry) {
  check_operands(input, weight);
  const int rank = rank_of(input, "input");
  ConvProblem p = with_geometry(geometry, rank);
  p.batch = input.size(0);
  set_channels(p, input.size(1), weight.size(1), weight.size(0));
  for (int i = 0; i < rank; ++i) {
    ConvAxis& a = p.axis[kSpatialAxes - rank + i];
    a.input = input.size(2 + i);
    a.kernel = weight.size(2 + i);
    check_kernel(a);
    a.output = output_size(a);
  }
  check_axes(p);
  return p;
}

template <class Geometry>
ConvProblem dgrad_of(const Tensor& grad_output, const Tensor& weight, const Geometry& geometry) {
  check_operands(grad_output, weight);
  const int rank = rank_of(grad_output, "grad_output");
  ConvProblem p = with_geometry(geometry, rank);
  p.batch = grad_output.size(0);
  STD_TORCH_CHECK(grad_output.size(1) == weight.size(0), "convext: expected ", weight.size(0),
                  " channels of grad_output, got ", grad_output.size(1));
  set_channels(p, weight.size(1) * p.groups, weight.size(1), weight.size(0));
  for (int i = 0; i < rank; ++i) {
    ConvAxis& a = p.axis[kSpatialAxes - rank + i];
    a.output = grad_output.size(2 + i);
    a.kernel = weight.size(2 + i);
    check_kernel(a);
    check_range(a.output, 1, "an output size");
    const __int128 size = transposed_size(a);
    STD_TORCH_CHECK(size >= 1 && size <= kLargestSize, "convext: expected a result between 1 and 2^40 on axis ", i);
    a.input = static_cast<int64_t>(size);
  }
  check_axes(p);
  return p;
}

int64_t kernel_on(const IntList& kernel_size, int i, int /*axis*/) { return kernel_size[i]; }
int64_t kernel_on(int64_t kernel_code, int /*i*/, int axis) { return decode_pair(axis, kernel_code).first + 1; }

template <class Kernel, class Geometry>
ConvProblem wgrad_of(const Tensor& grad_output, const Tensor& input, const Kernel& kernel, const Geometry& geometry) {
  check_operands(grad_output, input);
  const int rank = rank_of(input, "input");
  ConvProblem p = with_geometry(geometry, rank);
  p.batch = input.size(0);
  STD_TORCH_CHECK(grad_output.size(0) == p.batch, "convext: expected grad_output of batch ", p.batch, ", got ",
                  grad_output.size(0));
  STD_TORCH_CHECK(input.size(1) % p.groups == 0, "convext: expected input channels divisible by groups=", p.groups,
                  ", got ", input.size(1));
  set_channels(p, input.size(1), input.size(1) / p.groups, grad_output.size(1));
  for (int i = 0; i < rank; ++i) {
    ConvAxis& a = p.axis[kSpatialAxes - rank + i];
    a.input = input.size(2 + i);
    a.kernel = kernel_on(kernel, i, kSpatialAxes - rank + i);
    check_kernel(a);
    a.output = grad_output.size(2 + i);
    STD_TORCH_CHECK(a.output == output_size(a), "convext: expected grad_output of size ", output_size(a), " on axis ",
                    i, ", got ", a.output);
  }
  check_axes(p);
  return p;
}

}  // namespace

ConvProblem fprop_problem(const Tensor& input, const Tensor& weight, const ConvGeometry& geometry) {
  return fprop_of(input, weight, geometry);
}
ConvProblem fprop_problem(const Tensor& input, const Tensor& weight, const CodedGeometry& geometry) {
  return fprop_of(input, weight, geometry);
}

ConvProblem dgrad_problem(const Tensor& grad_output, const Tensor& weight, const ConvGeometry& geometry) {
  return dgrad_of(grad_output, weight, geometry);
}
ConvProblem dgrad_problem(const Tensor& grad_output, const Tensor& weight, const CodedGeometry& geometry) {
  return dgrad_of(grad_output, weight, geometry);
}

ConvProblem wgrad_problem(const Tensor& grad_output, const Tensor& input, const IntList& kernel_size,
                          const ConvGeometry& geometry) {
  check_length(kernel_size, rank_of(input, "input"), "kernel_size");
  return wgrad_of(grad_output, input, kernel_size, geometry);
}
ConvProblem wgrad_problem(const Tensor& grad_output, const Tensor& input, int64_t kernel_size,
                          const CodedGeometry& geometry) {
  return wgrad_of(grad_output, input, kernel_size, geometry);
}

void check_gradient(const Tensor& grad, const Tensor& like, int64_t batch, int64_t channels, const ConvProblem& p,
                    int64_t ConvAxis::*size) {
  check_operands(grad, like);
  STD_TORCH_CHECK(grad.size(0) == batch && grad.size(1) == channels, "convext: expected grad_output of ", batch, " x ",
                  channels, " planes, got ", grad.size(0), " x ", grad.size(1));
  const int rank = static_cast<int>(grad.dim()) - 2;
  for (int i = 0; i < rank; ++i) {
    const int64_t expected = p.axis[kSpatialAxes - rank + i].*size;
    STD_TORCH_CHECK(grad.size(2 + i) == expected, "convext: expected grad_output of size ", expected, " on axis ", i,
                    ", got ", grad.size(2 + i));
  }
}

UnfoldProblem unfold_problem(const Tensor& image, const UnfoldGeometry& geometry) {
  const int rank = rank_of(image, "input");
  UnfoldProblem p = with_geometry(geometry, rank);
  p.batch = image.size(0);
  p.channels = image.size(1);
  for (int i = 0; i < rank; ++i) p.axis[kSpatialAxes - rank + i].input = image.size(2 + i);
  count_blocks(p);
  return p;
}

UnfoldProblem fold_problem(const Tensor& columns, const IntList& output_size, const UnfoldGeometry& geometry) {
  STD_TORCH_CHECK(columns.dim() == 3, "convext: expected columns of 3 dimensions, got ", columns.dim());
  const int rank = static_cast<int>(output_size.size());
  UnfoldProblem p = with_geometry(geometry, rank);
  for (int i = 0; i < rank; ++i) p.axis[kSpatialAxes - rank + i].input = output_size[i];
  count_blocks(p);
  STD_TORCH_CHECK(columns.size(1) % unfold_taps(p) == 0, "convext: expected a multiple of ", unfold_taps(p),
                  " rows of columns, got ", columns.size(1));
  STD_TORCH_CHECK(columns.size(2) == unfold_blocks(p), "convext: expected ", unfold_blocks(p), " columns, got ",
                  columns.size(2));
  p.batch = columns.size(0);
  p.channels = columns.size(1) / unfold_taps(p);
  return p;
}

std::optional<Tensor> dense_bias(const std::optional<Tensor>& bias, const Tensor& like, int64_t channels) {
  if (!bias) return std::nullopt;
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == channels, "convext: expected bias of shape [", channels, "]");
  STD_TORCH_CHECK(bias->scalar_type() == like.scalar_type(), "convext: expected bias of type ",
                  torch::headeronly::toString(like.scalar_type()), ", got ",
                  torch::headeronly::toString(bias->scalar_type()));
  return bias->is_contiguous() ? *bias : torch::stable::contiguous(*bias);  // the call alone costs a microsecond
}

std::optional<Tensor> aligned_residual(const std::optional<Tensor>& residual, const Tensor& result,
                                       torch::headeronly::MemoryFormat format) {
  if (!residual) return std::nullopt;
  bool same_sizes = residual->dim() == result.dim(), same_strides = same_sizes;
  for (int64_t i = 0; same_sizes && i < result.dim(); ++i) {
    same_sizes = residual->size(i) == result.size(i);
    same_strides = same_strides && (result.size(i) == 1 || residual->stride(i) == result.stride(i));
  }
  STD_TORCH_CHECK(same_sizes, "convext: expected residual of the result's sizes");
  STD_TORCH_CHECK(residual->scalar_type() == result.scalar_type(), "convext: expected residual of type ",
                  torch::headeronly::toString(result.scalar_type()), ", got ",
                  torch::headeronly::toString(residual->scalar_type()));
  if (same_strides) return residual;
  Tensor aligned =
      torch::stable::empty(result.sizes(), result.scalar_type(), std::nullopt, result.device(), std::nullopt, format);
  torch::stable::copy_(aligned, *residual);
  return aligned;
}

void check_position_product(const Tensor& left, const Tensor& right) {
  STD_TORCH_CHECK(left.dim() == 3 && right.dim() == 3, "convext: expected operands of 3 dimensions, got ", left.dim(),
                  " and ", right.dim());
  STD_TORCH_CHECK(left.scalar_type() == right.scalar_type(), "convext: expected operands of one type");
  STD_TORCH_CHECK(left.size(1) == right.size(1) && left.size(2) == right.size(2),
                  "convext: expected operands of one depth and number of positions, got ", left.size(1), ", ",
                  left.size(2), " and ", right.size(1), ", ", right.size(2));
}

Strides strides_of(const Tensor& t) {
  const auto strides = t.strides();
  const int rank = static_cast<int>(t.dim()) - 2;
  Strides s;
  s.outer = strides[0];
  s.channel = strides[1];
  for (int i = 0; i < rank; ++i) s.axis[kSpatialAxes - rank + i] = strides[2 + i];
  return s;
}

bool suggests_channels_last(const Tensor& t) {
  const auto sizes = t.sizes();
  const auto strides = t.strides();
  const int rank = static_cast<int>(t.dim());
  if (rank < 4) return false;
  if (strides[1] == 0) return false;
  int64_t least = 0;
  const auto ordered = [&](int d) {
    if (sizes[d] == 0 || strides[d] < least) return false;
    if (d == 0 && least == strides[1]) return false;  // N111: the strides say nothing, torch says contiguous
    least = sizes[d] > 1 ? strides[d] * sizes[d] : strides[d];
    return true;
  };
  if (!ordered(1)) return false;
  for (int d = rank - 1; d >= 2; --d)
    if (!ordered(d)) return false;
  return ordered(0);
}

torch::headeronly::MemoryFormat result_format(const Tensor& a, const Tensor& b) {
  using torch::headeronly::MemoryFormat;
  if (!suggests_channels_last(a) && !suggests_channels_last(b)) return MemoryFormat::Contiguous;
  if (a.dim() == 4) return MemoryFormat::ChannelsLast;
  switch (a.scalar_type()) {  // torch's 3-D kernels of these types know no channels_last
    case ScalarType::Double:
    case ScalarType::Byte:
    case ScalarType::Char:
    case ScalarType::Short:
    case ScalarType::Int:
    case ScalarType::Long: return MemoryFormat::Contiguous;
    default: return MemoryFormat::ChannelsLast3d;
  }
}

}  // namespace convext
