// How wgrad on a stage that all taps share is cut: bands of pixels, blocks of filters and of channels.
#pragma once

#include <algorithm>
#include <vector>

#include "lane_band.h"

namespace convext {

// Blocks of a unit: panels of filters, and tiles of channels under every tap; and most filters of a panel. None of it
// enters the arithmetic.
struct StagedWgradShape {
  int64_t panels = 1, tiles = 1;
  int64_t rows = 1;
};

// What the shape of the problem alone decides, and with it every bit of the result: bands of an image, and images whose
// bands are summed together where a band is a whole image. The phases must stay where they are.
struct StagedWgradBands {
  std::vector<GatherAxis> phases[kSpatialAxes];
  LaneBand band;
  int64_t most_tiles = 1;  // of a unit: a few taps repay packing the gradient if they multiply several tiles
  int64_t images = 1;      // of a chunk

  StagedWgradBands(const Region& region, const ConvProblem& p, const Tile& tile, int64_t sum_bytes) {
    constexpr int64_t kProducts = 8, kStageBytes = 512 << 10;
    most_tiles = std::clamp<int64_t>(divide_up(p.in_channels, tile.columns), 1, divide_up(kProducts, region.taps()));
    for (int i = 0; i < kSpatialAxes; ++i) phases[i] = {region.axis[i]};
    const int64_t place_bytes = most_tiles * tile.columns * sum_bytes;
    band = LaneBand(phases, 1, region.taps(), place_bytes);
    if (band.bands() > 1) return;
    const int64_t fitting = std::min(kReductionBlock / std::max<int64_t>(1, pixels()),
                                     kStageBytes / std::max<int64_t>(1, band.vectors() * place_bytes));
    images = std::clamp<int64_t>(fitting, 1, std::max<int64_t>(1, p.batch));
  }
  StagedWgradBands(const StagedWgradBands&) = delete;
  StagedWgradBands& operator=(const StagedWgradBands&) = delete;

  int64_t pixels() const { return band.axis[0].positions * band.axis[1].positions * band.axis[2].positions; }
  int64_t chunks(int64_t batch) const { return divide_up(batch, images) * band.bands(); }
};

// Per-thread workspace: numbers, then elements of the sum type.
struct StagedWgradWorkspace {
  int64_t entries, taps, pixels;   // places that the stager lists, of taps, and of a chunk's pixels
  int64_t grad, stage, row, sums;  // `row`: between the sums of two filters
  StagedWgradWorkspace(const StagedWgradBands& bands, const StagedWgradShape& shape, int64_t taps_, const Tile& tile)
      : entries(bands.band.source_columns() + 2 * bands.band.source_rows()),
        taps(taps_),
        pixels(bands.images * bands.pixels()),
        grad(kReductionBlock * shape.panels * tile.rows),
        stage(bands.images * shape.tiles * bands.band.vectors() * tile.columns),
        // off the powers of two that collide in a cache
        row(shape.tiles * taps_ * tile.columns + 16),
        sums(shape.panels * tile.rows * row) {}
  int64_t number_bytes() const {
    return round_up((entries + taps + pixels) * static_cast<int64_t>(sizeof(int64_t)), 64);
  }
  int64_t bytes(int64_t sum_bytes) const { return number_bytes() + (grad + stage + sums) * sum_bytes; }
};

}  // namespace convext
