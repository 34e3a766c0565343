// Which algorithm a convolution gets on CUDA, and how it is cut: one pure function from a request to a plan.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../problem.h"
#include "../region.h"

namespace convext::cuda {

// Candidates in the order they are tried; the last one takes everything.
enum class ConvAlgorithm { kDepthwise, kGemm, kDirect };
const char* algorithm_name(ConvAlgorithm algorithm);

// What a block of the implicit GEMM computes, rows x columns of C. The square one is for copies by runs alone.
enum class GemmTile { kSquare, kLarge, kSmall };
inline constexpr int kSquareTile[2] = {128, 128}, kLargeTile[2] = {64, 128}, kSmallTile[2] = {32, 64};

// What computes a depthwise convolution: a thread for each result; threads that take 16 bytes along the channels;
// blocks that take a tile of a plane.
enum class DepthwiseKernel { kElements, kChannels, kPlanes };
// The tile, of results: height, width. And the shared memory that its source may take.
inline constexpr int kPlaneTile[2] = {16, 32}, kPlaneBytes = 32 << 10;

// Whether a group has one channel on both sides.
inline bool is_depthwise(const ConvProblem& p) { return p.in_channels == 1 && p.out_channels == 1; }

// What multiplies tiles: multiply-adds, or tensor cores, which round float32 to TF32.
enum class Arithmetic { kMultiplyAdd, kTensorCores };

// What is copied to shared memory at once: an element, or a run of 16 bytes, neighbours along the depth of the product
// or along its rows (of B: its columns).
enum class Copies { kElements, kAlongDepth, kAlongRows };

// What is written to the result at once: an element, or a run of 16 bytes along the product's rows or columns.
enum class Stores { kElements, kAlongRows, kAlongColumns };

// Whether a tensor is made of aligned runs of 16 bytes along its channels, or along its innermost pixels, none of which
// crosses from one group, row or sample into another.
struct Runs {
  bool channels = false, pixels = false;
};
// `address` and `element_bytes` of the tensor; `size` of its axes: outer, channels of one group, depth, height, width.
Runs runs_of(uint64_t address, int element_bytes, const Strides& strides, const int64_t (&size)[5]);

// Of the three tensors of ConvOperands.
struct ConvStrides {
  Strides image, weight, result;
};
// Makes one axis of the pixels where the kernel is one pixel, the stride one and nothing padded, so that runs may cross
// the ends of rows; false, and strides that are not to be used, where it cannot.
bool merge_pixels(ConvOperator op, ConvProblem& p, ConvStrides& strides);

struct ConvRequest {
  ConvOperator op = ConvOperator::kFprop;
  ConvProblem problem;
  bool floating = true;       // float32, float64, bfloat16 or float16
  bool wide_offsets = false;  // some tensor, or its padding, needs 64-bit offsets
  int element_bytes = 4;
  int sum_bytes = 4;           // of the type that sums are kept in
  bool tf32 = false;           // float32 may be rounded to it
  Runs image, weight, result;  // of the tensors of ConvOperands; of wgrad's result nothing is known
  bool planes =
      false;  // neighbouring pixels of a row lie side by side, of the image and of result (wgrad: grad_output)
};

struct Declined {
  ConvAlgorithm algorithm;
  std::string reason;
};

struct ConvPlan {
  bool by_runs() const { return a != Copies::kElements; }

  ConvAlgorithm algorithm = ConvAlgorithm::kDirect;
  std::vector<Declined> declined;
  DepthwiseKernel depthwise = DepthwiseKernel::kElements;
  GemmTile tile = GemmTile::kLarge;
  Arithmetic arithmetic = Arithmetic::kMultiplyAdd;
  Copies a = Copies::kElements, b = Copies::kElements;  // of the two factors; both by runs, or neither
  Stores c = Stores::kElements;
  // wgrad: pieces of the sum over pixels, which a second kernel adds up in order.
  int64_t slices = 1, slice_depth = 0;
  int64_t workspace_bytes = 0;
};

ConvPlan plan_conv(const ConvRequest& request);

// Rows, columns and depth of the product, of one group and, for dgrad, over all phases.
struct GemmShape {
  int64_t rows, columns, depth;
};
GemmShape gemm_shape(ConvOperator op, const ConvProblem& p);

}  // namespace convext::cuda
