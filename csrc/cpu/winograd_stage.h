// Winograd's edges to the images: reading and writing tiles with channels along the vector. Include only from
// engine.inl.h.
//
//   stage[row][column] = one vector of channels of a pixel, of all rows and columns under a run of tiles
//
//        image, NCHW: rows of a channel                stage: 6 rows x (4 n + 2) columns for n tiles (3 x 3 taps)
//        c0 | p0 p1 p2 ...                             p0 | c0 c1 c2 ...
//        c1 | p0 p1 p2 ...     -- transposed -->       p1 | c0 c1 c2 ...
//
// channels_last pixels are vectors already and are copied. Layout, strides, padding, the overhang of the last tiles,
// channels beyond the last and the element type (T; A is what is computed with) are all settled here: the transforms
// see full tiles of full vectors.
#pragma once

// One plane axis of a tiled source: which coordinate of the source a coordinate of the stage reads.
struct StageAxis {
  int64_t begin;   // coordinate in the padded source that stage coordinate 0 reads
  int64_t step;    // between what stage coordinates read
  int64_t reach;   // first stage coordinate that no result needs
  int64_t extent;  // of the source
  PaddingMode mode;
  // -1 for a zero.
  int64_t source(int64_t i) const { return i < reach ? padded_source(mode, begin + i * step, extent) : -1; }
  // First stage coordinate from `count` or fewer whose source coordinate is at least x, of an axis of step one.
  int64_t at(int64_t x, int64_t count) const { return std::clamp<int64_t>(x - begin, 0, count); }
};

// Fills rows x columns pixels of a stage with `channels` channels (at most a vector) that start at `from`.
template <class T, class A>
inline void load_stage(const T* from, const Strides& strides, int64_t channels, const StageAxis& y, const StageAxis& x,
                       int64_t rows, int64_t columns, A* stage) {
  constexpr int W = kLanes<A>;
  const int64_t step = strides.axis[2], inside = x.at(0, columns), outside = x.at(x.extent, columns);
  const auto zero = [](A* to) { store(to, Vector<A>{}); };
  const auto pixel = [&](const T* p, A* to) {
    if (strides.channel == 1) return store(to, load_first<A>(p, channels));
    zero(to);
    for (int64_t c = 0; c < channels; ++c) to[c] = widen(p[c * strides.channel]);
  };
  for (int64_t i = 0; i < rows; ++i, stage += columns * W) {
    const int64_t row = y.source(i);
    if (row < 0) {
      for (int64_t j = 0; j < columns; ++j) zero(stage + j * W);
      continue;
    }
    const T* line = from + row * strides.axis[1];
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
        v[c] = c < channels ? load_first<A>(line + c * strides.channel + x.begin + j, count) : Vector<A>{};
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
template <class T, class A, class Finish>
inline void store_stage(T* to, const Strides& strides, int64_t channels, int64_t rows, int64_t columns, int64_t pitch,
                        const A* stage, Finish finish) {
  constexpr int W = kLanes<A>;
  const int64_t step = strides.axis[2];
  for (int64_t i = 0; i < rows; ++i, stage += pitch * W, to += strides.axis[1]) {
    if (step != 1) {  // channels_last, and odd strides
      for (int64_t j = 0; j < columns; ++j) {
        const Vector<A> v = finish(load(stage + j * W), to + j * step, strides.channel, channels);
        if (strides.channel == 1) {
          store_first<A>(to + j * step, v, channels);
        } else {
          for (int64_t c = 0; c < channels; ++c) to[j * step + c * strides.channel] = Narrow<T>::from(v[c]);
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
        T* line = to + c * strides.channel + j;
        store_first<A>(line, finish(v[c], line, int64_t{1}, count), count);
      }
    }
  }
}

// One vector of channels from `first` on, of which `left` are left, of the tiles of a box.
struct TileChannels {
  const TileGrid& grid;
  const TileBox& box;
  int64_t first, left;
};

// Their transform: rows of kIn inputs, kStep of which are a tile's own, to a block. Slices outside of the image are
// zeros.
template <class T, class A, int kIn, int kStep, class Transform>
inline void transform_box(const TiledImage& image, const TileChannels& channels, A* stage, A* to,
                          const TileBlock& block, Transform transform) {
  constexpr int W = kLanes<A>, kEdge = kWinogradEdge;
  const int64_t beyond = kIn - kStep;
  const TileGrid& grid = channels.grid;
  for_each_run(grid, channels.box, [&](const TileRun& run) {
    const int64_t z = run.image % grid.image_slices + run.slice + image.origin[0];
    const int64_t slice = padded_source(image.mode, z, image.extent[0]);
    A* v = to + run.first * block.row;
    if (slice < 0) {
      for (int point = 0; point < kEdge * kEdge; ++point)
        for (int64_t t = 0; t < run.count; ++t) store(v + point * block.plane + t * block.row, Vector<A>{});
      return;
    }
    // Rows are staged dy apart; columns as they lie, those of dx interleaved tiles side by side.
    const int64_t top = grid.top(run.row), left = grid.left(run.column), dx = grid.dx;
    const StageAxis y{image.origin[1] + top, grid.dy, divide_up(grid.height - top, grid.dy) + beyond, image.extent[1],
                      image.mode};
    const StageAxis x{image.origin[2] + left, 1, grid.width - left + beyond * dx, image.extent[2], image.mode};
    const int64_t columns = run.count * kStep + beyond * dx;
    const T* from = static_cast<const T*>(image.data) + run.image / grid.image_slices * image.strides.outer +
                    slice * image.strides.axis[0] + channels.first * image.strides.channel;
    load_stage<T, A>(from, image.strides, std::clamp<int64_t>(channels.left, 0, W), y, x, kIn, columns, stage);
    for (int64_t group = 0; group < run.count; group += dx)
      for (int64_t t = 0; t < dx; ++t, v += block.row) {
        const A* tile = stage + (group * kStep + t) * W;
        transform_plane<kIn, kEdge, Vector<A>>(
            transform, [&](int i, int j) { return load(tile + (i * columns + j * dx) * W); },
            [&](int i, int j, Vector<A> p) { store(v + (i * kEdge + j) * block.plane, p); });
      }
  });
}

// Of the source: BT d B.
template <class T, class A, int kKernel>
inline void transform_source_tiles(const TiledImage& image, const TileChannels& channels, A* stage, A* to,
                                   const TileBlock& block) {
  using Transforms = Winograd<A, kKernel>;
  transform_box<T, A, kWinogradEdge, Transforms::kTile>(image, channels, stage, to, block,
                                                        [](const auto& d, auto& v) { Transforms::image(d, v); });
}

// Of a gradient of the result, whose tiles do not overlap: A dY AT.
template <class T, class A, int kKernel>
inline void transform_grad_tiles(const TiledImage& grad, const TileChannels& channels, A* stage, A* to,
                                 const TileBlock& block) {
  using Transforms = Winograd<A, kKernel>;
  transform_box<T, A, Transforms::kTile, Transforms::kTile>(
      grad, channels, stage, to, block, [](const auto& y, auto& m) { Transforms::result_adjoint(y, m); });
}
