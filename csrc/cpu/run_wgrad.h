// Running a planned wgrad: run_plan's other half.
#pragma once

#include "run.h"

namespace convext {

void run_wgrad(const PlanRequest& request, const ConvPlan& plan, const Engine& engine, FloatType type,
               const ConvOperands& operands);

}  // namespace convext
