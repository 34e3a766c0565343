// How depthwise layers are cut whose rows are shifted in registers (depthwise_shifted.h, depthwise_shifted_wgrad.h).
#pragma once

#include <algorithm>

#include "packed.h"

namespace convext {

// Of the vectors whose lanes are moved by an index in a register.
inline constexpr int kShiftedVectorBytes = 64;
// Rows of positions whose results wait in L1, if they do.
inline constexpr int64_t kShiftedTileRows = 56;
// Most filters of a unit of wgrad, whose sums over lanes are taken together.
inline constexpr int64_t kMostShiftedFilters = 16;

struct ShiftedShape {
  int64_t depth = 1, multiplier = 1, taps = 1;  // of a group: channels of the source, and of the result
  int64_t planes = 1;                           // that share a vector, whose rows fill half of it at most
  int64_t positions = 1, vectors = 1;           // of a row under one phase, and the vectors of them
  int64_t height = 1, width = 1;                // of the result; of wgrad, of grad
  int64_t row_phases = 1, column_phases = 1;    // of a strided dgrad's result
  int64_t source_height = 1, source_width = 1;
  int64_t column_taps = 1;
  int64_t filters = 1;  // of a unit of wgrad
  // wgrad of 3 x 3 taps, which one pass gives together with the source's gradient (depthwise_shifted_adjoint.h).
  // Positions are then those of the source's columns, a stride apart. Not where planes would share vectors: one plane
  // a vector was no faster than wgrad by planes (960 channels of 7 x 7, Zen 4, one thread, with 20 us of autograd: 111
  // against 93 us; 576 channels of 14 x 14 under a stride, 98 against 90).
  bool adjoint = false;

  ShiftedShape() = default;
  ShiftedShape(const ConvProblem& p, ConvOperator op, int64_t lanes, int64_t threads) : taps(kernel_taps(p)) {
    const ConvAxis &h = p.axis[1], &w = p.axis[2];
    const bool dgrad = op == ConvOperator::kDgrad;
    depth = dgrad ? p.out_channels : p.in_channels;
    multiplier = dgrad ? p.in_channels : p.out_channels;
    height = dgrad ? h.input : h.output, width = dgrad ? w.input : w.output;
    source_height = dgrad ? h.output : h.input, source_width = dgrad ? w.output : w.input;
    if (dgrad) row_phases = std::min(h.stride, height), column_phases = std::min(w.stride, width);
    positions = divide_up(width, column_phases);
    column_taps = w.kernel;
    if (depth == 1 && multiplier == 1 && 2 * positions <= lanes && source_width <= lanes) planes = 2;
    const auto three_taps = [&](const ConvAxis& a) {
      return a.kernel == 3 && a.dilation == 1 && a.stride == w.stride && a.stride <= 2;
    };
    if (op == ConvOperator::kWgrad && planes == 1 && depth == 1 && multiplier == 1 && height <= kReductionBlock &&
        three_taps(h) && three_taps(w)) {
      adjoint = true;
      positions = divide_up(source_width, w.stride);
    }
    vectors = divide_up(positions, lanes);
    constexpr int64_t kUnits = 4;  // for each thread
    filters = std::clamp<int64_t>(p.groups * p.out_channels / (kUnits * threads), 1, kMostShiftedFilters);
    filters = round_up(filters, planes);
  }
  int64_t source_elements(int64_t lanes) const {
    return depth * planes * round_up(source_height * source_width, lanes) + 2 * lanes;
  }
  int64_t grad_elements(int64_t lanes) const { return planes * round_up(height * width, lanes) + lanes; }
  int64_t wgrad_terms(int64_t lanes) const { return round_up(divide_up(filters, planes) * taps, lanes); }
};

// Per-thread workspace, in bytes: the passes or blocks of taps, indices and masks of lanes, then elements of the sum
// type.
struct ShiftedWorkspace {
  static constexpr int64_t kPassBytes = 128, kFetchBytes = 32, kVectorPair = 2 * 64;
  int64_t passes = 0, fetches, lanes_of_taps, source, weight, sums, bytes;
  ShiftedWorkspace(const ShiftedShape& s, int64_t lanes, int64_t sum_bytes)
      : fetches(s.vectors * s.depth * s.taps * kPassBytes),
        lanes_of_taps(fetches + round_up(s.vectors * s.row_phases * s.column_taps * kFetchBytes, 64)),
        source(lanes_of_taps + s.vectors * s.row_phases * s.column_taps * kVectorPair),
        weight(source + round_up(s.source_elements(lanes) * sum_bytes, 64)),
        sums(weight + round_up(s.taps * std::max(s.depth, s.planes * lanes) * sum_bytes, 64)),
        bytes(sums + (kShiftedTileRows * s.row_phases * s.column_phases + 1) * lanes * sum_bytes) {}
};
struct ShiftedWgradWorkspace {
  int64_t blocks = 0, fetches, lanes_of_taps, source, grad, sums, total, rest, bytes;
  ShiftedWgradWorkspace(const ShiftedShape& s, int64_t lanes, int64_t sum_bytes)
      : fetches(s.taps * ShiftedWorkspace::kPassBytes),
        lanes_of_taps(fetches + round_up(s.vectors * (s.column_taps + 1) * ShiftedWorkspace::kFetchBytes, 64)),
        source(lanes_of_taps + s.vectors * (s.column_taps + 1) * ShiftedWorkspace::kVectorPair),
        grad(source + round_up(s.source_elements(lanes) * sum_bytes, 64)),
        sums(grad + round_up(s.grad_elements(lanes) * sum_bytes, 64)),
        total(sums + s.wgrad_terms(lanes) * lanes * sum_bytes),
        rest(total + s.wgrad_terms(lanes) * s.planes * sum_bytes),
        bytes(rest + (s.adjoint ? s.source_height * 2 * lanes * sum_bytes : 0)) {}
};

}  // namespace convext
