// Winograd's shared vocabulary: how result planes are cut into tiles, how transformed tiles lie in memory, and how the
// work is cut. What is computed stands in winograd_transform.h, and how in winograd.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "packed.h"

namespace convext {

// F(4 x 4, 3 x 3): tiles of 4 x 4 results from 6 x 6 inputs, through the products at 36 points.
inline constexpr int kWinogradKernel = 3, kWinogradTile = 4, kWinogradEdge = 6, kWinogradPoints = 36;
// Tiles of one row of tiles that are staged at a time: 58 columns of 6 rows and 16 floats are 22 KiB, half of L1.
inline constexpr int64_t kWinogradRun = 14;

// Smallest count of floats from n on that is an odd number of cache lines: rows so far apart start in different sets
// of the L1, where rows a power of two apart would evict each other.
inline int64_t odd_lines(int64_t n) {
  constexpr int64_t kLine = 16;
  const int64_t lines = divide_up(n, kLine);
  return (lines + 1 - lines % 2) * kLine;
}

// The result plane of every image in tiles, numbered over (image, row, column); the last ones overhang.
struct TileGrid {
  int64_t height = 0, width = 0;
  int64_t rows() const { return divide_up(height, kWinogradTile); }
  int64_t columns() const { return divide_up(width, kWinogradTile); }
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

// A block of transformed tiles, [part][point][tile][channel of the part].
struct TileBlock {
  int64_t part = 1;   // channels of a part
  int64_t row = 0;    // floats from a tile to the next,
  int64_t plane = 0;  // from a point to the next,
  int64_t parts = 0;
  TileBlock() = default;
  TileBlock(int64_t tiles, int64_t channels, int64_t part_, int64_t row_)
      : part(part_), row(row_), plane(odd_lines(tiles * row_)), parts(divide_up(channels, part_)) {}
  int64_t at(int64_t channel) const { return channel / part * kWinogradPoints * plane + channel % part; }
  int64_t elements() const { return parts * kWinogradPoints * plane; }
};

// Rows of an image under a run of tiles, for one vector of channels.
inline int64_t winograd_stage(int64_t lanes) {
  return kWinogradEdge * (kWinogradRun * kWinogradTile + kWinogradKernel - 1) * lanes;
}

// How fprop and dgrad are cut. None of it enters the arithmetic but `chunk`.
struct WinogradShape {
  bool deep = false;   // winograd.h
  int64_t tiles = 1;   // of a block
  int64_t panels = 1;  // of result channels, multiplied and transformed back at a time
  int64_t chunk = 1;   // source channels, in whole vectors, whose products are summed in registers
};

// Memory of a WinogradShape in floats.
struct WinogradSizes {
  TileBlock source;      // transformed tiles of the source, all channels of a group
  TileBlock product;     // their products with some panels of the weight
  int64_t weight_plane;  // from a point to the next in a panel of the transformed weight
  int64_t stage;
  int64_t taps;  // of the weight, for a vector of result channels and as many source channels

  WinogradSizes(const WinogradShape& shape, const Tile& tile, int64_t lanes, int64_t depth)
      : source(shape.tiles, depth, shape.chunk, shape.chunk),
        product(shape.tiles, shape.panels * tile.columns, shape.panels * tile.columns, shape.panels * tile.columns),
        weight_plane(odd_lines((shape.deep ? shape.chunk : depth) * tile.columns)),
        stage(winograd_stage(lanes)),
        taps((kWinogradKernel * kWinogradKernel + 1) * lanes * lanes) {}
  int64_t weight_panel() const { return kWinogradPoints * weight_plane; }
  // Of a worker: the deep form has a chunk of some panels of the weight; the other its own block of tiles.
  int64_t own(const WinogradShape& shape) const {
    return product.elements() + stage + taps + (shape.deep ? shape.panels * weight_panel() : source.elements());
  }
};

// An image that tiles are read from.
struct TiledImage {
  const float* data = nullptr;
  Strides strides;
  PaddingMode mode = PaddingMode::kZeros;  // of coordinates outside of it
  int64_t origin[2] = {};                  // coordinate of the first tile's first element
  int64_t extent[2] = {};                  // height and width
};

struct WinogradJob {
  const ConvJob* conv = nullptr;  // operands
  TileGrid grid;
  TiledImage image;
  WinogradShape shape;
  bool flipped = false;               // the taps are in descending order: dgrad
  float* weight = nullptr;            // transformed: (group, panel), each [point][source channel][tile.columns]
  float* source = nullptr;            // the deep form's block of tiles
  int64_t group = 0;                  // and what it holds: of which group,
  int64_t first_tile = 0, tiles = 0;  // which tiles

  int64_t all_tiles() const { return conv->problem->batch * grid.per_image(); }
  int64_t blocks() const { return divide_up(all_tiles(), shape.tiles); }
  int64_t weight_panels() const { return divide_up(conv->rows, conv->tile.columns); }
  int64_t passes() const { return divide_up(weight_panels(), shape.panels); }
};

// How wgrad is cut: all of it follows from the problem, batch included, and fixes the result's bits.
struct WinogradWgradShape {
  int64_t slices = 1;             // parts of the tiles that are summed apart
  int64_t tiles = 1;              // of a chunk: summed in registers
  int64_t rows = 1, columns = 1;  // result and source channels of a unit
};

// Memory of a worker in floats.
struct WinogradWgradSizes {
  TileBlock grad, source;  // transformed tiles of a chunk
  TileBlock sums;          // [point][result channel][source channel]
  int64_t stage, taps;

  WinogradWgradSizes(const WinogradWgradShape& shape, const Tile& tile, int64_t lanes)
      : grad(shape.tiles, shape.rows, shape.rows, odd_lines(shape.rows)),
        source(shape.tiles, shape.columns, tile.columns, tile.columns),
        sums(shape.rows, shape.columns, shape.columns, shape.columns),
        stage(winograd_stage(lanes)),
        taps(2 * kWinogradKernel * kWinogradKernel * lanes) {}
  int64_t elements() const { return grad.elements() + source.elements() + sums.elements() + stage + taps; }
};

struct WinogradWgradJob {
  const WgradJob* wgrad = nullptr;  // operands
  TileGrid grid;
  TiledImage grad, image;
  WinogradWgradShape shape;
  float* partial = nullptr;  // where there are several slices: a contiguous result for each

  int64_t all_tiles() const { return wgrad->problem->batch * grid.per_image(); }
  int64_t slice_tiles() const { return round_up(divide_up(all_tiles(), shape.slices), shape.tiles); }
  int64_t row_blocks() const { return divide_up(wgrad->problem->out_channels, shape.rows); }
  int64_t column_blocks() const { return divide_up(wgrad->problem->in_channels, shape.columns); }
  int64_t units() const { return shape.slices * wgrad->problem->groups * row_blocks() * column_blocks(); }
};

}  // namespace convext
