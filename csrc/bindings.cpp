// What the build can do, which algorithm a problem gets and its workspace: introspection, no arithmetic.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "cpu/run.h"
#include "cpu/winograd_plan.h"
#include "measure.h"
#include "python_arguments.h"

namespace py = pybind11;

namespace convext {
namespace {
using IntList = std::vector<int64_t>;

ConvOperator operator_named(const std::string& name) {
  if (name == "fprop") return ConvOperator::kFprop;
  if (name == "dgrad") return ConvOperator::kDgrad;
  if (name == "wgrad") return ConvOperator::kWgrad;
  throw std::invalid_argument("convext: expected operator 'fprop', 'dgrad' or 'wgrad', got '" + name + "'");
}

const char* operator_name(ConvOperator op) {
  constexpr const char* kNames[] = {"fprop", "dgrad", "wgrad"};
  return kNames[static_cast<int>(op)];
}

constexpr const char* kFloatNames[] = {"float32", "float64", "bfloat16", "float16"};

std::optional<FloatType> float_named(const std::string& dtype) {
  for (int type = 0; type < 4; ++type)
    if (dtype == kFloatNames[type]) return static_cast<FloatType>(type);
  return std::nullopt;
}

// The request for a problem of these sizes; (N, C, *spatial) and (K, C / groups, *kernel) as in the operators.
PlanRequest request_for(const std::string& op, const std::string& dtype, const IntList& input, const IntList& weight,
                        const IntList& stride, const IntList& padding, const IntList& dilation, int64_t groups) {
  const std::size_t rank = stride.size();
  if (rank < 1 || rank > kSpatialAxes || input.size() != rank + 2 || weight.size() != rank + 2 ||
      padding.size() != 2 * rank || dilation.size() != rank || groups < 1)
    throw std::invalid_argument("convext: expected sizes, stride, padding and dilation of one rank from 1 to 3");
  constexpr int64_t kLargest = int64_t{1} << 40;
  const auto within = [](const IntList& list, int64_t least) {
    return std::all_of(list.begin(), list.end(), [&](int64_t v) { return v >= least && v <= kLargest; });
  };
  if (!within(input, 0) || !within(weight, 0) || !within(stride, 1) || !within(dilation, 1) ||
      !within(padding, -kLargest))
    throw std::invalid_argument("convext: expected sizes from 0, stride and dilation from 1, and none above 2^40");
  ConvProblem p;
  p.batch = input[0];
  p.groups = groups;
  p.in_channels = weight[1];
  p.out_channels = weight[0] / groups;
  for (std::size_t i = 0; i < rank; ++i) {
    ConvAxis& a = p.axis[kSpatialAxes - rank + i];
    a = {input[2 + i], weight[2 + i], 1, stride[i], dilation[i], padding[2 * i], padding[2 * i + 1]};
    a.output = output_size(a);
  }
  const std::optional<FloatType> type = float_named(dtype);
  PlanRequest request = make_request(operator_named(op), p, active_engine(), type.value_or(FloatType::kFloat), 1);
  request.packed_type = type.has_value();
  return request;
}

// What cpu/conv.cpp reads off the operands, for contiguous or channels_last ones: whether the kernel's taps become
// channels, which axes are joined, and the layouts, also of what contract.cpp's result_format allocates. 1-D images and
// results of 3-D float64 are never channels_last, a single channel has no layout, and a single pixel is channels_last
// always.
void set_layouts(PlanRequest& request, bool channels_last, int rank, bool is_double) {
  ConvProblem& p = request.problem;
  const int64_t in = p.groups * p.in_channels, out = p.groups * p.out_channels;
  const bool images = channels_last && rank > 1, results = images && !(rank == 3 && is_double);
  const bool dense = !images || in == 1, dense_result = !results || in == 1;
  const bool dense_operands = request.op == ConvOperator::kFprop ? dense : dense && dense_result;
  if (request.packed_type && dense_operands && kernel_is_image(p)) p = taps_as_channels(p);
  if (request.packed_type) {
    join_pointwise_axes(request.op, p, [](int) { return true; }, [](int) {});
    if (!is_widened(request)) column_to_depth(request.op, p, kReductionBlock);
  }
  const bool one_input = input_pixels(p) == 1, one_output = output_pixels(p) == 1;
  const bool input = (images && in > 1) || one_input, output = (images && out > 1) || one_output;
  request.source_channels_last = request.op == ConvOperator::kDgrad ? output : input;
  request.weight_channels_last = kernel_taps(p) == 1;
  request.grad_channels_last = request.op == ConvOperator::kWgrad && ((results && out > 1) || one_output);
  switch (request.op) {
    case ConvOperator::kFprop: request.result_channels_last = (results && out > 1) || one_output; break;
    case ConvOperator::kDgrad: request.result_channels_last = (results && in > 1) || one_input; break;
    case ConvOperator::kWgrad:
      request.result_channels_last = (results && p.in_channels > 1) || kernel_taps(p) == 1;
      break;
  }
}

py::dict conv_plan(const std::string& op, const std::string& dtype, const IntList& input_size,
                   const IntList& weight_size, const IntList& stride, const IntList& padding, const IntList& dilation,
                   int64_t groups, int64_t padding_mode, bool channels_last, int64_t num_threads) {
  PlanRequest request = request_for(op, dtype, input_size, weight_size, stride, padding, dilation, groups);
  if (padding_mode < 0 || padding_mode > 3)
    throw std::invalid_argument("convext: expected padding_mode 0 to 3, got " + std::to_string(padding_mode));
  request.problem.mode = static_cast<PaddingMode>(padding_mode);
  set_layouts(request, channels_last, static_cast<int>(stride.size()), dtype == "float64");
  request.threads = num_threads;
  std::vector<Declined> reasons;
  const ConvPlan plan = plan_conv(request, &reasons);
  py::list declined;
  for (const Declined& d : reasons) declined.append(py::make_tuple(algorithm_name(d.algorithm), d.reason));
  py::dict result;
  result["operator"] = operator_name(request.op);
  result["algorithm"] = algorithm_name(plan.algorithm);
  result["isa"] = max_isa();
  result["tile"] = py::make_tuple(request.tile.rows, request.tile.columns);
  result["pixels_are_rows"] = plan.shape.pixels_are_rows;
  result["slices"] = plan.slices;
  result["workers"] = plan.workers;
  result["shared_bytes"] = plan.shared_bytes;
  result["thread_bytes"] = plan.thread_bytes;
  result["workspace_bytes"] = plan.workspace_bytes();
  result["declined"] = declined;
  return result;
}

FloatType floating(const std::string& dtype) {
  const std::optional<FloatType> type = float_named(dtype);
  if (!type) throw std::invalid_argument("convext: expected a floating-point dtype, got '" + dtype + "'");
  return *type;
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = __VERSION__;
  info["torch_target_version"] = static_cast<unsigned long long>(TORCH_TARGET_VERSION);
  info["pybind11"] = PYBIND11_VERSION_HEX;
  info["isa_levels"] = isa_levels();
  return info;
}

}  // namespace
}  // namespace convext

PYBIND11_MODULE(_C, m) {
  m.doc() = "convext's kernels; importing it registers torch.ops.convext.";
  m.def("isa_levels", &convext::isa_levels, "ISA levels of this processor that convext has kernels for, lowest first.");
  m.def("get_max_isa", &convext::max_isa, "The ISA level in use.");
  m.def(
      "set_max_isa", [](const std::string& name) { convext::set_max_isa(name.c_str()); }, py::arg("name"),
      "Caps the ISA level. Raises ValueError for a name that is no level.");
  m.def("winograd_enabled", &convext::winograd_enabled, "Whether Winograd's algorithm may be used.");
  m.def("set_winograd_enabled", &convext::set_winograd_enabled, py::arg("enabled"),
        "Sets for the whole process whether Winograd's algorithm may be used.");
  m.def("conv_plan", &convext::conv_plan, py::arg("operator"), py::arg("dtype"), py::arg("input_size"),
        py::arg("weight_size"), py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"),
        py::arg("padding_mode"), py::arg("channels_last"), py::arg("num_threads"),
        "How an operator would run: algorithm, tile, workspace, and why the algorithms before it declined.");
  const py::call_guard<py::gil_scoped_release> others_may_run_meanwhile;
  m.def(
      "measure_fma_peak", [](const std::string& dtype) { return convext::measure_fma_peak(convext::floating(dtype)); },
      py::arg("dtype"), "FLOP/s of one thread running the micro-kernel of the ISA level in use on panels in L1.");
  m.def(
      "measure_fma_pace",
      [](const std::string& dtype, int64_t threads, double seconds) {
        return convext::measure_fma_pace(convext::floating(dtype), threads, seconds);
      },
      py::arg("dtype"), py::arg("threads"), py::arg("seconds"), others_may_run_meanwhile,
      "FLOP/s of each of so many threads that do the same at once, in the mean over so long.");
  m.def("measure_copy_bandwidth", &convext::measure_copy_bandwidth, py::arg("bytes"), others_may_run_meanwhile,
        "Bytes/s, read and written, of one thread copying half of a working set of so many bytes onto the other half.");
  m.def("measure_line_trip", &convext::measure_line_trip, others_may_run_meanwhile,
        "Seconds for a cache line to go from the calling thread to the next one of the pool and back.");
  if (convext::add_argument_codes(m.ptr()) != 0) throw py::error_already_set();
  m.def("build_info", &convext::build_info, "Compiler, target version of torch's stable ABI, and ISA levels.");
}
