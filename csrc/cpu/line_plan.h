// Units of packed fprop and dgrad that read the weight as it lies (line_product.h).
#pragma once

#include "plan.h"

namespace convext {

// Whether packed fprop pairs neighbouring terms of the weight as it lies, not channels under a tap as bands and zones
// do. It depends on what fixes the order of a sum only.
bool pairs_neighbours(const PlanRequest& request);

// Whether a panel of packed dgrad of pairs is made of lines of taps, which need not be turned.
bool reads_tap_lines(const PlanRequest& request);

// Whether units with pixels as columns may read the weight as it lies: of pairs, where one of the above holds; of the
// type that sums are kept in fprop's, and dgrad's of one tap.
bool may_read_lines(const PlanRequest& request);

// Whether a single tap reads the pixels in their order, of the type that sums are kept in: where the image's strides
// allow it, which a call looks at, nothing is gathered.
bool reads_in_order(const PlanRequest& request);

// Whether a sample's result is so large that those of a few stream to memory.
bool streams_result(const PlanRequest& request);

// How results are cut then: so that the busiest thread is done soonest.
UnitShape line_shape(const PlanRequest& request, int64_t threads);

}  // namespace convext
