// Winograd's edges to the images: reading and writing tiles with channels along the vector. Include only from
// engine.inl.h.
//
//   stage[row][column] = one vector of channels of a pixel, of all rows and columns under a run of tiles
//
//        image, NCHW: rows of a channel                stage: 6 rows x (4 n + 2) columns for n tiles
//        c0 | p0 p1 p2 ...                             p0 | c0 c1 c2 ...
//        c1 | p0 p1 p2 ...     -- transposed -->       p1 | c0 c1 c2 ...
//
// channels_last pixels are vectors already and are copied. Layout, strides, padding, the overhang of the last tiles and
// channels beyond the last are all settled here: the transforms see full tiles of full vectors.
#pragma once

// One plane axis of a tiled source: which coordinate of the source a coordinate of the stage reads.
struct StageAxis {
  int64_t begin;   // coordinate in the padded source that stage coordinate 0 reads
  int64_t reach;   // first stage coordinate that no result needs
  int64_t extent;  // of the source
  PaddingMode mode;
  // -1 for a zero.
  int64_t source(int64_t i) const { return i < reach ? padded_source(mode, begin + i, extent) : -1; }
  // First stage coordinate from `count` or fewer whose source coordinate is at least x.
  int64_t at(int64_t x, int64_t count) const { return std::clamp<int64_t>(x - begin, 0, count); }
};

// The first `count` lanes from p on, reading nothing beyond them.
template <class A>
inline Vector<A> load_first(const A* p, int64_t count) {
  if (count == kLanes<A>) return load(p);
  A part[kLanes<A>] = {};
  copy_fewer<kLanes<A>>(part, p, count);
  return load(part);
}

// Writes the first `count` lanes of a vector.
template <class A>
inline void store_first(A* p, Vector<A> v, int64_t count) {
  if (count == kLanes<A>) return store(p, v);
  A part[kLanes<A>];
  store(part, v);
  copy_fewer<kLanes<A>>(p, part, count);
}

// Fills rows x columns pixels of a stage with `channels` channels (at most a vector) that start at `from`.
template <class A>
inline void load_stage(const A* from, const Strides& strides, int64_t channels, const StageAxis& y, const StageAxis& x,
                       int64_t rows, int64_t columns, A* stage) {
  constexpr int W = kLanes<A>;
  const int64_t step = strides.axis[2], inside = x.at(0, columns), outside = x.at(x.extent, columns);
  const auto zero = [](A* to) { store(to, Vector<A>{}); };
  const auto pixel = [&](const A* p, A* to) {
    if (strides.channel == 1) return store(to, load_first(p, channels));
    zero(to);
    for (int64_t c = 0; c < channels; ++c) to[c] = p[c * strides.channel];
  };
  for (int64_t i = 0; i < rows; ++i, stage += columns * W) {
    const int64_t row = y.source(i);
    if (row < 0) {
      for (int64_t j = 0; j < columns; ++j) zero(stage + j * W);
      continue;
    }
    const A* line = from + row * strides.axis[1];
    const auto edge = [&](int64_t j) {
      const int64_t column = x.source(j);
      if (column < 0) return zero(stage + j * W);
      pixel(line + column * step, stage + j * W);
    };
    for (int64_t j = 0; j < inside; ++j) edge(j);
    const int64_t end = std::clamp(x.reach, inside, outside);
    for (int64_t j = end; j < columns; ++j) edge(j);
    if (step != 1) {
      for (int64_t j = inside; j < end; ++j) pixel(line + (x.begin + j) * step, stage + j * W);
      continue;
    }
    for (int64_t j = inside; j < end; j += W) {
      if (end - inside >= W) j = std::min(j, end - W);  // the last block overlaps the one before it
      const int64_t count = std::min<int64_t>(W, end - j);
      Vector<A> v[W];
#pragma GCC unroll 16
      for (int c = 0; c < W; ++c)
        v[c] = c < channels ? load_first(line + c * strides.channel + x.begin + j, count) : Vector<A>{};
      transpose_square<A>(v);
      if (count == W) {
#pragma GCC unroll 16
        for (int p = 0; p < W; ++p) store(stage + (j + p) * W, v[p]);
      } else {
        for (int64_t p = 0; p < count; ++p) store(stage + (j + p) * W, v[p]);
      }
    }
  }
}

// Writes rows x columns pixels of a stage whose rows are `pitch` pixels long. finish(sums, to, step, count) makes the
// results from to[0] on, `step` apart, of a vector of which the first `count` lanes count.
template <class A, class Finish>
inline void store_stage(A* to, const Strides& strides, int64_t channels, int64_t rows, int64_t columns, int64_t pitch,
                        const A* stage, Finish finish) {
  constexpr int W = kLanes<A>;
  const int64_t step = strides.axis[2];
  for (int64_t i = 0; i < rows; ++i, stage += pitch * W, to += strides.axis[1]) {
    if (step != 1) {  // channels_last, and odd strides
      for (int64_t j = 0; j < columns; ++j) {
        const Vector<A> v = finish(load(stage + j * W), to + j * step, strides.channel, channels);
        if (strides.channel == 1) {
          store_first(to + j * step, v, channels);
        } else {
          for (int64_t c = 0; c < channels; ++c) to[j * step + c * strides.channel] = v[c];
        }
      }
      continue;
    }
    for (int64_t j = 0; j < columns; j += W) {
      if (columns >= W) j = std::min(j, columns - W);  // the last block overlaps the one before it
      const int64_t count = std::min<int64_t>(W, columns - j);
      Vector<A> v[W];
#pragma GCC unroll 16
      for (int p = 0; p < W; ++p) v[p] = load(stage + (j + std::min<int64_t>(p, count - 1)) * W);
      transpose_square<A>(v);
      for (int c = 0; c < channels; ++c) {
        A* line = to + c * strides.channel + j;
        store_first(line, finish(v[c], line, int64_t{1}, count), count);
      }
    }
  }
}

// The source's vector of channels from `channel` on, of which `channels` are left, of `tiles` tiles from `first` on:
// BT d B, to a block of tiles.
template <class A>
inline void transform_tiles(const TiledImage& image, const TileGrid& grid, int64_t first, int64_t tiles,
                            int64_t channel, int64_t channels, A* stage, A* to, const TileBlock& block) {
  constexpr int W = kLanes<A>, kTile = kWinogradTile, kEdge = kWinogradEdge;
  for_each_run(grid, first, tiles, [&](const TileRun& run) {
    const StageAxis y{image.origin[0] + run.row * kTile, grid.height + 2 - run.row * kTile, image.extent[0],
                      image.mode};
    const StageAxis x{image.origin[1] + run.column * kTile, grid.width + 2 - run.column * kTile, image.extent[1],
                      image.mode};
    const int64_t columns = run.count * kTile + kWinogradKernel - 1;
    load_stage(image.data + run.image * image.strides.outer + channel * image.strides.channel, image.strides,
               std::clamp<int64_t>(channels, 0, W), y, x, kEdge, columns, stage);
    for (int64_t t = 0; t < run.count; ++t) {
      const A* tile = stage + t * kTile * W;
      A* v = to + (run.first + t) * block.row;
      transform_plane<kEdge, kEdge, Vector<A>>(
          [](const auto& d, auto& points) { Winograd::image(d, points); },
          [&](int i, int j) { return load(tile + (i * columns + j) * W); },
          [&](int i, int j, Vector<A> p) { store(v + (i * kEdge + j) * block.plane, p); });
    }
  });
}

// The same of a gradient of the result, whose tiles do not overlap: A dY AT.
template <class A>
inline void transform_grad_tiles(const TiledImage& grad, const TileGrid& grid, int64_t first, int64_t tiles,
                                 int64_t channel, int64_t channels, A* stage, A* to, const TileBlock& block) {
  constexpr int W = kLanes<A>, kTile = kWinogradTile, kEdge = kWinogradEdge;
  for_each_run(grid, first, tiles, [&](const TileRun& run) {
    const StageAxis y{run.row * kTile, grid.height - run.row * kTile, grid.height, PaddingMode::kZeros};
    const StageAxis x{run.column * kTile, grid.width - run.column * kTile, grid.width, PaddingMode::kZeros};
    const int64_t columns = run.count * kTile;
    load_stage(grad.data + run.image * grad.strides.outer + channel * grad.strides.channel, grad.strides,
               std::clamp<int64_t>(channels, 0, W), y, x, kTile, columns, stage);
    for (int64_t t = 0; t < run.count; ++t) {
      const A* tile = stage + t * kTile * W;
      A* v = to + (run.first + t) * block.row;
      transform_plane<kTile, kEdge, Vector<A>>(
          [](const auto& d, auto& points) { Winograd::result_adjoint(d, points); },
          [&](int i, int j) { return load(tile + (i * columns + j) * W); },
          [&](int i, int j, Vector<A> p) { store(v + (i * kEdge + j) * block.plane, p); });
    }
  });
}
