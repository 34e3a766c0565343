// The implicit GEMM of float16, copied by runs of 16 bytes.
#include "gemm_run.cuh"

namespace convext::cuda {

template void run_gemm_by_runs<Half>(const DeviceScope&, const ConvRequest&, const ConvPlan&, const ConvStrides&,
                                     const ConvOperands&);

}  // namespace convext::cuda
