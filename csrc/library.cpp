// Every operator of convext: the table of contents of the kernels.
//
// Tensors are batched: images (N, C, *spatial), weights (K, C / groups, *kernel), with one to three spatial axes.
// `padding` holds a (before, after) pair for each axis, negative values crop; `padding_mode` is convext::PaddingMode.
// conv_dgrad is the transposed convolution: the size of its result follows from its arguments,
//   (output - 1) * stride + dilation * (kernel - 1) + 1 - before - after,
// so that a caller who needs a larger one (torch's output_padding) passes a smaller `after`.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(convext, m) {
  m.def(
      "conv_fprop(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
      "SymInt groups, int padding_mode) -> Tensor");
  m.def(
      "conv_dgrad(Tensor grad_output, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, SymInt groups, int padding_mode) -> Tensor");
  m.def(
      "conv_wgrad(Tensor grad_output, Tensor input, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, SymInt groups, int padding_mode) -> Tensor");

  // The same with a geometry coded in integers (geometry_code.h), and the gradients of both factors in one call:
  // what a plain call in eager mode takes, see convext/ops/coded.py. They have no derivatives of their own.
  m.def("conv_fprop.coded(Tensor input, Tensor weight, Tensor? bias, int window, int padding, int groups) -> Tensor");
  m.def(
      "conv_dgrad.coded(Tensor grad_output, Tensor weight, Tensor? bias, int window, int padding, int groups) -> "
      "Tensor");
  m.def(
      "conv_wgrad.coded(Tensor grad_output, Tensor input, int kernel_size, int window, int padding, int groups) -> "
      "Tensor");
  m.def(
      "conv_fprop_backward(Tensor grad_output, Tensor input, Tensor weight, int window, int padding, int groups) -> "
      "(Tensor, Tensor)");
  m.def(
      "conv_dgrad_backward(Tensor grad_output, Tensor input, Tensor weight, int window, int padding, int groups) -> "
      "(Tensor, Tensor)");

  // conv_fprop, or conv_dgrad where `transposed`, followed in the same pass by activation(sum + bias + residual). The
  // residual has the result's sizes; `activation` is convext::Activation, `slope` that of leaky_relu below zero.
  m.def(
      "conv_fused(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, SymInt groups, int padding_mode, int activation, float slope, bool transposed) -> Tensor");

  // Pooling. Kernel size, stride, dilation and the (before, after) padding of each axis are all four zeros where the
  // windows are adaptive; the size of the result is always given. `offsets` hold each window's winner as the index of
  // its tap, (td * KH + th) * KW + tw: uint8, or int16 or int32 where the window needs it (int32 where the windows are
  // adaptive); -1 (255) where a window is empty.
  m.def(
      "max_pool(Tensor input, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
      "SymInt[] output_size, bool minimum) -> Tensor");
  m.def(
      "max_pool_with_offsets(Tensor input, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, SymInt[] output_size, bool minimum) -> (Tensor, Tensor)");
  m.def(
      "max_pool_gather(Tensor input, Tensor offsets, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation) -> Tensor");
  m.def(
      "max_pool_scatter(Tensor grad_output, Tensor offsets, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, SymInt[] input_size) -> Tensor");
  m.def(
      "max_pool_indices(Tensor offsets, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
      "SymInt[] input_size) -> Tensor");
  // Regular windows coded in integers, as conv_fprop.coded; the size of the result is torch's, and the input's is
  // given.
  m.def(
      "max_pool.coded(Tensor input, int kernel_size, int window, int padding, bool ceil_mode, bool minimum) -> Tensor");
  m.def(
      "max_pool_with_offsets.coded(Tensor input, int kernel_size, int window, int padding, bool ceil_mode, "
      "bool minimum) -> (Tensor, Tensor)");
  m.def(
      "max_pool_scatter.coded(Tensor grad_output, Tensor offsets, int kernel_size, int window, int padding, "
      "int depth, int height, int width) -> Tensor");
  m.def(
      "avg_pool.coded(Tensor input, int kernel_size, int window, int padding, bool ceil_mode, "
      "bool count_include_pad, int divisor) -> Tensor");
  m.def(
      "avg_pool_adjoint.coded(Tensor grad_output, int kernel_size, int window, int padding, bool count_include_pad, "
      "int divisor, int depth, int height, int width) -> Tensor");
  // divisor 0: each sum is divided by the count of its window.
  m.def(
      "avg_pool(Tensor input, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
      "SymInt[] output_size, bool count_include_pad, SymInt divisor) -> Tensor");
  m.def(
      "avg_pool_adjoint(Tensor grad_output, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, SymInt[] input_size, bool count_include_pad, SymInt divisor) -> Tensor");
  // The square root of: the kernel's taps times the average of the squares.
  m.def(
      "l2_pool(Tensor input, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
      "SymInt[] output_size) -> Tensor");
  // Its gradient: input * avg_pool_adjoint(taps * grad_output / output), and 0 where the output is.
  m.def(
      "l2_pool_adjoint(Tensor grad_output, Tensor output, Tensor input, SymInt[] kernel_size, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation) -> Tensor");
  // The offset of one element of each window, drawn with a probability proportional to its positive part: the first
  // at which the running sum exceeds `uniform`, in [0, 1), times the whole sum.
  m.def(
      "stochastic_pool_offsets(Tensor input, Tensor uniform, SymInt[] kernel_size, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation) -> Tensor");

  // Places: int64 indices into the planes of an image, as torch's poolings give them. Of equal ones the last is kept by
  // place_scatter, or all are added up.
  m.def("place_gather(Tensor input, Tensor places) -> Tensor");
  m.def("place_scatter(Tensor input, Tensor places, SymInt[] output_size, bool accumulate) -> Tensor");
  // The places of the largest elements of windows that begin, for each plane, where `begins` says: (N, C, sum of the
  // output sizes), axis after axis.
  m.def("fractional_max_places(Tensor input, Tensor begins, SymInt[] kernel_size, SymInt[] output_size) -> Tensor");

  // im2col: (N, C, *spatial) to columns (N, C * taps, blocks), and its adjoint, col2im.
  m.def("unfold(Tensor input, SymInt[] kernel_size, SymInt[] dilation, SymInt[] padding, SymInt[] stride) -> Tensor");
  m.def(
      "fold(Tensor input, SymInt[] output_size, SymInt[] kernel_size, SymInt[] dilation, SymInt[] padding, "
      "SymInt[] stride) -> Tensor");
  // Divides by a power of the mean square over a window of channels (axis 1); the backward is to the input.
  m.def("local_response_norm(Tensor input, int size, float alpha, float beta, float k) -> Tensor");
  m.def(
      "local_response_norm_backward(Tensor grad_output, Tensor input, int size, float alpha, float beta, float k) -> "
      "Tensor");
  // out[i, j, p] = sum over r of a[i, r, p] * b[j, r, p]: unshared weights, and their gradients.
  m.def("position_product(Tensor a, Tensor b) -> Tensor");
}
