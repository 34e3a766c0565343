// Winograd's shared vocabulary: how result planes are cut into tiles, how transformed tiles lie in memory, and how the
// work is cut. What is computed stands in winograd_transform.h, and how in winograd.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "packed.h"

namespace convext {

// F(4 x 4, 3 x 3) and F(2 x 2, 5 x 5): tiles of results from 6 x 6 inputs, through the products at 36 points.
inline constexpr int kWinogradEdge = 6, kWinogradPoints = 36;
// Columns of inputs of one row of tiles that are staged at a time: 60 columns of 6 rows and 64 bytes are 22 KiB, half
// of L1.
inline constexpr int64_t kWinogradStageColumns = 60;

constexpr int winograd_tile(int64_t kernel) { return static_cast<int>(kWinogradEdge + 1 - kernel); }

// Smallest count of elements from n on that is an odd number of cache lines: rows so far apart start in different sets
// of the L1, where rows a power of two apart would evict each other. (Of doubles, an odd number of pairs of lines.)
inline int64_t odd_lines(int64_t n) {
  constexpr int64_t kLine = 16;
  const int64_t lines = divide_up(n, kLine);
  return (lines + 1 - lines % 2) * kLine;
}

// The result planes of every image in tiles, numbered over (image, row, column); the last ones overhang. Where the
// kernel has no depth, the slices of a volume are images.
//
// A dilated convolution is dy * dx undilated ones, of the pixels that lie dy and dx apart: a tile is made of such.
// Tiles that interleave are neighbours, so that dx of them cover pixels that are contiguous in memory:
//
//   dilation 2:   | a b a b a b a b | c d c d c d c d |     columns of four tiles of 4 x 4, in the order a, b, c, d
struct TileGrid {
  int64_t tile = 1;  // edge
  int64_t height = 0, width = 0;
  int64_t images = 0;
  int64_t slices = 1;        // of an image,
  int64_t image_slices = 1;  // and images of a sample: one of the two is one
  int64_t dy = 1, dx = 1;    // dilation
  // The interleaved tiles of a row are all there, so that runs of tiles are whole groups of dx; rows that would begin
  // below the image are not.
  int64_t rows() const { return height / (tile * dy) * dy + std::min(dy, height % (tile * dy)); }
  int64_t columns() const { return divide_up(width, tile * dx) * dx; }
  // First pixel row of a row of tiles, and first pixel column of a group of dx tiles.
  int64_t top(int64_t row) const { return row / dy * tile * dy + row % dy; }
  int64_t left(int64_t column) const { return column * tile; }
  // Most tiles of a run: with the inputs beyond them they fill a stage.
  int64_t most_in_run() const { return (kWinogradStageColumns / dx - (kWinogradEdge - tile)) / tile * dx; }
  int64_t per_image() const { return rows() * columns(); }
  int64_t tiles() const { return images * per_image(); }
};

// Tiles [first, first + tiles) of slices [first_slice, first_slice + slices).
struct TileBox {
  int64_t first = 0, tiles = 0, first_slice = 0, slices = 1;
  int64_t count() const { return tiles * slices; }
};

// Neighbouring tiles of one row of tiles of a slice; `first` is their place in the box that they belong to.
struct TileRun {
  int64_t first, image, slice, row, column, count;
};

// Calls visit(run) for the runs that make up a box of a grid, slice by slice.
template <class Visit>
inline void for_each_run(const TileGrid& grid, const TileBox& box, Visit visit) {
  const int64_t rows = grid.rows(), columns = grid.columns(), most = grid.most_in_run();
  for (int64_t slice = 0; slice < box.slices; ++slice) {
    TileRun run{slice * box.tiles,          box.first / (rows * columns), box.first_slice + slice,
                box.first / columns % rows, box.first % columns,          0};
    for (const int64_t end = run.first + box.tiles; run.first < end;) {
      run.count = std::min({columns - run.column, end - run.first, most});
      visit(run);
      run.first += run.count;
      run.column += run.count;
      if (run.column < columns) continue;
      run.column = 0;
      if (++run.row == rows) run.row = 0, ++run.image;
    }
  }
}

// A block of transformed tiles, [part][point][tile][channel of the part].
struct TileBlock {
  int64_t part = 1;   // channels of a part
  int64_t row = 0;    // elements from a tile to the next,
  int64_t plane = 0;  // from a point to the next,
  int64_t parts = 0;
  TileBlock() = default;
  TileBlock(int64_t tiles, int64_t channels, int64_t part_, int64_t row_)
      : part(part_), row(row_), plane(odd_lines(tiles * row_)), parts(divide_up(channels, part_)) {}
  int64_t at(int64_t channel) const { return channel / part * kWinogradPoints * plane + channel % part; }
  int64_t elements() const { return parts * kWinogradPoints * plane; }
};

// Rows of an image under a run of tiles, for one vector of channels.
inline int64_t winograd_stage(int64_t lanes) { return kWinogradEdge * kWinogradStageColumns * lanes; }

// How fprop and dgrad are cut. None of it enters the arithmetic but `chunk` and `summed_taps`.
struct WinogradShape {
  int64_t tile_parts = 1;   // that (group, block) are cut into, and each of them
  int64_t part_panels = 1;  // by panels of result channels, at most so many
  bool deep = false;        // winograd.h
  int64_t tiles = 1;        // of a block,
  int64_t slices = 1;       // in each of so many slices
  int64_t panels = 1;       // of a part's, multiplied and transformed back at a time
  int64_t chunk = 1;        // source channels, in whole vectors, and
  int64_t summed_taps = 1;  // depth taps, whose products are summed in registers
};

// Memory of a WinogradShape in elements of the sum type.
struct WinogradSizes {
  TileBlock source;      // transformed tiles of the source, all channels of a group
  TileBlock product;     // their products with some panels of the weight
  int64_t weight_plane;  // from a point to the next in a panel of the transformed weight
  int64_t stage;
  int64_t taps;  // of the weight, for a vector of result channels and as many source channels

  WinogradSizes(const WinogradShape& shape, const Tile& tile, int64_t lanes, int64_t depth, int64_t depth_taps,
                int64_t kernel)
      : source(shape.tiles * (shape.slices + depth_taps - 1), depth, shape.chunk, shape.chunk),
        product(shape.tiles * shape.slices, shape.panels * tile.columns, shape.panels * tile.columns,
                shape.panels * tile.columns),
        weight_plane(odd_lines((shape.deep ? shape.summed_taps * shape.chunk : depth_taps * depth) * tile.columns)),
        stage(winograd_stage(lanes)),
        taps((kernel * kernel + 1) * lanes * lanes) {}
  int64_t weight_panel() const { return kWinogradPoints * weight_plane; }
  // Of a part's weight the deep form keeps a chunk of the panels that it multiplies, the other all.
  int64_t weight(const WinogradShape& shape) const {
    return (shape.deep ? shape.panels : shape.part_panels) * weight_panel();
  }
  int64_t elements(const WinogradShape& shape) const {
    return product.elements() + stage + taps + source.elements() + weight(shape);
  }
};

// An image that tiles are read from.
struct TiledImage {
  const void* data = nullptr;
  Strides strides;
  PaddingMode mode = PaddingMode::kZeros;  // of coordinates outside of it
  int64_t origin[kSpatialAxes] = {};       // coordinate of the first slice and of the first tile's first element
  int64_t extent[kSpatialAxes] = {};
};

struct WinogradJob {
  const ConvJob* conv = nullptr;  // operands
  TileGrid grid;
  TiledImage image;
  int64_t depth_taps = 1;
  WinogradShape shape;
  bool flipped = false;  // the taps are in descending order: dgrad

  int64_t slice_blocks() const { return divide_up(grid.slices, shape.slices); }
  int64_t blocks() const { return divide_up(grid.tiles(), shape.tiles) * slice_blocks(); }
  TileBox box(int64_t index) const {
    const int64_t first = index / slice_blocks() * shape.tiles, first_slice = index % slice_blocks() * shape.slices;
    return {first, std::min(shape.tiles, grid.tiles() - first), first_slice,
            std::min(shape.slices, grid.slices - first_slice)};
  }
  int64_t weight_panels() const { return divide_up(conv->rows, conv->tile.columns); }
  int64_t panel_parts() const { return divide_up(weight_panels(), shape.part_panels); }
  int64_t parts() const { return shape.tile_parts * panel_parts(); }
};

// How wgrad is cut: all of it follows from the problem, batch included, and fixes the result's bits.
struct WinogradWgradShape {
  int64_t slices = 1;             // parts of the tiles that are summed apart
  int64_t tiles = 1;              // of a chunk: summed in registers
  int64_t rows = 1, columns = 1;  // result and source channels of a unit
};

// Memory of a worker in elements of the sum type.
struct WinogradWgradSizes {
  TileBlock grad, source;  // transformed tiles of a chunk
  TileBlock sums;          // [point][result channel][source channel]
  int64_t stage, taps;

  WinogradWgradSizes(const WinogradWgradShape& shape, const Tile& tile, int64_t lanes, int64_t kernel)
      : grad(shape.tiles, shape.rows, shape.rows, odd_lines(shape.rows)),
        source(shape.tiles, shape.columns, tile.columns, tile.columns),
        sums(shape.rows, shape.columns, shape.columns, shape.columns),
        stage(winograd_stage(lanes)),
        taps(2 * kernel * kernel * lanes) {}
  int64_t elements() const { return grad.elements() + source.elements() + sums.elements() + stage + taps; }
};

// The slices of a volume are images here: a tap along the depth is a problem of its own, over slices that it shifts.
struct WinogradWgradJob {
  const WgradJob* wgrad = nullptr;  // operands
  TileGrid grid;
  TiledImage grad, image;
  int64_t depth_taps = 1;
  WinogradWgradShape shape;
  void* partial = nullptr;  // where there are several slices: [slice][depth tap][result channel][source channel][tap]

  int64_t slice_tiles() const { return round_up(divide_up(grid.tiles(), shape.slices), shape.tiles); }
  int64_t row_blocks() const { return divide_up(wgrad->problem->out_channels, shape.rows); }
  int64_t column_blocks() const { return divide_up(wgrad->problem->in_channels, shape.columns); }
  int64_t units() const { return shape.slices * depth_taps * wgrad->problem->groups * row_blocks() * column_blocks(); }
};

}  // namespace convext
