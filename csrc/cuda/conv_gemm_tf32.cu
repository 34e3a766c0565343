// The implicit GEMM of float32 rounded to TF32, copied by elements.
#include "gemm_run.cuh"

namespace convext::cuda {

template void run_gemm_by_elements<float, Arithmetic::kTensorCores>(const DeviceScope&, const ConvRequest&,
                                                                    const ConvPlan&, const ConvStrides&,
                                                                    const ConvOperands&);

}  // namespace convext::cuda
