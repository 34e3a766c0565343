// Recorded offsets read one by one, for any window and any strides: the gather of their elements, their indices, and
// the scatter for windows that are too many or too irregular for the vectorised adjoints.
#pragma once

#include <cstdint>

#include "../pool_problem.h"
#include "engine.h"

namespace convext {

// The offsets that a max pooling recorded, 1, 2 or 4 bytes each.
struct Winners {
  const PoolProblem& problem;
  const void* offsets;
  int bytes;
  Strides strides;
};

struct PoolImage {
  void* data;
  Strides strides;
};

// to[o] = the winner of window o in `from`, contiguous elements of so many bytes; zero where there is none.
void gather_winners(const Winners& winners, const void* from, int element_bytes, void* to, const Strides& to_strides);

// to[winner of o] += grad[o], in the order of o.
void scatter_winners(const Winners& winners, PoolType type, const PoolImage& grad, const PoolImage& to);

// to[o] = the place of window o's winner in its plane, as torch counts it; -1 where there is none.
void winner_indices(const Winners& winners, int64_t* to, const Strides& to_strides);

}  // namespace convext
