// What follows a finished sum (../epilogue.h), in the registers of the thread that has it.
#pragma once

#include "../epilogue.h"
#include "conv.h"
#include "tile_product.cuh"

namespace convext::cuda {

template <class T>
struct EpilogueJob {
  Buffer<const T> residual;  // at the result's offsets; null where there is none
  Activation activation = Activation::kNone;
  Sum_t<T> slope = 0;

  EpilogueJob() = default;
  // For results that are counted from element `first` on.
  explicit EpilogueJob(const ConvOperands& operands, int64_t first = 0)
      : activation(operands.activation), slope(static_cast<Sum_t<T>>(operands.slope)) {
    if (operands.residual)
      residual = {static_cast<const T*>(operands.residual->const_data_ptr()) + first,
                  extent_of(*operands.residual) - first};
  }

  // The result at this offset from its sum, which includes the bias: not yet rounded to T, and rounded.
  template <class Sum, class Offset>
  __device__ Sum_t<T> activate(Sum total, Offset at) const {
    Sum_t<T> sum = static_cast<Sum_t<T>>(total);
    if (residual) sum += widen_from(residual[at]);
    return activated(activation, slope, sum);
  }
  template <class Offset>
  __device__ T finish(Sum_t<T> sum, Offset at) const {
    return narrow_to(activate(sum, at), T{});
  }
};

}  // namespace convext::cuda
