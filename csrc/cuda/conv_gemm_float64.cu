// The implicit GEMM of float64.
#include "gemm_run.cuh"

namespace convext::cuda {

template void run_gemm_by_elements<double, Arithmetic::kTensorCores>(const DeviceScope&, const ConvRequest&,
                                                                     const ConvPlan&, const ConvStrides&,
                                                                     const ConvOperands&);

}  // namespace convext::cuda
