// Winograd's shared vocabulary: how result planes are cut into tiles, how transformed tiles lie in memory, and how the
// work is cut. What is computed stands in winograd_transform.h, and how in winograd.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "packed.h"

namespace convext {

inline constexpr int64_t kWinogradKernel = 3;
// Tiles of one row of tiles that are staged at a time: 58 columns of 6 rows and 16 floats are 22 KiB, half of L1.
inline constexpr int64_t kWinogradRun = 14;

// Smallest count of floats from n on that is an odd number of cache lines: rows so far apart start in different sets
// of the L1, where rows a power of two apart would evict each other.
inline int64_t odd_lines(int64_t n) {
  constexpr int64_t kLine = 16;
  const int64_t lines = divide_up(n, kLine);
  return (lines + 1 - lines % 2) * kLine;
}

// The result plane of every image in side x side tiles, numbered over (image, row, column); the last ones overhang.
struct TileGrid {
  int64_t side = 4, height = 0, width = 0;
  int64_t rows() const { return divide_up(height, side); }
  int64_t columns() const { return divide_up(width, side); }
  int64_t per_image() const { return rows() * columns(); }
};

// Neighbouring tiles of one row of tiles; `first` is their place in the block that they belong to.
struct TileRun {
  int64_t first, image, row, column, count;
};

// Calls visit(run) for the runs that make up tiles [begin, begin + count) of a grid.
template <class Visit>
inline void for_each_run(const TileGrid& grid, int64_t begin, int64_t count, Visit visit) {
  const int64_t rows = grid.rows(), columns = grid.columns();
  TileRun run{0, begin / (rows * columns), begin / columns % rows, begin % columns, 0};
  while (run.first < count) {
    run.count = std::min({columns - run.column, count - run.first, kWinogradRun});
    visit(run);
    run.first += run.count;
    run.column += run.count;
    if (run.column < columns) continue;
    run.column = 0;
    if (++run.row == rows) run.row = 0, ++run.image;
  }
}

// A block of transformed tiles, [point][tile][channel].
struct TileBlock {
  int64_t row = 0;    // from a tile to the next
  int64_t plane = 0;  // from a point to the next
  int64_t points = 0;
  TileBlock() = default;
  TileBlock(int64_t points_, int64_t tiles, int64_t channels)
      : row(odd_lines(channels)), plane(odd_lines(tiles * row)), points(points_) {}
  int64_t elements() const { return points * plane; }
};

// How the work is cut. None of it enters the arithmetic but `chunk`.
struct WinogradShape {
  int64_t side = 4;    // of a tile's results
  bool deep = false;   // winograd.h
  int64_t tiles = 1;   // of a block
  int64_t panels = 1;  // of result channels, multiplied and transformed back at a time
  int64_t chunk = 1;   // source channels whose products are summed in registers

  int64_t points() const { return (side + 2) * (side + 2); }
};

// Memory of a WinogradShape in floats.
struct WinogradSizes {
  TileBlock source;      // transformed tiles of the source, all channels of a group
  TileBlock product;     // their products with some panels of the weight
  int64_t weight_plane;  // from a point to the next in a panel of the transformed weight
  int64_t stage;         // rows of the source, or of the result, under a run of tiles, for one vector of channels
  int64_t taps;          // of the weight, for a vector of result channels and as many source channels

  WinogradSizes(const WinogradShape& shape, const Tile& tile, int64_t lanes, int64_t depth)
      : source(shape.points(), shape.tiles, round_up(depth, lanes)),
        product(shape.points(), shape.tiles, shape.panels * tile.columns),
        weight_plane(odd_lines((shape.deep ? shape.chunk : depth) * tile.columns)),
        stage((shape.side + 2) * (kWinogradRun * shape.side + 2) * lanes),
        taps((kWinogradKernel * kWinogradKernel * lanes + lanes) * lanes) {}
  int64_t weight_panel(const WinogradShape& shape) const { return shape.points() * weight_plane; }
  // Of a worker: the deep form has one panel of the weight, of one chunk; the other its own block of tiles.
  int64_t own(const WinogradShape& shape) const {
    return product.elements() + stage + taps + (shape.deep ? weight_panel(shape) : source.elements());
  }
};

struct WinogradJob {
  const ConvJob* conv = nullptr;  // operands; its wave is one region
  TileGrid grid;
  WinogradShape shape;
  bool flipped = false;               // the taps are in descending order: dgrad
  int64_t origin[2] = {};             // source coordinate of the first tile's first element
  float* weight = nullptr;            // transformed: (group, panel), each [point][source channel][tile.columns]
  float* source = nullptr;            // the deep form's block of tiles
  int64_t group = 0;                  // and what it holds: of which group,
  int64_t first_tile = 0, tiles = 0;  // which tiles

  int64_t all_tiles() const { return conv->problem->batch * grid.per_image(); }
  int64_t blocks() const { return divide_up(all_tiles(), shape.tiles); }
  int64_t weight_panels() const { return divide_up(conv->rows, conv->tile.columns); }
  int64_t passes() const { return divide_up(weight_panels(), shape.panels); }
};

}  // namespace convext
