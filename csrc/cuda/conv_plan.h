#pragma once
#include "../problem.h"
namespace convext::cuda {
struct ConvRequest;
struct ConvPlan;
}  // namespace convext::cuda
