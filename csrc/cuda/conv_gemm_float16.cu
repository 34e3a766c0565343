// The implicit GEMM of float16, copied by elements.
#include "gemm_run.cuh"

namespace convext::cuda {

template void run_gemm_by_elements<Half, Arithmetic::kTensorCores>(const DeviceScope&, const ConvRequest&,
                                                                   const ConvPlan&, const ConvStrides&,
                                                                   const ConvOperands&);

}  // namespace convext::cuda
