// Winograd's fprop and dgrad. Include only from engine.inl.h.
//
//   image --stage, BT d B--> source [36][tile][C]                          weight --G g GT--> panel [36][C][NR]
//                                 \                                          /
//                                  36 products [tile][C] x [C][NR], for each point of the transform
//                                                     |
//                            product [36][tile][NR] --AT m A, bias, stage--> result
//
// Two ways to cut the same work:
//
//   shallow   transform the whole weight, shared; then for each block of tiles, in parallel: transform its source,
//             which stays in L2, and for each pass of panels: multiply, transform back. For weights that the caches
//             hold.
//   deep      for each block of tiles (large: V of all threads together): transform the source, shared, in parallel
//             over channels; then for each pass of panels, in parallel: for each chunk transform the weight into L2 and
//             multiply; transform back. The transformed weight, four times the weight, never goes to memory.
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
        own_(taps_ + sizes_.taps),
        weight_(job, taps_) {}

  // Shallow: the weight's panel `index`, counted over (group, panel).
  void transform_weight(int64_t index) {
    const int64_t panels = job_.weight_panels();
    A* to = static_cast<A*>(job_.weight) + index * sizes_.weight_panel();
    for (int64_t z = 0; z < job_.depth_taps; ++z, to += conv_.depth * kColumns)
      weight_.transform(index / panels, index % panels, z, 0, conv_.depth, to, sizes_.weight_plane);
  }

  // Shallow: block `index` of tiles, counted over (group, block).
  void run_block(int64_t index) {
    const int64_t group = index / job_.blocks();
    const TileBox box = job_.box(index % job_.blocks());
    for (int64_t c = 0; c < conv_.depth; c += W) transform_source(group, box, c, own_);
    for (int64_t pass = 0; pass < job_.passes(); ++pass) {
      const int64_t panel = group * job_.weight_panels() + pass * job_.shape.panels;
      const A* weight = static_cast<const A*>(job_.weight) + panel * sizes_.weight_panel();
      for_each_chunk([&](int64_t c, int64_t z) {
        multiply(pass, box, c, z, own_, weight + (z * conv_.depth + c) * kColumns, conv_.depth * kColumns);
      });
      transform_result(group, box, pass);
    }
  }

  // Deep: vector `index` of the source's channels of the job's block.
  void transform_channels(int64_t index) {
    transform_source(job_.group, job_.box(job_.block), index * W, static_cast<A*>(job_.source));
  }

  // Deep: the job's block times pass `pass` of panels.
  void run_pass(int64_t pass) {
    const TileBox box = job_.box(job_.block);
    for_each_chunk([&](int64_t c, int64_t z) {
      const int64_t tap_step = chunk(c) * kColumns;
      for (int64_t p = 0; p < last_panel(pass) - pass * job_.shape.panels; ++p)
        for (int64_t i = 0; i < summed_taps(z); ++i)
          weight_.transform(job_.group, pass * job_.shape.panels + p, z + i, c, chunk(c),
                            own_ + p * sizes_.weight_panel() + i * tap_step, sizes_.weight_plane);
      multiply(pass, box, c, z, static_cast<const A*>(job_.source), own_, tap_step);
    });
    transform_result(job_.group, box, pass);
  }

 private:
  int64_t chunk(int64_t c) const { return std::min(job_.shape.chunk, conv_.depth - c); }
  int64_t summed_taps(int64_t z) const { return std::min(job_.shape.summed_taps, job_.depth_taps - z); }
  int64_t last_panel(int64_t pass) const { return std::min((pass + 1) * job_.shape.panels, job_.weight_panels()); }

  // Calls visit(c, z) for the chunks of channels under the depth taps from z on, in the order in which they are added.
  template <class Visit>
  void for_each_chunk(Visit visit) const {
    for (int64_t c = 0; c < conv_.depth; c += job_.shape.chunk)
      for (int64_t z = 0; z < job_.depth_taps; z += job_.shape.summed_taps) visit(c, z);
  }

  // Channels [channel, channel + W) of a box, and of the slices after it that its depth taps read.
  void transform_source(int64_t group, TileBox box, int64_t channel, A* source) {
    box.slices += job_.depth_taps - 1;
    transform_source_tiles<T, A, kKernel>(job_.image, job_.grid, box, group * conv_.depth + channel,
                                          conv_.depth - channel, stage_, source + sizes_.source.at(channel),
                                          sizes_.source);
  }

  // Adds to product_ the products over the chunk of channels from c on under taps from z on, where the pass's panels of
  // the weight hold it, a tap weight_tap_step behind the one before.
  void multiply(int64_t pass, const TileBox& box, int64_t c, int64_t z, const A* source, const A* weight,
                int64_t weight_tap_step) {
    const int64_t panels = last_panel(pass) - pass * job_.shape.panels;
    const int64_t source_tap_step = box.tiles * sizes_.source.row;
    source += sizes_.source.at(c) + z * source_tap_step;
    for (int point = 0; point < kEdge * kEdge; ++point)
      for (int64_t p = 0; p < panels; ++p)
        multiply_all<A, false>(box.count(), conv_.rows - (pass * job_.shape.panels + p) * kColumns,
                               {chunk(c), source + point * sizes_.source.plane, sizes_.source.row,
                                weight + p * sizes_.weight_panel() + point * sizes_.weight_plane, kColumns,
                                product_ + point * sizes_.product.plane + p * kColumns, sizes_.product.row,
                                c > 0 || z > 0, summed_taps(z), source_tap_step, weight_tap_step});
  }

  // The results of a pass's channels.
  void transform_result(int64_t group, const TileBox& box, int64_t pass) {
    if (epilogue_.is_bias())
      return write_result(group, box, pass, [](Vector<A> sum, const T*, int64_t, int64_t) { return sum; });
    write_finished(group, box, pass);
  }
  [[gnu::noinline]] void write_finished(int64_t group, const TileBox& box, int64_t pass) {
    epilogue_.with_activation([&](auto activate) {
      write_result(group, box, pass, [&](Vector<A> sum, const T* to, int64_t step, int64_t n) {
        return activate(epilogue_.add_residual(sum, to, step, n));
      });
    });
  }

  template <class Finish>
  void write_result(int64_t group, const TileBox& box, int64_t pass, Finish finish) {
    const int64_t begin = pass * job_.shape.panels * kColumns, end = std::min(last_panel(pass) * kColumns, conv_.rows);
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
  A* own_;  // shallow: the block's source; deep: a chunk of a panel of the weight
  WinogradWeight<T, A, kKernel> weight_;
};
