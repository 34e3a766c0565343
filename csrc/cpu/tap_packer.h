// The weight of zones (zones_of): packed once for all of them, tap by tap. Include only from engine.inl.h.
//
//   weight[m][c][t], any strides     ->     for each (group, tap, chunk of channels): panels [c][m], m along the row
//
// A zone has some of the taps, and each of its reduction blocks is of one: it finds that tap's panels whatever the others
// are. The taps of a channel are neighbours in the weight, so a panel is packed under all taps at a time.
#pragma once

template <class T, class A>
class TapPacker {
 public:
  explicit TapPacker(const ConvJob& job)
      : job_(job),
        taps_(kernel_taps(*job.problem)),
        channels_(packed_channels(job.shape, job.tile, job.rows)),
        reduction_(Reduction::by_tap(1, job.depth)) {}

  // Panel `index`, counted over (group, chunk of channels, panel).
  void pack(int64_t index) const {
    const int64_t panels = job_.weight_panels(), panel = index % panels;
    index /= panels;
    const Block block = reduction_.block(index % reduction_.blocks());
    const int64_t group = index / reduction_.blocks();
    const Panels cut(job_.rows, job_.tile.rows);
    const bool whole = job_.shape.pixels_are_rows;
    const int64_t start = whole ? panel * job_.tile.columns : cut.start(panel);
    const int64_t width = whole ? job_.tile.columns : cut.rows(panel);
    const T* from = static_cast<const T*>(job_.weight) + group * job_.weight_group + start * job_.weight_row +
                    block.channel * job_.weight_depth;
    pack_taps(from, std::min(width, job_.rows - start), width, block.channels, place(group, 0, block, start));
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
  // Elements that are turned at a time: they stay in L1.
  static constexpr int64_t kTurned = 128;

  A* place(int64_t group, int64_t tap, const Block& block, int64_t start) const {
    const int64_t before = (group * taps_ + tap) * job_.depth + block.channel;
    return static_cast<A*>(job_.packed_weight) + channels_ * before + start * block.channels;
  }

  // `rows` result channels of a panel `width` wide, and zeros beyond them; to: of the first tap.
  void pack_taps(const T* from, int64_t rows, int64_t width, int64_t channels, A* to) const {
    const int64_t distance = channels_ * job_.depth;  // between taps
    A turned[kTurned * kTileColumns<A>];
    const T* row[kTileColumns<A>];
    const auto turn = [&](const T* first, int64_t len) {
      for (int64_t i = 0; i < width; ++i) row[i] = i < rows ? first + i * job_.weight_row : kZeros<T>;
      transpose_rows(row, static_cast<int>(width), len, turned);
    };
    const auto store_lines = [&](int64_t channel, const A* lines) {
      for (int64_t t = 0; t < taps_; ++t) copy_row(to + t * distance + channel * width, lines + t * width, width);
    };
    if (taps_are_dense() && taps_ <= kTurned) {
      // Channels whose taps follow each other (fprop), or one at a time (dgrad).
      const int64_t together = job_.weight_depth == taps_ ? kTurned / taps_ : 1;
      for (int64_t c = 0; c < channels; c += together) {
        const int64_t n = std::min(together, channels - c);
        turn(from + c * job_.weight_depth, n * taps_);
        for (int64_t i = 0; i < n; ++i) store_lines(c + i, turned + i * taps_ * width);
      }
      return;
    }
    for (int64_t t = 0; t < taps_; ++t) {
      const ConvAxis* a = job_.problem->axis;
      const int64_t w = t % a[2].kernel, h = t / a[2].kernel % a[1].kernel, d = t / a[2].kernel / a[1].kernel;
      const T* tap = from + d * job_.weight_tap[0] + h * job_.weight_tap[1] + w * job_.weight_tap[2];
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t i = 0; i < width; ++i)
          to[t * distance + c * width + i] =
              i < rows ? widen(tap[c * job_.weight_depth + i * job_.weight_row]) : A{0};
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
