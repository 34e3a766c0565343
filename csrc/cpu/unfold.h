// unfold (im2col) and fold (col2im) on CPU: their jobs, and what each ISA level offers for them.
//
// Both are bound by memory: the columns are `taps` times the image. unfold writes them in one stream and reads the
// image from cache; fold reads them in one stream and sums in L1. There is no workspace.
#pragma once

#include <cstdint>

#include "../problem.h"

namespace convext {

// unfold moves elements without looking at them: a kernel is chosen by the element's size, 1 << index bytes.
inline constexpr int kElementSizes = 5;

// The type that fold adds in; torch's types map onto it by their arithmetic, as unsigned integers wrap like signed
// ones.
enum class SumType {
  kFloat,
  kDouble,
  kBFloat16,
  kHalf,
  kBool,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kComplexFloat,
  kComplexDouble,
};
inline constexpr int kSumTypes = 11;

// fold keeps a row's sums by their phase x mod stride up to this stride; above it the runs are short anyway.
inline constexpr int64_t kLargestPhases = 16;

struct UnfoldJob {
  UnfoldProblem problem;
  const void* image = nullptr;
  Strides strides;               // of the image
  void* columns = nullptr;       // (N, C * taps, blocks), contiguous
  int64_t channels_at_once = 1;  // of one unit: a unit is (sample, block of channels, tap)
  int64_t channel_blocks = 1;
  int64_t units() const { return problem.batch * channel_blocks * unfold_taps(problem); }
};

// How fold cuts a plane: bands of whole rows whose sums fit kFoldBytes, and chunks of a row that is longer than that.
inline constexpr int64_t kFoldBytes = 1 << 16;  // of sums, on the stack: a 128 x 128 plane of float
struct FoldCut {
  int64_t rows, bands, chunk, chunks;
  FoldCut(const UnfoldProblem& p, int64_t sum_bytes, bool streams) {
    const ConvAxis &h = p.axis[1], &w = p.axis[2];
    // a chunk is a multiple of the stride (sums are kept by phase), so a row may need up to stride - 1 sums more
    const int64_t phases = w.stride <= kLargestPhases ? w.stride : 1;
    const int64_t sums = kFoldBytes / sum_bytes / phases * phases;
    const int64_t row = (w.input + phases - 1) / phases * phases;
    chunk = row < sums ? row : sums;
    chunks = (row + chunk - 1) / chunk;
    rows = sums / chunk < h.input ? sums / chunk : h.input;
    // columns that are no stream: neighbouring taps share cache lines, which a lower band comes back to sooner
    if (!streams) rows = 1;
    bands = (h.input + rows - 1) / rows;
  }
};

struct FoldJob {
  UnfoldProblem problem;
  const void* columns = nullptr;
  int64_t outer = 0, row = 0, block = 0;  // strides of the columns (N, C * taps, blocks)
  void* image = nullptr;                  // (N, C, *spatial), contiguous
  int64_t sum_bytes = 4;
  FoldCut cut() const { return {problem, sum_bytes, block == 1}; }
  int64_t units() const {
    const FoldCut cut = this->cut();
    return problem.batch * problem.channels * problem.axis[0].input * cut.bands * cut.chunks;
  }
};

struct UnfoldKernels {
  int vector_bytes;
  void (*unfold[kElementSizes])(const UnfoldJob&, int64_t begin, int64_t end);
  void (*fold[kSumTypes])(const FoldJob&, int64_t begin, int64_t end);
};

}  // namespace convext
