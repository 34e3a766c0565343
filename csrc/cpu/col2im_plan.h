// Which strided dgrad the col2im algorithm takes, and how it is cut.
#pragma once

#include <string>

#include "plan.h"

namespace convext {

// Why the col2im algorithm cannot take the request; empty if it can.
std::string col2im_refusal(const PlanRequest& request);

void plan_col2im(const PlanRequest& request, ConvPlan& plan);

}  // namespace convext
