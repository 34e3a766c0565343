// The weight of zones (zones_of): packed once for all of them, tap by tap. Include only from engine.inl.h.
//
//   weight[m][c][t], any strides     ->     for each (group, tap, chunk of channels): panels [c][m], m along the row
//
// A zone has some of the taps, and each of its reduction blocks is of one: it finds that tap's panels whatever the
// others are. The taps of a channel are neighbours in the weight, so a panel is packed under all taps at a time.
#pragma once

template <class T, class A, class Product>
class TapPacker {
 public:
  explicit TapPacker(const ConvJob& job)
      : job_(job),
        taps_(kernel_taps(*job.problem)),
        channels_(packed_channels(job.shape, job.tile, job.rows)),
        reduction_(Reduction::by_tap(1, job.panel_depth)) {}

  // Panel `index`, counted over (group, chunk of channels, panel).
  void pack(int64_t index) const {
    const int64_t panels = job_.weight_panels(), panel = index % panels;
    index /= panels;
    const Block block = reduction_.block(index % reduction_.blocks());
    const int64_t group = index / reduction_.blocks();
    const int64_t start = panel * kTileColumns<A>;
    const T* from = static_cast<const T*>(job_.weight) + group * job_.weight_group + start * job_.weight_row +
                    block.channel * Product::kTerms * job_.weight_depth;
    const int64_t rows = std::min<int64_t>(kTileColumns<A>, job_.rows - start);
    A* to = place(group, 0, block, start);
    if constexpr (Product::kTerms == 2) {
      pack_tap_pairs(from, rows, block, to);
    } else {
      pack_taps(from, rows, block, to);
    }
  }

  // Where a block of a zone finds the panel that starts at result channel `start`.
  A* panel_at(const Region& zone, const Block& block, int64_t group, int64_t start) const {
    if (block.taps == 0) return static_cast<A*>(job_.packed_weight);
    const Tap tap = tap_at(zone, block.tap);
    int64_t index = 0;
    for (int i = 0; i < kSpatialAxes; ++i)
      index = index * job_.problem->axis[i].kernel + zone.axis[i].tap0 + tap.t[i] * zone.axis[i].tap_step;
    return place(group, index, block, start);
  }

 private:
  static constexpr int W = kLanes<A>;

  A* place(int64_t group, int64_t tap, const Block& block, int64_t start) const {
    const int64_t before = (group * taps_ + tap) * job_.panel_depth + block.channel;
    return static_cast<A*>(job_.packed_weight) + channels_ * before + start * block.channels;
  }

  // `rows` result channels of a panel, and zeros beyond them, under all taps; to: of the first.
  void pack_taps(const T* from, int64_t rows, const Block& block, A* to) const {
    if (!taps_are_dense()) return copy_taps(from, rows, block.channels, to);
    // Channels whose taps follow each other (fprop), or one at a time (dgrad).
    const int64_t together = job_.weight_depth == taps_ ? W : 1;
    for (int64_t c = 0; c < block.channels; c += together) {
      const int64_t n = std::min(together, block.channels - c);
      // Whole vectors are read where the rows go on.
      const bool spills = (job_.depth - block.channel - c - n) * job_.weight_depth >= W;
      for (int64_t r = 0; r < kTileColumns<A>; r += W)
        turn(from + c * job_.weight_depth + r * job_.weight_row, rows - r, n * taps_, spills,
             together * job_.weight_depth, to + c * kTileColumns<A> + r);
    }
  }

  // `len` neighbours of W rows, from a channel's first tap on, become vectors of the panels; the next are `ahead`.
  void turn(const T* from, int64_t rows, int64_t len, bool spills, int64_t ahead, A* to) const {
    const int64_t distance = channels_ * job_.panel_depth;  // between taps
    int64_t tap = 0;
    for (int64_t i = 0; i < len; i += W) {
      const int64_t n = std::min<int64_t>(W, len - i);
      Vector<A> v[W];
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) {
        v[r] = Vector<A>{};
        if (r >= rows) continue;
        const T* row = from + r * job_.weight_row + i;
        if (n == W || spills) {
          v[r] = load_widened<A>(row);
          __builtin_prefetch(row + ahead);
        } else {
          T part[W] = {};
          copy_fewer<W>(part, row, n);
          v[r] = load_widened<A>(part);
        }
      }
      transpose_square<A>(v);
      for (int64_t j = 0; j < n; ++j) {
        store(to + tap * distance, v[j]);
        if (++tap == taps_) tap = 0, to += kTileColumns<A>;
      }
    }
  }

  // The same of pairs of channels, as many at a time as make a panel of kReductionBlock rows with all taps, of which
  // there are no more (packed_plan.cpp): that is then taken apart by taps.
  void pack_tap_pairs(const T* from, int64_t rows, const Block& block, A* to) const {
    constexpr int64_t kColumns = kTileColumns<A>;
    int64_t offset[kReductionBlock];
    for (int64_t t = 0; t < taps_; ++t) offset[t] = tap_offset(t);
    A panel[kReductionBlock * kColumns];
    const int64_t together = std::max<int64_t>(1, kReductionBlock / taps_);
    for (int64_t p = 0; p < block.channels; p += together) {
      const int64_t pairs = std::min(together, block.channels - p), before = 2 * p;
      const int64_t channels = job_.depth - 2 * block.channel - before;  // to the end of the group
      pack_weight_pairs<T, A, Product>(
          {from + before * job_.weight_depth, job_.weight_row, job_.weight_depth, channels, rows, kColumns},
          {0, taps_, 0, pairs}, offset, taps_, 1, panel);
      const A* row = panel;
      for (int64_t i = 0; i < pairs; ++i)
        for (int64_t t = 0; t < taps_; ++t, row += kColumns)
          copy_row(to + t * channels_ * job_.panel_depth + (p + i) * kColumns, row, kColumns);
    }
  }

  int64_t tap_offset(int64_t t) const {
    const ConvAxis* a = job_.problem->axis;
    const int64_t w = t % a[2].kernel, h = t / a[2].kernel % a[1].kernel, d = t / a[2].kernel / a[1].kernel;
    return d * job_.weight_tap[0] + h * job_.weight_tap[1] + w * job_.weight_tap[2];
  }

  void copy_taps(const T* from, int64_t rows, int64_t channels, A* to) const {
    for (int64_t t = 0; t < taps_; ++t) {
      const T* tap = from + tap_offset(t);
      A* panel = to + t * channels_ * job_.panel_depth;
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t i = 0; i < kTileColumns<A>; ++i)
          panel[c * kTileColumns<A> + i] = i < rows ? widen(tap[c * job_.weight_depth + i * job_.weight_row]) : A{0};
    }
  }

  bool taps_are_dense() const {
    int64_t distance = 1;
    for (int i = kSpatialAxes; i-- > 0; distance *= job_.problem->axis[i].kernel)
      if (job_.problem->axis[i].kernel > 1 && job_.weight_tap[i] != distance) return false;
    return true;
  }

  const ConvJob& job_;
  int64_t taps_;
  int64_t channels_;
  Reduction reduction_;
};
