// From the tensors and lists of an operator call to a PoolProblem: the only place where C++ looks at their shapes.
//
// Users' mistakes are reported by convext/functional/ in torch's own words; what stands here is the contract of the
// operators, checked so that no direct call of them can read or write out of bounds.
#pragma once

#include "contract.h"
#include "pool_problem.h"

namespace convext {

// The arguments that every pooling operator takes, as it takes them. All four {0, 0, 0, 0}: the windows are adaptive.
struct PoolGeometry {
  const IntList& kernel_size;
  const IntList& stride;
  const IntList& padding;
  const IntList& dilation;
};

// Whether a kernel size says that the windows are adaptive. By its length, which no other has: a size may be symbolic.
// Empty lists would say it more plainly, but AOTInductor (torch 2.13) passes them as None.
bool is_adaptive(const IntList& kernel_size);

// From an image and the sizes of the other: the output's of a forward operator, the input's of an adjoint.
PoolProblem pool_problem(const Tensor& input, const PoolGeometry& geometry, const IntList& output_size);
PoolProblem pool_adjoint_problem(const Tensor& grad_output, const PoolGeometry& geometry, const IntList& input_size);

// Regular windows in integers, see geometry_code.h.
struct CodedPool {
  int64_t kernel_size, window, padding;
};

// From an image, with the sizes that torch gives the output; from a gradient and the (depth, height, width) of the
// input.
PoolProblem pool_problem(const Tensor& input, const CodedPool& geometry, bool ceil_mode);
PoolProblem pool_adjoint_problem(const Tensor& grad_output, const CodedPool& geometry, const int64_t* input_size);

// Bytes of one offset of these windows: 1, 2 or 4. Always 4 where they divide the image: there the longest window
// depends on how its size divides, and a compiler that leaves the size open must know the type.
int offset_bytes(const PoolProblem& problem);
ScalarType offset_type(const PoolProblem& problem);

// Asserts that offsets fit the problem and belong to images of this shape.
void check_offsets(const Tensor& offsets, const Tensor& images, const PoolProblem& problem);

// Assert what the operators on places are given: int64 places in the planes of an image; of place_scatter also the
// sizes; the begins of fractional pooling's windows, of which it returns how many a plane has; the numbers of
// stochastic pooling.
void check_places(const Tensor& image, const Tensor& places);
void check_scatter(const Tensor& input, const Tensor& places, const IntList& output_size);
int64_t check_begins(const Tensor& begins, const PoolProblem& problem, const IntList& output_size);
void check_uniform(const Tensor& uniform, const Tensor& input);

// Asserts what the gradient of L2 pooling is made of, but for its types.
void check_l2_adjoint(const Tensor& grad_output, const Tensor& output, const Tensor& input, const IntList& kernel_size,
                      const PoolProblem& problem);

// The image's sizes with these spatial ones.
IntList spatial_sizes(const Tensor& image);
IntList with_spatial(const Tensor& image, const IntList& spatial);

// The memory format of a result of these spatial sizes beside an image. Of five axes torch has averages and adaptive
// pooling contiguous, but for the mean of a whole image.
torch::headeronly::MemoryFormat pool_format(const Tensor& image, const IntList& spatial, bool adaptive, bool average);

}  // namespace convext
