// The implicit GEMM of bfloat16, copied by elements.
#include "gemm_run.cuh"

namespace convext::cuda {

template void run_gemm_by_elements<BFloat16, Arithmetic::kTensorCores>(const DeviceScope&, const ConvRequest&,
                                                                       const ConvPlan&, const ConvStrides&,
                                                                       const ConvOperands&);

}  // namespace convext::cuda
