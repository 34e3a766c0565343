// From torch's element types to ours: `visit` is called with a zero of the type.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#include "elements.h"

namespace convext {

template <class Visit>
void with_real_type(torch::headeronly::ScalarType type, const Visit& visit) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Float: return visit(float{});
    case ScalarType::Double: return visit(double{});
    case ScalarType::BFloat16: return visit(BFloat16{});
    case ScalarType::Half: return visit(Half{});
    case ScalarType::Byte: return visit(uint8_t{});
    case ScalarType::Char: return visit(int8_t{});
    case ScalarType::Short: return visit(int16_t{});
    case ScalarType::Int: return visit(int32_t{});
    case ScalarType::Long: return visit(int64_t{});
    default: STD_TORCH_CHECK(false, "convext: not implemented for ", torch::headeronly::toString(type));
  }
}

template <class Visit>
void with_element_type(torch::headeronly::ScalarType type, const Visit& visit) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::ComplexFloat: return visit(Complex<float>{});
    case ScalarType::ComplexDouble: return visit(Complex<double>{});
    default: return with_real_type(type, visit);
  }
}

}  // namespace convext
