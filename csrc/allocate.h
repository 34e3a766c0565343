// Uninitialised results. torch::stable::empty looks its operator up by name, a microsecond that a small problem feels.
// Its sizes and strides take no memory from the heap, for a call's sake and for the next result's: what small blocks
// are held while a large result is allocated decides where the next one lies (splinters.h).
#pragma once

#include <torch/headeronly/core/MemoryFormat.h>

#include <span>

#include "contract.h"

namespace convext {

// On the device of `like`, dense in this memory format.
Tensor empty_result(const Tensor& like, std::span<const int64_t> sizes, ScalarType type,
                    torch::headeronly::MemoryFormat format = torch::headeronly::MemoryFormat::Contiguous);

}  // namespace convext
