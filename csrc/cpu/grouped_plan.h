// When grouped layers are computed with channels along the vector (grouped.h), and how.
#pragma once

#include "plan.h"

namespace convext {

// Why the algorithm cannot take the request; empty if it can.
std::string grouped_refusal(const PlanRequest& request);
void plan_grouped(const PlanRequest& request, ConvPlan& plan);

// The same of depthwise layers by rows (depthwise_rows.h).
std::string depthwise_rows_refusal(const PlanRequest& request);
void plan_depthwise_rows(const PlanRequest& request, ConvPlan& plan);

// The same of depthwise layers whose rows are shifted in registers (depthwise_shifted.h).
std::string depthwise_shifted_refusal(const PlanRequest& request);
void plan_depthwise_shifted(const PlanRequest& request, ConvPlan& plan);

// Whether such a wgrad may give the gradient to the image as well, and leaves no worker without a unit.
bool gives_both_gradients(const PlanRequest& request, const ConvPlan& plan);

}  // namespace convext
