// How wgrad by outer products cuts the pixels: lines of result rows, chunks of lines.
#pragma once

#include <algorithm>

#include "packed.h"

namespace convext {

struct OuterLines {
  int64_t length = 1;         // result pixels of a line at most
  int64_t in_image = 0;       // lines of an image
  int64_t in_chunk = 1;       // lines that are summed in registers: at most kReductionBlock pixels
  int64_t staged_pixels = 0;  // source pixels that a line may read under one row of taps

  OuterLines(const Region& r, int64_t batch) {
    const GatherAxis* g = r.axis;
    length = std::clamp<int64_t>(g[2].count, 1, kReductionBlock);
    in_image = g[0].count * g[1].count * divide_up(g[2].count, length);
    in_chunk = std::clamp<int64_t>(kReductionBlock / length, 1, std::max<int64_t>(1, batch * in_image));
    staged_pixels = (length - 1) * g[2].step + g[2].taps;
  }
  int64_t chunks(int64_t batch) const { return divide_up(batch * in_image, in_chunk); }
  // Per-thread workspace in elements: the staged lines of a chunk, and what the last vector reads beyond them.
  int64_t workspace_elements(int64_t channels) const { return in_chunk * staged_pixels * channels + 16; }
};

// Most channels of an image that is turned first (turned_wgrad.h).
inline constexpr int64_t kMostTurnedChannels = 16;

// Its per-thread workspace in elements: the rows that the lines of a chunk read under the taps of a plane, and the
// gradient's lines, in vectors of filters.
struct TurnedLines {
  int64_t row, stage, pixels, turned;
  TurnedLines(const OuterLines& lines, const Region& r, int64_t channels, int64_t filters, int64_t lanes)
      : row(lines.staged_pixels * channels),
        stage(round_up(lines.in_chunk * std::max(r.axis[1].step, r.axis[1].taps) * row + lanes, lanes)),
        pixels(lines.in_chunk * lines.length),
        turned(pixels * round_up(filters, lanes)) {}
  int64_t elements() const { return stage + turned; }
};

}  // namespace convext
