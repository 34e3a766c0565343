// From the arguments of a convolution or a pooling, as Python has them, to the codes of geometry_code.h: plain ints
// only. Whatever else they are, from words of padding to mistakes, has no code and is the affair of convext/_checks.py
// and _pool_checks.py.
#include "python_arguments.h"

#include <array>
#include <optional>

#include "geometry_code.h"

namespace convext {
namespace {

using AxisValues = std::array<int64_t, kSpatialAxes>;

// An int, and no bool or other subclass, from `least` to `most`.
std::optional<int64_t> plain_int(PyObject* value, int64_t least, int64_t most) {
  if (!PyLong_CheckExact(value)) return std::nullopt;
  int overflow = 0;
  const int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow != 0 || number < least || number > most) return std::nullopt;
  return number;
}

// One int for each of the last `rank` axes from an int, or a tuple or list of as many; the axes before have `least`.
std::optional<AxisValues> on_axes(PyObject* value, int rank, int64_t least, int64_t most) {
  AxisValues values;
  values.fill(least);
  const bool listed = PyTuple_CheckExact(value) || PyList_CheckExact(value);
  if (listed && PySequence_Fast_GET_SIZE(value) != rank) return std::nullopt;
  for (int i = 0; i < rank; ++i) {
    const std::optional<int64_t> number = plain_int(listed ? PySequence_Fast_GET_ITEM(value, i) : value, least, most);
    if (!number) return std::nullopt;
    values[static_cast<std::size_t>(kSpatialAxes - rank + i)] = *number;
  }
  return values;
}

std::optional<int64_t> mode_named(PyObject* value) {
  constexpr const char* kModes[] = {"zeros", "reflect", "replicate", "circular"};  // by PaddingMode
  if (!PyUnicode_CheckExact(value)) return std::nullopt;
  for (int mode = 0; mode < 4; ++mode)
    if (PyUnicode_CompareWithASCIIString(value, kModes[mode]) == 0) return mode;
  return std::nullopt;
}

PyObject* no_code() { Py_RETURN_NONE; }

// A tuple; of the third, a new reference, it takes possession.
PyObject* three_ints(int64_t first, int64_t second, PyObject* third) {
  PyObject* numbers[] = {PyLong_FromLongLong(first), PyLong_FromLongLong(second), third};
  PyObject* tuple = numbers[0] && numbers[1] && numbers[2] ? PyTuple_New(3) : nullptr;
  for (int i = 0; i < 3; ++i) {
    if (tuple) {
      PyTuple_SET_ITEM(tuple, i, numbers[i]);
    } else {
      Py_XDECREF(numbers[i]);
    }
  }
  return tuple;
}

PyObject* coded(int rank, PyObject* stride, PyObject* padding, PyObject* output_padding, PyObject* dilation,
                PyObject* groups, PyObject* padding_mode) {
  const std::optional<int64_t> mode = mode_named(padding_mode), group_count = plain_int(groups, 1, int64_t{1} << 40);
  if (!mode || !group_count) return no_code();
  const std::optional<AxisValues> strides = on_axes(stride, rank, 1, kLargestField + 1),
                                  dilations = on_axes(dilation, rank, 1, kLargestField + 1),
                                  sides = on_axes(padding, rank, 0, kLargestSide);
  if (!strides || !dilations || !sides) return no_code();
  AxisValues extra{};
  if (output_padding) {
    const std::optional<AxisValues> given = on_axes(output_padding, rank, 0, kLargestSide);
    if (!given) return no_code();
    extra = *given;
  }
  int64_t window = *mode << kModeBit, padding_code = 0;
  for (int axis = 0; axis < kSpatialAxes; ++axis) {
    const auto i = static_cast<std::size_t>(axis);
    const int64_t s = (*strides)[i], d = (*dilations)[i], side = (*sides)[i];
    if (extra[i] > 0 && extra[i] >= s && extra[i] >= d) return no_code();  // an error
    window |= encode_pair(axis, s - 1, d - 1);
    padding_code |= encode_pair(axis, side, side - extra[i]);
  }
  Py_INCREF(groups);
  return three_ints(window, padding_code, groups);
}

std::optional<int> rank_of(PyObject* value) {
  const std::optional<int64_t> rank = plain_int(value, 1, kSpatialAxes);
  return rank ? std::optional<int>(static_cast<int>(*rank)) : std::nullopt;
}

PyObject* wrong_call(const char* name, int arguments) {
  PyErr_Format(PyExc_TypeError, "%s: expected a rank from 1 to 3 and %d arguments more", name, arguments);
  return nullptr;
}

// (rank, stride, padding, dilation, groups, padding_mode), in the order of torch's functions.
PyObject* conv_code(PyObject*, PyObject* const* a, Py_ssize_t count) {
  const std::optional<int> rank = count == 6 ? rank_of(a[0]) : std::nullopt;
  if (!rank) return wrong_call("conv_code", 5);
  return coded(*rank, a[1], a[2], nullptr, a[3], a[4], a[5]);
}

// (rank, stride, padding, output_padding, groups, dilation, padding_mode)
PyObject* conv_transpose_code(PyObject*, PyObject* const* a, Py_ssize_t count) {
  const std::optional<int> rank = count == 7 ? rank_of(a[0]) : std::nullopt;
  if (!rank) return wrong_call("conv_transpose_code", 6);
  return coded(*rank, a[1], a[2], a[3], a[5], a[4], a[6]);
}

bool is_empty_list(PyObject* value) {
  return (PyTuple_CheckExact(value) || PyList_CheckExact(value)) && PySequence_Fast_GET_SIZE(value) == 0;
}

// (rank, kernel_size, stride, padding, dilation); a stride of None or () is the kernel's size
PyObject* pool_code(PyObject*, PyObject* const* a, Py_ssize_t count) {
  const std::optional<int> rank = count == 5 ? rank_of(a[0]) : std::nullopt;
  if (!rank) return wrong_call("pool_code", 4);
  const std::optional<AxisValues> kernel = on_axes(a[1], *rank, 1, kLargestField + 1),
                                  dilation = on_axes(a[4], *rank, 1, kLargestField + 1),
                                  sides = on_axes(a[3], *rank, 0, kLargestSide);
  if (!kernel || !dilation || !sides) return no_code();
  const std::optional<AxisValues> stride =
      a[2] == Py_None || is_empty_list(a[2]) ? kernel : on_axes(a[2], *rank, 1, kLargestField + 1);
  if (!stride) return no_code();
  int64_t kernel_code = 0, window = 0, padding = 0;
  for (int axis = 0; axis < kSpatialAxes; ++axis) {
    const auto i = static_cast<std::size_t>(axis);
    kernel_code |= encode_pair(axis, (*kernel)[i] - 1, 0);
    window |= encode_pair(axis, (*stride)[i] - 1, (*dilation)[i] - 1);
    padding |= encode_pair(axis, (*sides)[i], (*sides)[i]);
  }
  return three_ints(kernel_code, window, PyLong_FromLongLong(padding));
}

template <class Function>
PyCFunction as_method(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace

int add_argument_codes(PyObject* module) {
  static PyMethodDef methods[] = {
      {"conv_code", as_method(&conv_code), METH_FASTCALL,
       "The code of a convolution's (rank, stride, padding, dilation, groups, padding_mode), or None."},
      {"conv_transpose_code", as_method(&conv_transpose_code), METH_FASTCALL,
       "That of (rank, stride, padding, output_padding, groups, dilation, padding_mode), or None."},
      {"pool_code", as_method(&pool_code), METH_FASTCALL,
       "That of a pooling's (rank, kernel_size, stride, padding, dilation), or None."},
      {nullptr, nullptr, 0, nullptr}};
  return PyModule_AddFunctions(module, methods);
}

}  // namespace convext
