// Which wgrad each of its algorithms takes, and how it is cut.
#pragma once

#include <string>

#include "plan.h"

namespace convext {

// Why an algorithm cannot take the request; empty if it can.
std::string correlation_refusal(const PlanRequest& request);
std::string outer_product_refusal(const PlanRequest& request);

void plan_correlation(const PlanRequest& request, ConvPlan& plan);
void plan_outer_product(const PlanRequest& request, ConvPlan& plan);
void plan_packed_wgrad(const PlanRequest& request, ConvPlan& plan);

}  // namespace convext
