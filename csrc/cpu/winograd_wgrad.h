// Winograd's wgrad. Include only from engine.inl.h.
//
//   L = <dY, AT [ (G g GT) . (BT d B) ] A> is linear in g, so
//
//   dg = GT [ sum over tiles of (A dY AT) . (BT d B) ] G        a sum of 36 matrix products [K][tile] x [tile][C]
//
//   for each unit (slice of the tiles, depth tap, group, block of K, block of C):       in parallel, disjoint results
//     for each chunk of tiles:
//       gradient --stage, A dY AT--> [36][tile][K block],  image --stage, BT d B--> [36][tile][C block]
//       for each point: sums[K block][C block] += product over the chunk
//     GT sums G to the result, or to the slice's part, which finish_row adds up in order
//
// Blocks of 128 x 128 channels: a tile's transforms, repeated for every block on the other side, then cost a tenth of
// its products. The chunk's tiles and the sums pass through L2 once a chunk.
#pragma once

template <class T, class A, int kKernel>
class WinogradWgrad {
  static constexpr int W = kLanes<A>;
  static constexpr int kEdge = kWinogradEdge;
  static constexpr int kTaps = kKernel * kKernel;
  static constexpr int64_t kColumns = kTileColumns<A>;

 public:
  WinogradWgrad(const WinogradWgradJob& job, void* workspace)
      : job_(job),
        wgrad_(*job.wgrad),
        rows_(wgrad_.problem->out_channels),
        depth_(wgrad_.problem->in_channels),
        sizes_(job.shape, wgrad_.tile, W, kKernel),
        grad_(static_cast<A*>(workspace)),
        source_(grad_ + sizes_.grad.elements()),
        sums_(source_ + sizes_.source.elements()),
        stage_(sums_ + sizes_.sums.elements()),
        taps_(stage_ + sizes_.stage) {}

  // Unit `index`, counted over (slice, depth tap, group, block of K, block of C).
  void run(int64_t index) {
    const int64_t column = index % job_.column_blocks() * job_.shape.columns;
    index /= job_.column_blocks();
    const int64_t row = index % job_.row_blocks() * job_.shape.rows;
    index /= job_.row_blocks();
    const int64_t group = index % wgrad_.problem->groups;
    index /= wgrad_.problem->groups;
    const int64_t z = index % job_.depth_taps, slice = index / job_.depth_taps;
    TiledImage image = job_.image;
    image.origin[0] += z;
    const int64_t rows = std::min(job_.shape.rows, rows_ - row);
    const int64_t columns = round_up(std::min(job_.shape.columns, depth_ - column), kColumns);
    const int64_t begin = std::min(job_.grid.tiles(), slice * job_.slice_tiles());
    const int64_t end = std::min(job_.grid.tiles(), begin + job_.slice_tiles());
    if (begin == end) std::fill_n(sums_, sizes_.sums.elements(), A{0});
    for (int64_t first = begin; first < end; first += job_.shape.tiles) {
      const int64_t tiles = std::min(job_.shape.tiles, end - first);
      const TileBox box{first, tiles};
      for (int64_t k = 0; k < rows; k += W)
        transform_grad_tiles<T, A, kKernel>(job_.grad, {job_.grid, box, group * rows_ + row + k, rows_ - row - k},
                                            stage_, grad_ + k, sizes_.grad);
      for (int64_t c = 0; c < std::min(columns, depth_ - column); c += W)
        transform_source_tiles<T, A, kKernel>(image, {job_.grid, box, group * depth_ + column + c, depth_ - column - c},
                                              stage_, source_ + sizes_.source.at(c), sizes_.source);
      for (int point = 0; point < kEdge * kEdge; ++point)
        for (int64_t c = 0; c < columns; c += kColumns)
          multiply_all<A, true>(rows, depth_ - column - c,
                                {tiles, grad_ + point * sizes_.grad.plane, sizes_.grad.row,
                                 source_ + sizes_.source.at(c) + point * sizes_.source.plane, sizes_.source.row,
                                 sums_ + point * sizes_.sums.plane + c, sizes_.sums.row, first > begin});
    }
    for (int64_t k = 0; k < rows; ++k)
      for (int64_t c = 0; c < std::min(columns, depth_ - column); c += W)
        transform_sums(slice, z, group * rows_ + row + k, column + c, sums_ + k * sizes_.sums.row + c);
  }

  // Several slices: adds up result channel `row` in the first slice, and writes it.
  void finish_row(int64_t row) {
    const int64_t length = depth_ * kTaps, all = job_.depth_taps * wgrad_.problem->groups * rows_ * length;
    for (int64_t z = 0; z < job_.depth_taps; ++z) {
      A* sum = partial(0, z, row);
      for (int64_t slice = 1; slice < job_.shape.slices; ++slice)
        for (int64_t i = 0; i < length; ++i) sum[i] += sum[slice * all + i];
      write(row, z, 0, depth_, sum);
    }
  }

 private:
  A* partial(int64_t slice, int64_t z, int64_t row) const {
    const int64_t rows = wgrad_.problem->groups * rows_;
    return static_cast<A*>(job_.partial) + ((slice * job_.depth_taps + z) * rows + row) * depth_ * kTaps;
  }

  void transform_sums(int64_t slice, int64_t z, int64_t row, int64_t channel, const A* sums) {
    A* by_tap = taps_ + kTaps * W;
    transform_plane<kEdge, kKernel, Vector<A>>(
        [](const auto& u, auto& g) { Winograd<A, kKernel>::weight_adjoint(u, g); },
        [&](int i, int j) { return load(sums + (i * kEdge + j) * sizes_.sums.plane); },
        [&](int y, int x, Vector<A> g) { store(by_tap + (y * kKernel + x) * W, g); });
    const Strides& s = wgrad_.result_strides;
    const int64_t channels = std::min<int64_t>(W, depth_ - channel);
    if (job_.shape.slices == 1 && s.channel == 1) {  // channels_last: the vectors are the result
      T* to = static_cast<T*>(wgrad_.result) + row * s.outer + channel + z * s.axis[0];
      for (int t = 0; t < kTaps; ++t)
        store_first<A>(to + t / kKernel * s.axis[1] + t % kKernel * s.axis[2], load(by_tap + t * W), channels);
      return;
    }
    // Where whole vectors of channels go side by side they are turned in place.
    A* to = taps_;
    if (channels == W && job_.shape.slices > 1) to = partial(slice, z, row) + channel * kTaps;
    if constexpr (std::is_same_v<T, A>)
      if (channels == W && job_.shape.slices == 1 && s.axis[2] == 1 && s.axis[1] == kKernel && s.channel == kTaps)
        to = static_cast<A*>(wgrad_.result) + row * s.outer + channel * kTaps + z * s.axis[0];
    interleave_rows<A, kTaps>(by_tap, to);
    if (to != taps_) return;
    if (job_.shape.slices > 1) return copy_row(partial(slice, z, row) + channel * kTaps, taps_, channels * kTaps);
    write(row, z, channel, channels, taps_);
  }

  // Taps [channel][tap] under depth tap z of some source channels of a result channel.
  void write(int64_t row, int64_t z, int64_t channel, int64_t channels, const A* taps) const {
    const Strides& s = wgrad_.result_strides;
    T* to = static_cast<T*>(wgrad_.result) + row * s.outer + channel * s.channel + z * s.axis[0];
    if (s.axis[2] == 1 && s.axis[1] == kKernel) {
      if (s.channel == kTaps || channels == 1) return store_line<T, A>(to, 1, taps, 1, channels * kTaps);
      for (int64_t c = 0; c < channels; ++c) store_line<T, A>(to + c * s.channel, 1, taps + c * kTaps, 1, kTaps);
      return;
    }
    for (int t = 0; t < kTaps; ++t)
      for (int64_t c = 0; c < channels; ++c)
        to[c * s.channel + t / kKernel * s.axis[1] + t % kKernel * s.axis[2]] = Narrow<T>::from(taps[c * kTaps + t]);
  }

  const WinogradWgradJob& job_;
  const WgradJob& wgrad_;
  const int64_t rows_, depth_;  // result and source channels of a group
  const WinogradWgradSizes sizes_;
  A* grad_;
  A* source_;
  A* sums_;
  A* stage_;
  A* taps_;
};
