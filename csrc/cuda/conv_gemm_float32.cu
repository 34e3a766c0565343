// The implicit GEMM of float32: strict, by multiply-adds.
#include "gemm_run.cuh"

namespace convext::cuda {

template void run_gemm_by_elements<float, Arithmetic::kMultiplyAdd>(const DeviceScope&, const ConvRequest&,
                                                                    const ConvPlan&, const ConvStrides&,
                                                                    const ConvOperands&);

}  // namespace convext::cuda
