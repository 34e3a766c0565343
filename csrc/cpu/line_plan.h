// Units of packed fprop, and of dgrad of one tap, that read the weight as it lies (line_product.h).
#pragma once

#include "plan.h"

namespace convext {

// Whether pairs are neighbouring terms of the weight as it lies. It depends on what fixes the order of a sum only.
bool pairs_neighbours(const PlanRequest& request);

// Whether lines are of the taps of a result channel: dgrad's of pairs.
bool reads_tap_lines(const PlanRequest& request);

// Whether units with pixels as columns may read the weight as it lies: fprop's, and dgrad's of one tap, of the type
// that sums are kept in.
bool may_read_lines(const PlanRequest& request);

// How results are cut then: so that the busiest thread is done soonest.
UnitShape line_shape(const PlanRequest& request, int64_t threads);

}  // namespace convext
