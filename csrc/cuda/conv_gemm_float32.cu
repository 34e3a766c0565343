// The implicit GEMM of float32.
#include "gemm_run.cuh"

namespace convext::cuda {

template void run_gemm_of<float>(const DeviceScope&, const ConvRequest&, const ConvPlan&, const ConvOperands&);

}  // namespace convext::cuda
