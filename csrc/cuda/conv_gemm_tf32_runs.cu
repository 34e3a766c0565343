// The implicit GEMM of float32 rounded to TF32, copied by runs of 16 bytes.
#include "gemm_run.cuh"

namespace convext::cuda {

template void run_gemm_by_runs<float>(const DeviceScope&, const ConvRequest&, const ConvPlan&, const ConvStrides&,
                                      const ConvOperands&);

}  // namespace convext::cuda
