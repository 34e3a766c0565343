// What follows the sum of a convolution before it is rounded and written, in the same pass over the result:
//
//   y = activation(sum + bias + residual)
//
// cpu/epilogue.h applies it to finished sums in cache; `activated` is the definition, one number at a time.
#pragma once

#include <cmath>
#include <cstdint>

namespace convext {

// The numbers are those of convext.ops.ACTIVATIONS; the formulas torch.nn.functional's of these names, gelu_tanh being
// gelu(approximate="tanh").
enum class Activation : int64_t { kNone, kRelu, kRelu6, kLeakyRelu, kSilu, kSigmoid, kHardswish, kGeluTanh };
inline constexpr int64_t kActivations = 8;

struct Epilogue {
  const void* bias = nullptr;      // an element for each result channel
  int64_t bias_repeats = 1;        // result channels in a row that share one
  const void* residual = nullptr;  // has the result's type, sizes and strides
  Activation activation = Activation::kNone;
  double slope = 0;  // of leaky_relu below zero

  // Whether the sum that includes the bias is all there is to write.
  bool is_bias() const { return !residual && activation == Activation::kNone; }
};

// NaN goes through all of them; so do infinities as far as the formula lets them. constexpr, so that CUDA kernels may
// call it too.
template <class Real>
constexpr Real activated(Activation activation, Real slope, Real x) {
  constexpr Real kRootTwoOverPi = static_cast<Real>(0.79788456080286535588), kCube = static_cast<Real>(0.044715);
  constexpr Real zero = 0, one = 1, three = 3, six = 6;
  switch (activation) {
    case Activation::kNone: return x;
    case Activation::kRelu: return x < zero ? zero : x;
    case Activation::kRelu6: return x < zero ? zero : x > six ? six : x;
    case Activation::kLeakyRelu: return x > zero ? x : x * slope;
    case Activation::kSilu: return x / (one + std::exp(-x));
    case Activation::kSigmoid: return one / (one + std::exp(-x));
    case Activation::kHardswish: return x * (x + three < zero ? zero : x + three > six ? six : x + three) / six;
    case Activation::kGeluTanh: return x / (one + std::exp(-2 * kRootTwoOverPi * (x + kCube * x * x * x)));
  }
  return x;
}

}  // namespace convext
