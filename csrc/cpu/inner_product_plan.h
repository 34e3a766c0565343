// When fprop is taken as inner products (inner_product.h), and how it is cut.
#pragma once

#include "plan.h"

namespace convext {

// Why the request cannot be taken; empty if it can.
std::string inner_product_refusal(const PlanRequest& request);
void plan_inner_product(const PlanRequest& request, ConvPlan& plan);

}  // namespace convext
