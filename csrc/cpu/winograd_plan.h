// Which convolutions Winograd takes, and how it is cut.
#pragma once

#include <string>

#include "plan.h"

namespace convext {

// The process-wide switch that convext.backends.winograd sets; every request is made with its state.
bool winograd_enabled();
void set_winograd_enabled(bool enabled);

// Why Winograd cannot take the request; empty if it can.
std::string winograd_refusal(const PlanRequest& request);

// Shape and workspace of a request that is not refused.
void plan_winograd(const PlanRequest& request, ConvPlan& plan);

// The tiles of the operator's result; of wgrad: of the gradient.
TileGrid winograd_grid(const PlanRequest& request);

}  // namespace convext
