// How packed products (packed_conv.h) are cut into units: pixels or channels along the vector, how many of each, zones.
#pragma once

#include "plan.h"

namespace convext {

void plan_packed_conv(const PlanRequest& request, ConvPlan& plan);

}  // namespace convext
