// Staging whole planes over and over: where the rows of a plane go is found once, and what no row reaches stays zero.
// The layout is that of band.h. Include only from engine.inl.h.
#pragma once

template <class T, class A>
class PlaneStager {
 public:
  // `copies` has room for copies_of_plane(band, mode); `stage` for `elements`, all set to zero here. The band covers
  // the staged region, which has one tap.
  PlaneStager(const Region& staged, const Band& band, PaddingMode mode, const Strides& strides, RowCopy* copies,
              A* stage, int64_t elements)
      : copies_(copies),
        stage_(stage),
        channel_size_(band.channel_size),
        step_(staged.axis[2].step * strides.axis[2]),
        channel_stride_(strides.channel),
        copies_ascend_(mode == PaddingMode::kZeros) {
    std::fill_n(stage, elements, A{0});
    const GatherAxis &h = staged.axis[1], &w = staged.axis[2];
    for (int64_t gw = 0; gw < band.w.groups; ++gw) {
      const int64_t x = band.w.source(w, gw, 0, 0), begin = std::min(positions_below(x, w.step), band.pitch);
      const int64_t end = std::max(begin, std::min(positions_below(x - w.extent, w.step), band.pitch));
      for (int64_t gh = 0; gh < band.h.groups; ++gh)
        for (int64_t i = 0; i < band.rows + band.h.span; ++i) {
          const int64_t y = in_reach(mode, band.h.source(h, gh, 0, i), h.extent);
          if (y < 0) continue;
          const int64_t to = (gw * band.h.groups + gh) * band.group_size + i * band.pitch, row = y * strides.axis[1];
          if (begin < end) copies_[count_++] = {to + begin, row + (x + begin * w.step) * strides.axis[2], end - begin};
          if (mode == PaddingMode::kZeros) continue;
          for (int64_t j = 0; j < band.pitch; ++j) {
            if (j == begin) j = end;
            const int64_t source = j < band.pitch ? in_reach(mode, x + j * w.step, w.extent) : -1;
            if (source >= 0) copies_[count_++] = {to + j, row + source * strides.axis[2], 1};
          }
        }
    }
  }

  void fill(const T* plane, int64_t channels) const {
    if (channel_stride_ == 1 && channels > 1) return fill_turned(plane, channels);
    A* stage = stage_;
    const RowCopy* const end = copies_ + count_;
    for (int64_t c = 0; c < channels; ++c, plane += channel_stride_, stage += channel_size_)
      for (const RowCopy* copy = copies_; copy < end; ++copy)
        copy_strided(stage + copy->to, plane + copy->from, step_, copy->len);
  }

 private:
  static constexpr int W = kLanes<A>;

  // The same of channels that follow each other, in blocks that may overlap.
  void fill_turned(const T* plane, int64_t channels) const {
    const int64_t count = std::min<int64_t>(W, channels);
    for (int64_t first = 0; first < channels; first += W) {
      const int64_t c = std::min(first, channels - count);
      for (const RowCopy* copy = copies_; copy < copies_ + count_; ++copy)
        for (int64_t i = 0; i < copy->len; i += W) {
          const T* from = plane + copy->from + i * step_ + c;
          turn_square({from, channels, count, std::min<int64_t>(W, copy->len - i)}, c, copy->to + i);
        }
    }
  }

  // Some channels of some pixels, at most as many as a vector has lanes.
  struct Square {
    const T* from;
    int64_t next;  // from a group's channels to the next group's
    int64_t channels, pixels;
  };
  // Turns a square to its channels' places. Behind the last pixel a whole vector has zeros: there is one copy a row, in
  // the order of the stage, so that they fall on zeros that no copy reaches, or on a row that is copied later. They
  // stay within the channel.
  [[gnu::always_inline]] void turn_square(const Square& square, int64_t channel, int64_t place) const {
    Vector<A> v[W];
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) {
      v[j] = Vector<A>{};
      if (j >= square.pixels) continue;
      const T* pixel = square.from + j * step_;
      v[j] = load_first<A>(pixel, square.channels);
      __builtin_prefetch(pixel + square.next, 0, 2);
    }
    transpose_square<A>(v);
    const bool whole = square.pixels == W || (copies_ascend_ && place + W <= channel_size_);
    A* to = stage_ + channel * channel_size_ + place;
    for (int64_t l = 0; l < square.channels; ++l, to += channel_size_) {
      if (whole) {
        store(to, v[l]);
      } else {
        A row[W];
        store(row, v[l]);
        copy_fewer<W>(to, row, square.pixels);
      }
    }
  }

  // The last places may lie beyond what any window reads, further out than the padding mode is defined.
  static int64_t in_reach(PaddingMode mode, int64_t x, int64_t extent) {
    const int64_t source = padded_source(mode, x, extent);
    return source < extent ? source : -1;
  }

  RowCopy* copies_;
  A* stage_;
  int64_t count_ = 0, channel_size_, step_, channel_stride_;
  bool copies_ascend_;  // in the order of the stage: other modes list a row's borders after its interior
};
