// How wgrad by correlation is cut: bands of positions, chunks of bands, blocks of filters and of channels.
#pragma once

#include <algorithm>

#include "band.h"

namespace convext {

// Positions that a tile sums before its lanes are added up. The sums of 24 vectors cost about 70 cycles, the products
// of 1024 positions 768; four rows of grad and the rows under six taps then just fill L1.
inline constexpr int64_t kChunkPositions = 1024;
inline constexpr int64_t kMostCorrelationLanes = kMostVectorBytes / 4;

// What is staged: elements of the sum type, one to a lane, or two bfloat16 positions.
struct StagedElement {
  int64_t bytes = 4;
  int64_t in_lane = 1;  // positions
  int64_t chunk() const { return kChunkPositions * in_lane; }
  int64_t vector() const { return kMostCorrelationLanes * in_lane; }
};
// Bytes of stage that a block of channels aims at: with the block's grad it stays within 1 MiB of L2.
inline constexpr int64_t kCorrelationStageBytes = 256 << 10;
// Filters of a block: their chunk of grad is 256 KiB.
inline constexpr int64_t kCorrelationFilters = 64;
// Channels of a block at most.
inline constexpr int64_t kCorrelationChannels = 64;

// What the shape alone decides, and with it every bit of the result.
struct CorrelationBands {
  Band band;
  int64_t length = 0;        // of a band's rows of grad, in whole vectors
  int64_t channel_size = 0;  // of a channel's stage, with the zeros that its last vector may read
  int64_t in_image = 0;      // bands of an image
  int64_t in_chunk = 1;      // bands that are summed in registers one after the other

  CorrelationBands() = default;
  CorrelationBands(const Region& r, int64_t batch, const StagedElement& element) {
    const int64_t chunk = element.chunk(), vector = element.vector();
    const int64_t columns = std::clamp<int64_t>(r.axis[2].count, 1, chunk);
    const int64_t pitch = columns + StagedAxis(r.axis[2], columns).span;
    band = Band(r, 1, kMostStageBytes / element.bytes, std::max<int64_t>(1, chunk / pitch), chunk);
    length = round_up(band.length(band.rows, band.columns), vector);
    channel_size = round_up(band.channel_size, vector) + vector;
    in_image = band.count(r);
    in_chunk = std::clamp<int64_t>(chunk / std::max<int64_t>(1, length), 1, std::max<int64_t>(1, batch * in_image));
  }
  int64_t chunks(int64_t batch) const { return divide_up(batch * in_image, in_chunk); }
};

// Per-thread workspace: an offset for each (channel, tap) of a block, in the stage and in the stage of tails; then
// staged elements.
struct CorrelationWorkspace {
  int64_t offsets, stage, grad;
  CorrelationWorkspace(const CorrelationBands& bands, const WgradShape& shape, int64_t taps,
                       const StagedElement& element)
      : offsets(2 * shape.channels * taps),
        stage(bands.in_chunk * shape.channels * bands.channel_size),
        grad(bands.in_chunk * shape.filters * bands.length) {
    // A cut region gets the budget, so that the workspace of large images does not depend on how they are cut.
    if (bands.in_image > 1) {
      offsets = 2 * kCorrelationChannels * taps;
      stage = std::max(stage, kCorrelationStageBytes / element.bytes);
      grad = std::max(grad, std::min(shape.filters, kCorrelationFilters) * element.chunk());
    }
    stage += kBandSlack;
  }
  int64_t offset_bytes() const { return round_up(offsets * static_cast<int64_t>(sizeof(int64_t)), 64); }
  int64_t bytes(const StagedElement& element) const { return offset_bytes() + (stage + grad) * element.bytes; }
};

}  // namespace convext
