// Uninitialised results. torch::stable::empty looks its operator up by name, a microsecond that a small problem feels.
#pragma once

#include <torch/headeronly/core/MemoryFormat.h>

#include "contract.h"

namespace convext {

// On the device of `like`, dense in this memory format.
Tensor empty_result(const Tensor& like, const IntList& sizes, ScalarType type,
                    torch::headeronly::MemoryFormat format = torch::headeronly::MemoryFormat::Contiguous);

}  // namespace convext
