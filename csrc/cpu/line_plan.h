// Units of packed fprop, and of dgrad of one tap, that read the weight as it lies (line_product.h).
#pragma once

#include "plan.h"

namespace convext {

// Whether units with pixels as columns may read the weight as it lies: fprop's, and dgrad's of one tap, of the type
// that sums are kept in.
bool may_read_lines(const PlanRequest& request);

// How results are cut then: so that the busiest thread is done soonest.
UnitShape line_shape(const PlanRequest& request, int64_t threads);

}  // namespace convext
