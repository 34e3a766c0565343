// When fprop is taken as inner products (inner_product.h), and how it is cut.
#pragma once

#include "plan.h"

namespace convext {

// Why the request cannot be taken; empty if it can.
std::string inner_product_refusal(const PlanRequest& request);
void plan_inner_product(const PlanRequest& request, ConvPlan& plan);

// dgrad's (row_combination.h).
std::string row_combination_refusal(const PlanRequest& r);
void plan_row_combination(const PlanRequest& r, ConvPlan& plan);

}  // namespace convext
