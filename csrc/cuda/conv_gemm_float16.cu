// The implicit GEMM of float16.
#include "gemm_run.cuh"

namespace convext::cuda {

template void run_gemm_of<Half>(const DeviceScope&, const ConvRequest&, const ConvPlan&, const ConvOperands&);

}  // namespace convext::cuda
