// Layers on channels_last images whose units are rows of the result: depthwise and grouped (depthwise_channels.h), and
// inner products (narrow_channels.h).
#pragma once

#include <string>

#include "plan.h"

namespace convext {

// Why depthwise_channels.h cannot take the request; empty if it can.
std::string depthwise_channels_refusal(const PlanRequest& request);
// Why inner products cannot take the request; empty if they can.
std::string narrow_channels_refusal(const PlanRequest& request);
// Workspace of both.
void plan_channels(const PlanRequest& request, ConvPlan& plan);

}  // namespace convext
