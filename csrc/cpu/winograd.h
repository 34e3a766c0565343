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
//   which
//             stays in L2, and for each pass of panels: multiply, transform back. For weights that the caches hold.
//   deep      for each block of tiles (large: V of all threads together): transform the source, shared, in parallel
//   over
//             channels; then for each pass of panels, in parallel: for each chunk of channels transform the weight into
//             L2 and multiply; transform back. The transformed weight, four times the weight, never goes to memory.
//
// A sum over channels is: chunks (their length follows from the depth) summed from zero in registers, then added in
// ascending order. A tile's arithmetic knows nothing of its block.
#pragma once

template <class A>
class WinogradConv {
  static constexpr int W = kLanes<A>;
  static constexpr int kTile = kWinogradTile, kEdge = kWinogradEdge;
  static constexpr int64_t kColumns = kTileColumns<A>;

 public:
  WinogradConv(const WinogradJob& job, A* workspace)
      : job_(job),
        conv_(*job.conv),
        epilogue_(conv_),
        sizes_(job.shape, conv_.tile, W, conv_.depth),
        product_(workspace),
        stage_(product_ + sizes_.product.elements()),
        taps_(stage_ + sizes_.stage),
        own_(taps_ + sizes_.taps),
        weight_(job, taps_) {}

  // Shallow: the weight's panel `index`, counted over (group, panel).
  void transform_weight(int64_t index) {
    const int64_t panels = job_.weight_panels();
    weight_.transform(index / panels, index % panels, 0, conv_.depth, job_.weight + index * sizes_.weight_panel(),
                      sizes_.weight_plane);
  }

  // Shallow: block `index` of tiles, counted over (group, block).
  void run_block(int64_t index) {
    const int64_t group = index / job_.blocks(), first = index % job_.blocks() * job_.shape.tiles;
    const int64_t tiles = std::min(job_.shape.tiles, job_.all_tiles() - first);
    for (int64_t c = 0; c < conv_.depth; c += W) transform_source(group, first, tiles, c, own_);
    for (int64_t pass = 0; pass < job_.passes(); ++pass) {
      const A* weight = job_.weight + (group * job_.weight_panels() + pass * job_.shape.panels) * sizes_.weight_panel();
      for (int64_t c = 0; c < conv_.depth; c += job_.shape.chunk) multiply(pass, tiles, c, own_, weight + c * kColumns);
      transform_result(group, first, tiles, pass);
    }
  }

  // Deep: vector `index` of the source's channels of the job's block.
  void transform_channels(int64_t index) {
    transform_source(job_.group, job_.first_tile, job_.tiles, index * W, job_.source);
  }

  // Deep: the job's block times pass `pass` of panels.
  void run_pass(int64_t pass) {
    for (int64_t c = 0; c < conv_.depth; c += job_.shape.chunk) {
      for (int64_t p = pass * job_.shape.panels; p < last_panel(pass); ++p)
        weight_.transform(job_.group, p, c, chunk(c), own_ + (p - pass * job_.shape.panels) * sizes_.weight_panel(),
                          sizes_.weight_plane);
      multiply(pass, job_.tiles, c, job_.source, own_);
    }
    transform_result(job_.group, job_.first_tile, job_.tiles, pass);
  }

 private:
  int64_t chunk(int64_t c) const { return std::min(job_.shape.chunk, conv_.depth - c); }
  int64_t last_panel(int64_t pass) const { return std::min((pass + 1) * job_.shape.panels, job_.weight_panels()); }

  // Channels [channel, channel + W) of `tiles` tiles from `first` on.
  void transform_source(int64_t group, int64_t first, int64_t tiles, int64_t channel, A* source) {
    transform_tiles<A>(job_.image, job_.grid, first, tiles, group * conv_.depth + channel, conv_.depth - channel,
                       stage_, source + sizes_.source.at(channel), sizes_.source);
  }

  // Adds to product_ the products over the chunk of channels from c on, where the pass's panels of the weight hold it.
  void multiply(int64_t pass, int64_t tiles, int64_t c, const A* source, const A* weight) {
    const int64_t panels = last_panel(pass) - pass * job_.shape.panels;
    for (int point = 0; point < kEdge * kEdge; ++point)
      for (int64_t p = 0; p < panels; ++p)
        multiply_all<A, false>(tiles,
                               {chunk(c), source + sizes_.source.at(c) + point * sizes_.source.plane, sizes_.source.row,
                                weight + p * sizes_.weight_panel() + point * sizes_.weight_plane, kColumns,
                                product_ + point * sizes_.product.plane + p * kColumns, sizes_.product.row, c > 0});
  }

  // The results of a pass's channels.
  void transform_result(int64_t group, int64_t first, int64_t tiles, int64_t pass) {
    if (epilogue_.is_bias())
      return write_result(group, first, tiles, pass, [](Vector<A> sum, const A*, int64_t, int64_t) { return sum; });
    write_finished(group, first, tiles, pass);
  }
  [[gnu::noinline]] void write_finished(int64_t group, int64_t first, int64_t tiles, int64_t pass) {
    epilogue_.with_activation([&](auto activate) {
      write_result(group, first, tiles, pass, [&](Vector<A> sum, const A* to, int64_t step, int64_t n) {
        return activate(epilogue_.add_residual(sum, to, step, n));
      });
    });
  }

  template <class Finish>
  void write_result(int64_t group, int64_t first, int64_t tiles, int64_t pass, Finish finish) {
    const int64_t begin = pass * job_.shape.panels * kColumns, end = std::min(last_panel(pass) * kColumns, conv_.rows);
    const Strides& s = conv_.result_strides;
    for (int64_t k = begin; k < end; k += W) {
      Vector<A> bias = {};
      if (conv_.epilogue.bias)
        bias = load(static_cast<const A*>(conv_.packed_bias) + group * conv_.bias_channels() + k);
      for_each_run(job_.grid, first, tiles, [&](const TileRun& run) {
        const int64_t pitch = run.count * kTile;
        for (int64_t t = 0; t < run.count; ++t) {
          const A* from = product_ + (run.first + t) * sizes_.product.row + k - begin;
          A* tile = stage_ + t * kTile * W;
          transform_plane<kEdge, kTile, Vector<A>>(
              [](const auto& m, auto& y) { Winograd::result(m, y); },
              [&](int i, int j) { return load(from + (i * kEdge + j) * sizes_.product.plane); },
              [&](int i, int j, Vector<A> y) { store(tile + (i * pitch + j) * W, y + bias); });
        }
        const int64_t y = run.row * kTile, x = run.column * kTile;
        A* to = static_cast<A*>(conv_.result) + run.image * s.outer + (group * conv_.rows + k) * s.channel +
                y * s.axis[1] + x * s.axis[2];
        store_stage(to, s, std::min<int64_t>(W, end - k), std::min<int64_t>(kTile, job_.grid.height - y),
                    std::min(pitch, job_.grid.width - x), pitch, stage_, finish);
      });
    }
  }

  const WinogradJob& job_;
  const ConvJob& conv_;
  const EpilogueOf<A, A> epilogue_;
  const WinogradSizes sizes_;
  A* product_;
  A* stage_;
  A* taps_;
  A* own_;  // shallow: the block's source; deep: a chunk of a panel of the weight
  WinogradWeight<A> weight_;
};
