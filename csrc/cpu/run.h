// Running a planned convolution on CPU: from raw operands to the engine's kernels.
#pragma once

#include <cstdint>

#include "../epilogue.h"
#include "engine.h"
#include "plan.h"

namespace convext {

// A tensor as the kernels see it.
struct Operand {
  void* data = nullptr;
  Strides strides;
};

// The three tensors of an operator: two it reads, one it writes.
//   fprop: image = input, weight, result = output      dgrad: image = grad_output, weight, result = input's gradient
//   wgrad: image = input, weight = grad_output, result = weight's gradient
struct ConvOperands {
  Operand image, weight, result;
  Epilogue epilogue;  // of fprop and dgrad
  // Of wgrad: where the same pass gives the gradient to the image too, as the plan allows, the weight and that
  // gradient.
  Operand filters = {}, image_grad = {};
};

PlanRequest make_request(ConvOperator op, const ConvProblem& problem, const Engine& engine, FloatType type,
                         int64_t threads);

// Runs a request as planned, unless the plan is the direct algorithm.
void run_plan(const PlanRequest& request, const ConvPlan& plan, const Engine& engine, FloatType type,
              const ConvOperands& operands);

}  // namespace convext
