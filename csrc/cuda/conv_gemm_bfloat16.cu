// The implicit GEMM of bfloat16.
#include "gemm_run.cuh"

namespace convext::cuda {

template void run_gemm_of<BFloat16>(const DeviceScope&, const ConvRequest&, const ConvPlan&, const ConvOperands&);

}  // namespace convext::cuda
