// The plans of the last few problems: a small problem takes longer to plan than to compute.
#pragma once

#include "plan.h"

namespace convext {

// plan_conv(request). The plan belongs to the calling thread, which keeps it until another request takes its place:
// there is a place for each of kRememberedPlans hashes, at most 96 KiB in all.
inline constexpr std::size_t kRememberedPlans = 64;
const ConvPlan& remembered_plan(const PlanRequest& request);

}  // namespace convext
