// What the pooling kernels are told, and how their work is cut: shared by the host functions and every ISA level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../pool_problem.h"

namespace convext {

// max: the largest element, or the smallest. sum: of the window, divided by a count where an average is asked for.
// root: the square root of the mean of the squares, times that of the kernel's taps.
enum class PoolKind { kMax, kMaxWithOffsets, kSum, kRoot };

inline constexpr bool is_sum(PoolKind kind) { return kind == PoolKind::kSum || kind == PoolKind::kRoot; }

// Where a window that reads nothing has its winner.
inline constexpr int32_t kNoWinner = -1;  // as an unsigned byte: 255

// One pass over a batch. Forward: source = input, result = output. Adjoint: source = grad_output, result = the gradient
// to the input; for max pooling the offsets that forward recorded are read, for kRoot forward's output and image.
struct PoolJob {
  PoolProblem problem;
  PoolKind kind = PoolKind::kMax;
  bool minimum = false;  // the smallest element instead of the largest
  bool include_pad = true;
  int64_t divisor = 0;  // of a sum; 0: what the window counts
  const void* source = nullptr;
  void* result = nullptr;
  void* offsets = nullptr;
  int offset_bytes = 1;
  Strides source_strides, result_strides, offset_strides;
  const void* output = nullptr;  // as the source
  const void* image = nullptr;   // as the result
  Strides output_strides, image_strides;

  int64_t kernel_rows() const { return problem.axis[1].kernel; }
  int64_t kernel_columns() const { return problem.axis[2].kernel; }
};

// Rows of planes in the order (block, image, channel, depth, row), counted on without dividing.
struct PlaneRows {
  const int64_t rows, depths, channels, images;
  int64_t row, depth, channel, image, block;

  PlaneRows(const PoolProblem& p, int64_t PoolAxis::*size, int64_t i)
      : rows(p.axis[1].*size), depths(p.axis[0].*size), channels(p.channels), images(p.batch) {
    row = i % rows, i /= rows;
    depth = i % depths, i /= depths;
    channel = i % channels, i /= channels;
    image = i % images, block = i / images;
  }
  void next() {
    if (++row < rows) return;
    row = 0;
    if (++depth < depths) return;
    depth = 0;
    if (++channel < channels) return;
    channel = 0;
    if (++image < images) return;
    image = 0;
    ++block;
  }
  int64_t at(const Strides& s) const {
    return image * s.outer + channel * s.channel + depth * s.axis[0] + row * s.axis[1];
  }
};

inline constexpr int64_t kPoolRoom = 64;  // elements that a row may be read or written beyond its end: a vector or more

inline int64_t pool_round_up(int64_t a) { return (a + kPoolRoom - 1) / kPoolRoom * kPoolRoom; }

// Hands out aligned parts of a thread's workspace.
class PoolWorkspace {
 public:
  static constexpr int64_t kAlignment = 64;
  explicit PoolWorkspace(void* data) : next_(static_cast<std::byte*>(data)) {}
  template <class Element>
  Element* take(int64_t count) {
    Element* part = reinterpret_cast<Element*>(next_);
    next_ += (count * static_cast<int64_t>(sizeof(Element)) + kAlignment - 1) / kAlignment * kAlignment;
    return part;
  }

 private:
  std::byte* next_;
};

// How a row is read through its windows. With stride s, column x of a row goes to place x / s of phase x % s, so that
// one tap of consecutive outputs is a run of consecutive elements, whatever the stride and the dilation:
//
//   row      a b c d e f g h      stride 2, 3 taps     phase 0  a c e g     tap 0: a c e ..   tap 2: c e g ..
//                                                      phase 1  b d f h     tap 1: b d f ..
//
// Adaptive windows, and those too long for such a copy, are read one by one.
struct PoolColumns {
  static constexpr int64_t kOutputs = 1024;   // at most in a block
  static constexpr int64_t kElements = 4096;  // of a staged row, about
  static constexpr int64_t kLongest = 8192;   // from the first tap to the last; more, and windows are read one by one
  static constexpr int64_t kTaps = 1024;

  static bool phases_pay(const PoolAxis& a) {
    return !a.adaptive && (a.kernel - 1) * a.dilation <= kLongest && a.stride <= kElements && a.kernel <= kTaps;
  }

  explicit PoolColumns(const PoolAxis& a)
      : phased(phases_pay(a)),
        outputs(std::min(a.output, std::clamp<int64_t>(kElements / a.stride, 16, kOutputs))),
        blocks((a.output + outputs - 1) / outputs),
        phases(std::min(a.stride, a.kernel)),
        phase_length(pool_round_up(outputs + (a.kernel - 1) * a.dilation / a.stride + 1) + kPoolRoom),
        linear_length(pool_round_up((outputs + 1) * a.stride + (a.kernel - 1) * a.dilation + 1) + kPoolRoom) {
    if (!phased) phase_length = linear_length = phases = 0;
  }

  bool phased;
  int64_t outputs, blocks;  // the outputs of a block; how many blocks
  int64_t phases, phase_length, linear_length;

  int64_t padded_outputs() const { return pool_round_up(outputs); }
};

// The adjoint cuts a row of the input into blocks, and reads all outputs whose windows may touch the block.
struct PoolAdjointColumns {
  explicit PoolAdjointColumns(const PoolAxis& a)
      : inputs(std::min(a.input, PoolColumns::kElements)), blocks((a.input + inputs - 1) / inputs) {
    // as many outputs as begin within the inputs and the reach of a window before them
    const int64_t reach = a.adaptive ? inputs : inputs + (a.kernel - 1) * a.dilation;
    outputs = a.adaptive ? std::min<int64_t>(
                               a.output, static_cast<int64_t>(static_cast<__int128>(inputs) * a.output / a.input) + 2)
                         : std::min(a.output, reach / a.stride + 1);
    phased = PoolColumns::phases_pay(a);
    phases = phased ? std::min(a.stride, a.kernel) : 0;
    phase_length = phased ? pool_round_up(outputs + (a.kernel - 1) * a.dilation / a.stride + 1) + kPoolRoom : 0;
    linear_length = pool_round_up(std::max(inputs, phased ? (outputs + 1) * a.stride + reach : inputs)) + kPoolRoom;
  }

  int64_t inputs, blocks;
  int64_t outputs;
  bool phased;
  int64_t phases, phase_length, linear_length;

  int64_t padded_outputs() const { return pool_round_up(outputs) + kPoolRoom; }
};

// Rows of the input that have been reduced along their columns and may be asked for again by the next window: a table
// with one place for each row that two successive windows can share, or a single one where that would be too much.
struct PoolRowCache {
  static constexpr int64_t kElements = int64_t{1} << 17;

  PoolRowCache(const PoolProblem& p, int64_t row_elements) {
    const auto shared = [](const PoolAxis& a) {
      const int64_t extent = a.adaptive ? a.kernel : (a.kernel - 1) * a.dilation + 1;
      return std::min(a.input, extent);
    };
    depths = shared(p.axis[0]);
    rows = depths > 1 ? p.axis[1].input : shared(p.axis[1]);
    if (static_cast<__int128>(depths) * rows * row_elements > kElements) depths = rows = 1;
  }

  int64_t depths, rows;
  int64_t count() const { return depths * rows; }
};

}  // namespace convext
