// Whether convolutions of float32 may run on TF32: torch's own switch, torch.backends.cudnn.conv.fp32_precision.
#pragma once

namespace convext::cuda {

// Asked for at every convolution of float32. False until Python has said how it is read (convext/_cuda.py): the stable
// ABI has no function that reads it.
bool tf32_allowed();

}  // namespace convext::cuda
