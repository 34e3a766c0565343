// Winograd's fprop and dgrad. Include only from engine.inl.h.
//
//   image --stage, BT d B--> source [36][tile][C]                          weight --G g GT--> panel [36][C][NR]
//                                 \                                          /
//                                  36 products [tile][C] x [C][NR], for each point of the transform
//                                                     |
//                            product [36][tile][NR] --AT m A, bias, stage--> result
//
// A worker's part is a range of (group, block of tiles) times a range of panels, and it transforms what it multiplies
// itself. Parts share nothing that one writes and another reads: what a core has just written another gets at 7 GB/s,
// at 2 if they share no cache (576 KiB, written by halves and read whole by both: 47 and 172 us, 8 where each reads its
// own half), and transforms make it at 40. The ranges are cut so that little is transformed twice, by tiles or by
// panels or by both (winograd_plan.cpp).
//
//              panels ->                    three workers by panels: the source is transformed three times, the weight
//     blocks   +-------+-------+-------+    once; three by blocks: the other way round; four by two and two: both twice
//     of tiles | part  | part  | part  |
//       |      |   0   |   1   |   2   |
//       v      +-------+-------+-------+
//
// A part transforms the source of a block at a time. Of its weight it transforms
//
//   shallow   all panels before the first block: for what stays in the caches from block to block;
//   deep      for each block, chunks into L2, which it multiplies at once: the transformed weight, four times the
//             weight, never goes to memory.
//
// A kernel with a depth adds its taps to the reduction. A block then has the same tiles in several slices, and the
// source those of the slices beyond, each transformed once: tap z of slice s reads the tiles of slice s + z, so that
// the tiles of all slices under a tap are neighbours, [slice][tile], and one product takes them all.
//
// A sum over channels and depth taps is: chunks (their size follows from the source's channels and the depth taps)
// summed from zero in registers, tap by tap, then added in ascending order. A tile's arithmetic knows nothing of its
// block.
#pragma once

template <class T, class A, int kKernel>
class WinogradConv {
  static constexpr int W = kLanes<A>;
  using Transforms = Winograd<A, kKernel>;
  static constexpr int kTile = Transforms::kTile, kEdge = kWinogradEdge;
  static constexpr int64_t kColumns = kTileColumns<A>;

 public:
  WinogradConv(const WinogradJob& job, void* workspace)
      : job_(job),
        conv_(*job.conv),
        epilogue_(conv_),
        sizes_(job.shape, conv_.tile, W, conv_.depth, job.depth_taps, kKernel),
        product_(static_cast<A*>(workspace)),
        stage_(product_ + sizes_.product.elements()),
        taps_(stage_ + sizes_.stage),
        source_(taps_ + sizes_.taps),
        panels_(source_ + sizes_.source.elements()),
        weight_(job, taps_) {}

  // Part `index`, counted over (tile part, panel part).
  void run_part(int64_t index) {
    const int64_t tile_part = index / job_.panel_parts(), panel_part = index % job_.panel_parts();
    const int64_t begin = panel_part * job_.shape.part_panels;
    const PanelRange part{begin, std::min(begin + job_.shape.part_panels, job_.weight_panels())};
    const int64_t blocks = conv_.problem->groups * job_.blocks();
    int64_t kept = -1;  // the group whose weight a shallow part holds
    for (int64_t i = tile_part * blocks / job_.shape.tile_parts; i < (tile_part + 1) * blocks / job_.shape.tile_parts;
         ++i) {
      const int64_t group = i / job_.blocks();
      if (!job_.shape.deep && group != kept) transform_weight(group, part);
      kept = group;
      run_block(group, job_.box(i % job_.blocks()), part);
    }
  }

 private:
  struct PanelRange {
    int64_t begin, end;
  };

  int64_t chunk(int64_t c) const { return std::min(job_.shape.chunk, conv_.depth - c); }
  int64_t summed_taps(int64_t z) const { return std::min(job_.shape.summed_taps, job_.depth_taps - z); }

  // Calls visit(c, z) for the chunks of channels under the depth taps from z on, in the order in which they are added.
  template <class Visit>
  void for_each_chunk(Visit visit) const {
    for (int64_t c = 0; c < conv_.depth; c += job_.shape.chunk)
      for (int64_t z = 0; z < job_.depth_taps; z += job_.shape.summed_taps) visit(c, z);
  }

  // Shallow: the panels of a part.
  void transform_weight(int64_t group, const PanelRange& part) {
    A* to = panels_;
    for (int64_t p = part.begin; p < part.end; ++p, to += sizes_.weight_panel())
      for (int64_t z = 0; z < job_.depth_taps; ++z)
        weight_.transform(group, p, z, 0, conv_.depth, to + z * conv_.depth * kColumns, sizes_.weight_plane);
  }

  void run_block(int64_t group, const TileBox& box, const PanelRange& part) {
    for (int64_t c = 0; c < conv_.depth; c += W) transform_source(group, box, c);
    for (int64_t p = part.begin; p < part.end; p += job_.shape.panels) {
      const PanelRange pass{p, std::min(p + job_.shape.panels, part.end)};
      for_each_chunk([&](int64_t c, int64_t z) {
        if (job_.shape.deep) return multiply(pass, box, c, z, transform_chunk(group, pass, c, z), chunk(c) * kColumns);
        const A* weight = panels_ + (p - part.begin) * sizes_.weight_panel() + (z * conv_.depth + c) * kColumns;
        multiply(pass, box, c, z, weight, conv_.depth * kColumns);
      });
      transform_result(group, box, pass);
    }
  }

  // Channels [channel, channel + W) of a box, and of the slices after it that its depth taps read.
  void transform_source(int64_t group, TileBox box, int64_t channel) {
    box.slices += job_.depth_taps - 1;
    transform_source_tiles<T, A, kKernel>(job_.image,
                                          {job_.grid, box, group * conv_.depth + channel, conv_.depth - channel},
                                          stage_, source_ + sizes_.source.at(channel), sizes_.source);
  }

  // Deep: the chunk of channels from c on under taps from z on, of each of the panels.
  const A* transform_chunk(int64_t group, const PanelRange& pass, int64_t c, int64_t z) {
    A* to = panels_;
    for (int64_t p = pass.begin; p < pass.end; ++p, to += sizes_.weight_panel())
      for (int64_t i = 0; i < summed_taps(z); ++i)
        weight_.transform(group, p, z + i, c, chunk(c), to + i * chunk(c) * kColumns, sizes_.weight_plane);
    return panels_;
  }

  // Adds to product_ the products over the chunk of channels from c on under taps from z on, where the pass's panels of
  // the weight hold it, a tap weight_tap_step behind the one before.
  void multiply(const PanelRange& pass, const TileBox& box, int64_t c, int64_t z, const A* weight,
                int64_t weight_tap_step) {
    const int64_t source_tap_step = box.tiles * sizes_.source.row;
    const A* source = source_ + sizes_.source.at(c) + z * source_tap_step;
    for (int point = 0; point < kEdge * kEdge; ++point)
      for (int64_t p = pass.begin; p < pass.end; ++p)
        multiply_all<A, false>(box.count(), conv_.rows - p * kColumns,
                               {chunk(c), source + point * sizes_.source.plane, sizes_.source.row,
                                weight + (p - pass.begin) * sizes_.weight_panel() + point * sizes_.weight_plane,
                                kColumns, product_ + point * sizes_.product.plane + (p - pass.begin) * kColumns,
                                sizes_.product.row, c > 0 || z > 0, summed_taps(z), source_tap_step, weight_tap_step});
  }

  // The results of a pass's channels.
  void transform_result(int64_t group, const TileBox& box, const PanelRange& pass) {
    if (epilogue_.is_bias())
      return write_result(group, box, pass, [](Vector<A> sum, const T*, int64_t, int64_t) { return sum; });
    write_finished(group, box, pass);
  }
  [[gnu::noinline]] void write_finished(int64_t group, const TileBox& box, const PanelRange& pass) {
    epilogue_.with_activation([&](auto activate) {
      write_result(group, box, pass, [&](Vector<A> sum, const T* to, int64_t step, int64_t n) {
        return activate(epilogue_.add_residual(sum, to, step, n));
      });
    });
  }

  template <class Finish>
  void write_result(int64_t group, const TileBox& box, const PanelRange& pass, Finish finish) {
    const int64_t begin = pass.begin * kColumns, end = std::min(pass.end * kColumns, conv_.rows);
    const Strides& s = conv_.result_strides;
    Strides step = s;  // between the pixels of a stage
    step.axis[1] *= job_.grid.dy;
    for (int64_t k = begin; k < end; k += W) {
      Vector<A> bias = {};
      if (conv_.epilogue.bias)
        bias = load(static_cast<const A*>(conv_.packed_bias) + group * conv_.bias_channels() + k);
      for_each_run(job_.grid, box, [&](const TileRun& run) {
        const int64_t pitch = run.count * kTile, dx = job_.grid.dx, dy = job_.grid.dy;
        const A* from = product_ + run.first * sizes_.product.row + k - begin;
        for (int64_t g = 0; g < run.count; g += dx)
          for (int64_t t = 0; t < dx; ++t, from += sizes_.product.row) {
            A* tile = stage_ + (g * kTile + t) * W;
            transform_plane<kEdge, kTile, Vector<A>>(
                [](const auto& m, auto& y) { Transforms::result(m, y); },
                [&](int i, int j) { return load(from + (i * kEdge + j) * sizes_.product.plane); },
                [&](int i, int j, Vector<A> y) { store(tile + (i * pitch + j * dx) * W, y + bias); });
          }
        const int64_t y = job_.grid.top(run.row), x = job_.grid.left(run.column);
        const int64_t image = run.image / job_.grid.image_slices;
        const int64_t slice = run.image % job_.grid.image_slices + run.slice;
        T* to = static_cast<T*>(conv_.result) + image * s.outer + (group * conv_.rows + k) * s.channel +
                slice * s.axis[0] + y * s.axis[1] + x * s.axis[2];
        store_stage(to, step, std::min<int64_t>(W, end - k),
                    std::min<int64_t>(kTile, divide_up(job_.grid.height - y, dy)), std::min(pitch, job_.grid.width - x),
                    pitch, stage_, finish);
      });
    }
  }

  const WinogradJob& job_;
  const ConvJob& conv_;
  const EpilogueOf<T, A> epilogue_;
  const WinogradSizes sizes_;
  A* product_;
  A* stage_;
  A* taps_;
  A* source_;
  A* panels_;  // of the transformed weight: shallow all of the part, deep a chunk of a pass
  WinogradWeight<T, A, kKernel> weight_;
};
