// Functions of Python that code a call's arguments, written without pybind11: they are called in every convolution and
// pooling and take a tenth of a microsecond.
#pragma once

#include <Python.h>

namespace convext {

// Adds conv_code, conv_transpose_code and pool_code to a module; -1 with an exception set where that fails.
int add_argument_codes(PyObject* module);

}  // namespace convext
