// From the tensors and lists of an operator call to a ConvProblem: the only place where C++ looks at their shapes.
//
// Users' mistakes are reported by convext/functional/ in torch's own words; what stands here is the contract of the
// operators, checked so that no direct call of them can read or write out of bounds.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <vector>

#include "problem.h"

namespace convext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using IntList = std::vector<int64_t>;

// The arguments that every convolution operator takes, as it takes them.
struct ConvGeometry {
  const IntList& stride;
  const IntList& padding;
  const IntList& dilation;
  int64_t groups;
  int64_t padding_mode;
};

// The same in integers, see geometry_code.h.
struct CodedGeometry {
  int64_t window, padding;
  int64_t groups;
};

ConvProblem fprop_problem(const Tensor& input, const Tensor& weight, const ConvGeometry& geometry);
ConvProblem fprop_problem(const Tensor& input, const Tensor& weight, const CodedGeometry& geometry);
ConvProblem dgrad_problem(const Tensor& grad_output, const Tensor& weight, const ConvGeometry& geometry);
ConvProblem dgrad_problem(const Tensor& grad_output, const Tensor& weight, const CodedGeometry& geometry);
ConvProblem wgrad_problem(const Tensor& grad_output, const Tensor& input, const IntList& kernel_size,
                          const ConvGeometry& geometry);
ConvProblem wgrad_problem(const Tensor& grad_output, const Tensor& input, int64_t kernel_size,
                          const CodedGeometry& geometry);

// Asserts that a gradient has the type of `like` and the sizes of this side of the problem.
void check_gradient(const Tensor& grad, const Tensor& like, int64_t batch, int64_t channels, const ConvProblem& p,
                    int64_t ConvAxis::*size);

// The lists that unfold and fold take.
struct UnfoldGeometry {
  const IntList& kernel_size;
  const IntList& dilation;
  const IntList& padding;
  const IntList& stride;
};

UnfoldProblem unfold_problem(const Tensor& image, const UnfoldGeometry& geometry);
UnfoldProblem fold_problem(const Tensor& columns, const IntList& output_size, const UnfoldGeometry& geometry);

// The bias, checked and made dense (it has one element a channel); none where there is none.
std::optional<Tensor> dense_bias(const std::optional<Tensor>& bias, const Tensor& like, int64_t channels);

// The residual of a fused convolution, checked and with the strides of the result, of which it has the sizes; copied
// where it has others.
std::optional<Tensor> aligned_residual(const std::optional<Tensor>& residual, const Tensor& result,
                                       torch::headeronly::MemoryFormat format);

// Asserts the operands of position_product, but for their types.
void check_position_product(const Tensor& left, const Tensor& right);

// Strides of an image or a weight, with leading axes of size one where it has fewer than three.
Strides strides_of(const Tensor& t);

// True where torch's suggest_memory_format would answer channels_last (rank 4) or channels_last_3d (rank 5).
bool suggests_channels_last(const Tensor& t);

// The memory format torch gives the result of a convolution of these two operands; convext/ops/conv.py states the same
// rule for fake tensors.
torch::headeronly::MemoryFormat result_format(const Tensor& a, const Tensor& b);

}  // namespace convext
