// The implicit GEMM of float64.
#include "gemm_run.cuh"

namespace convext::cuda {

template void run_gemm_of<double>(const DeviceScope&, const ConvRequest&, const ConvPlan&, const ConvOperands&);

}  // namespace convext::cuda
