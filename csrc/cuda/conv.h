// Running a convolution on CUDA: what the algorithms are given.
#pragma once

#include <optional>

#include "../contract.h"
#include "../elements.h"
#include "../epilogue.h"
#include "../region.h"
#include "conv_plan.h"

namespace convext::cuda {

class DeviceScope;

// The three tensors of an operator: two it reads, one it writes.
//   fprop: image = input, weight, result = output      dgrad: image = grad_output, weight, result = input's gradient
//   wgrad: image = input, weight = grad_output, result = weight's gradient
struct ConvOperands {
  const Tensor& image;
  const Tensor& weight;
  Tensor& result;
  const std::optional<Tensor>& bias;
  // Of a fused convolution: what follows the sum. The residual has the result's strides.
  const std::optional<Tensor>& residual = kNoTensor;
  Activation activation = Activation::kNone;
  double slope = 0;

  static inline const std::optional<Tensor> kNoTensor;
};

// Each output by its definition, for any type. Of dgrad a region alone, where one is given.
void run_direct(const DeviceScope& device, ConvOperator op, const ConvProblem& problem, const ConvOperands& operands,
                const Region* region = nullptr);

// Groups of few channels of the floating types.
void run_depthwise(const DeviceScope& device, const ConvRequest& request, const ConvPlan& plan,
                   const ConvOperands& operands);

// Implicit GEMM by the plan's arithmetic; T is float, double, BFloat16 or Half. For plans that copy by elements, and
// for those that copy by runs, on tensor cores.
template <class T, Arithmetic arithmetic>
void run_gemm_by_elements(const DeviceScope& device, const ConvRequest& request, const ConvPlan& plan,
                          const ConvStrides& strides, const ConvOperands& operands);
template <class T>
void run_gemm_by_runs(const DeviceScope& device, const ConvRequest& request, const ConvPlan& plan,
                      const ConvStrides& strides, const ConvOperands& operands);

}  // namespace convext::cuda
