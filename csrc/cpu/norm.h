// Local response normalisation and the product at each position on CPU: their jobs, and what an ISA level offers.
#pragma once

#include <algorithm>
#include <cstdint>

namespace convext {

// y_c = x_c * (k + alpha / size * sum of x_j^2 over the window of c) ^ -beta
//
// A dense tensor with a channel axis is outer x channels x inner elements, whatever the order of its other axes; the
// window lies along the channels, from c - before to c + after.
struct ResponseNormJob {
  int64_t outer = 0, channels = 0, inner = 0;
  int64_t before = 0, after = 0;  // channels; at most `channels` each, for there are no more
  double scale = 0;               // alpha / size
  double beta = 0, k = 0;
  const void* grad = nullptr;  // of the result; backward only
  const void* input = nullptr;
  void* result = nullptr;

  // A block: `rows` of outer by `pixels` of inner, over all channels. Only one of them is above one unless a block
  // holds all of inner.
  int64_t rows = 1, pixels = 1;
  int64_t padded() const { return before + channels + after; }
  int64_t row_blocks() const { return (outer + rows - 1) / rows; }
  int64_t pixel_blocks() const { return (inner + pixels - 1) / pixels; }
  int64_t units() const { return row_blocks() * pixel_blocks(); }
  int64_t buffer() const { return rows * padded() * pixels; }  // values of one of the workspace's buffers
};

// Buffers of a block: the squares; backward also the terms of the second window and the powers.
inline constexpr int64_t kForwardBuffers = 1, kBackwardBuffers = 3;
// Values that a kernel may read or write beyond a buffer, so that it needs no rest for vectors: one vector of floats.
inline constexpr int64_t kBufferSlack = 16;

struct ResponseNormKernels {
  void (*forward)(const ResponseNormJob&, int64_t begin, int64_t end, void* workspace);
  void (*backward)(const ResponseNormJob&, int64_t begin, int64_t end, void* workspace);
};

// out[i, j, p] = sum over r of a[i, r, p] * b[j, r, p]: a matrix product of its own at each position.
struct PositionProductJob {
  int64_t rows = 0, columns = 0, depth = 0, positions = 0;
  const void* a = nullptr;
  int64_t a_row = 0, a_depth = 0;  // strides; positions are contiguous
  const void* b = nullptr;
  int64_t b_row = 0, b_depth = 0;
  void* out = nullptr;  // (rows, columns, positions), contiguous

  static constexpr int64_t kTile = 4;         // rows by columns of a unit
  static constexpr int64_t kPositions = 256;  // of a unit: with the sums of a tile, 16 KiB of float
  int64_t tiles(int64_t n) const { return (n + kTile - 1) / kTile; }
  int64_t blocks() const { return (positions + kPositions - 1) / kPositions; }
  int64_t units() const { return blocks() * tiles(columns) * tiles(rows); }
};

struct PositionProductKernels {
  void (*run)(const PositionProductJob&, int64_t begin, int64_t end);
};

}  // namespace convext
