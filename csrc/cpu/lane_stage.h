// Moving planes into lanes and back: kLanes planes of an image, transposed a square at a time. Include only from
// engine.inl.h.
#pragma once

// The planes of a block: one for each lane. Lanes without a plane of their own repeat another and are never written.
template <class T, class A>
struct Planes {
  T* start[kLanes<A>];
  int64_t axis[kSpatialAxes];  // element strides
  int64_t room = 0;            // elements of memory after every start: whole vectors may be read from there
};

// Calls put(j, vector) for n <= kLanes pixels: lane l of the vector is pixel offset + j * step of plane l.
template <class T, class A, class Put>
inline void read_pixels(const Planes<const T, A>& planes, int64_t offset, int64_t step, int64_t n, Put put) {
  constexpr int W = kLanes<A>;
  Vector<A> v[W];
  if (step == 1 && offset + W <= planes.room) {
    for (int l = 0; l < W; ++l) v[l] = load_widened<A>(planes.start[l] + offset);
  } else {
    for (int l = 0; l < W; ++l) {
      A part[W] = {};
      for (int64_t j = 0; j < n; ++j) part[j] = widen(planes.start[l][offset + j * step]);
      v[l] = load(part);
    }
  }
  transpose_square<A>(v);
#pragma GCC unroll 16
  for (int j = 0; j < W; ++j) {
    if (j == n) break;
    put(j, v[j]);
  }
}

// Writes n pixels of `lanes` planes, from vectors that each hold one pixel of every plane. finish(sums, to, count)
// makes the results from to[0] on, `step` apart, of a vector of which the first `count` lanes count.
template <class T, class A, class Finish>
inline void write_pixels(const A* from, const Planes<T, A>& planes, int lanes, int64_t offset, int64_t step, int64_t n,
                         Finish finish) {
  constexpr int W = kLanes<A>;
  for (int64_t first = 0; first < n; first += W) {
    // The last square starts early where it can, and writes some pixels again.
    const int64_t i = std::max<int64_t>(0, std::min(first, n - W)), count = std::min<int64_t>(W, n - i);
    Vector<A> v[W];
    for (int j = 0; j < W; ++j) v[j] = load(from + (i + std::min<int64_t>(j, count - 1)) * W);
    transpose_square<A>(v);
    if (step == 1 && count == W) {
      for (int l = 0; l < lanes; ++l) {
        T* to = planes.start[l] + offset + i;
        store_narrowed<T, A>(to, finish(v[l], to, W));
      }
    } else {
      for (int l = 0; l < lanes; ++l) {
        A part[W];
        T* to = planes.start[l] + offset + i * step;
        store(part, finish(v[l], to, count));
        for (int64_t j = 0; j < count; ++j) to[j * step] = Narrow<T>::from(part[j]);
      }
    }
  }
}

// Fills the stage of a band. What neighbouring bands have in common, the places of columns and rows, is kept.
template <class T, class A>
class LaneStager {
 public:
  // `pitch`: elements between places, where several vectors of planes are staged side by side.
  LaneStager(const LaneBand& band, PaddingMode mode, int64_t* entries, A* stage, int64_t pitch = kLanes<A>)
      : band_(band),
        mode_(mode),
        stage_(stage),
        pitch_(pitch),
        column_(entries),
        row_place_(column_ + band.source_columns()),
        row_offset_(row_place_ + band.source_rows()) {}

  // `planes` are those of the band's first channel; q is the band's first position.
  void fill(Planes<const T, A> planes, int64_t channel_stride, const int64_t (&q)[kSpatialAxes]) {
    // Places outside of the image hold zeros, which no other band of the same position overwrites.
    fill(stage_, has_moved(q), planes, channel_stride, q);
  }

  // Fills one of several stages, which is cleared if it may hold another band's values.
  void fill(A* stage, bool clears, Planes<const T, A> planes, int64_t channel_stride,
            const int64_t (&q)[kSpatialAxes]) {
    const bool moved = has_moved(q);
    stage_ = stage;
    if (clears)
      for (int64_t i = 0; i < band_.vectors(); ++i) store(stage_ + i * pitch_, Vector<A>{});
    std::copy_n(q, kSpatialAxes, q_);
    filled_ = true;
    const LaneAxis &d = band_.axis[0], &h = band_.axis[1], &w = band_.axis[2];
    const bool many = d.passes.size() * h.passes.size() * w.passes.size() > 1;
    for (const StagePass* pd = d.passes.data(); pd != d.passes.data() + d.passes.size(); ++pd)
      for (const StagePass* ph = h.passes.data(); ph != h.passes.data() + h.passes.size(); ++ph)
        for (const StagePass* pw = w.passes.data(); pw != w.passes.data() + w.passes.size(); ++pw) {
          if (moved || many) {
            list_columns(*pw);
            list_rows(*pd, *ph, planes);
          }
          for (int64_t c = 0; c < band_.depth; ++c) {
            Planes<const T, A> channel = planes;
            for (const T*& start : channel.start) start += c * channel_stride;
            channel.room -= c * channel_stride;
            stage_rows(channel, stage_ + c * band_.channel_size() * pitch_);
          }
        }
  }

 private:
  static constexpr int W = kLanes<A>;

  bool has_moved(const int64_t (&q)[kSpatialAxes]) const { return !filled_ || !std::equal(q, q + kSpatialAxes, q_); }

  // The place of each source column [x_, x_ + columns_) that lies in the image, or -1 where no tap reads it.
  void list_columns(const StagePass& pass) {
    const LaneAxis& w = band_.axis[2];
    const int64_t start = q_[2] * w.step() + pass.base, extent = w.phases[0].extent;
    const int64_t begin = std::clamp<int64_t>(-start, 0, w.coordinates());
    x_ = start + begin;
    columns_ = std::max<int64_t>(0, std::min(extent - x_, w.coordinates() - begin));
    int64_t place = begin / w.step(), residue = begin % w.step();
    for (int64_t i = 0; i < columns_; ++i) {
      column_[i] = residue < pass.residues ? ((pass.group + residue) * band_.group_size() + place) * pitch_ : -1;
      if (++residue == w.step()) residue = 0, ++place;
    }
    pass_ = &pass;
  }

  // The source rows that taps read, in the order of memory: where each starts in its plane and in the stage.
  void list_rows(const StagePass& pass_d, const StagePass& pass_h, const Planes<const T, A>& planes) {
    const LaneAxis &d = band_.axis[0], &h = band_.axis[1];
    rows_ = 0;
    for (int64_t i = 0; i < d.staged(); ++i)
      for (int64_t rd = 0; rd < pass_d.residues; ++rd) {
        const int64_t z = source_of(d, pass_d, q_[0] + i, rd);
        if (z < 0) continue;
        for (int64_t j = 0; j < h.staged(); ++j)
          for (int64_t rh = 0; rh < pass_h.residues; ++rh) {
            const int64_t y = source_of(h, pass_h, q_[1] + j, rh);
            if (y < 0) continue;
            const int64_t group = ((pass_d.group + rd) * h.groups + pass_h.group + rh) * band_.axis[2].groups;
            row_place_[rows_] = (group * band_.group_size() + band_.place(i, j, 0)) * pitch_;
            row_offset_[rows_++] = z * planes.axis[0] + y * planes.axis[1];
          }
      }
  }
  // The source coordinate of a staged place, or -1 for a zero. The last places may lie beyond what any window reads,
  // further out than the padding mode is defined.
  int64_t source_of(const LaneAxis& a, const StagePass& pass, int64_t q, int64_t residue) const {
    const int64_t x = padded_source(mode_, q * a.step() + pass.base + residue, a.phases[0].extent);
    return x < a.phases[0].extent ? x : -1;
  }

  // Rows that follow each other in memory without a gap are read as one.
  void stage_rows(const Planes<const T, A>& planes, A* stage) const {
    for (int64_t first = 0; first < rows_;) {
      int64_t last = first + 1;
      if (columns_ == planes.axis[1] && planes.axis[2] == 1)
        while (last < rows_ && row_offset_[last] == row_offset_[last - 1] + columns_) ++last;
      stage_run(planes, first, last, stage);
      first = last;
    }
    if (mode_ != PaddingMode::kZeros)
      for (int64_t row = 0; row < rows_; ++row) pad_row(planes, row, stage + row_place_[row]);
  }

  void stage_run(const Planes<const T, A>& planes, int64_t row, int64_t last_row, A* stage) const {
    const int64_t step = planes.axis[2], pixels = (last_row - row) * columns_;
    const int64_t offset = row_offset_[row] + x_ * step;
    int64_t x = 0;
    A* to = stage + row_place_[row];
    for (int64_t i = 0; i < pixels; i += W)
      read_pixels<T, A>(planes, offset + i * step, step, std::min<int64_t>(W, pixels - i), [&](int, Vector<A> v) {
        if (column_[x] >= 0) store(to + column_[x], v);
        if (++x == columns_) {
          x = 0;
          if (++row < last_row) to = stage + row_place_[row];
        }
      });
  }

  // The columns of a row outside of the image, for padding modes other than zeros.
  void pad_row(const Planes<const T, A>& planes, int64_t row, A* to) const {
    const LaneAxis& w = band_.axis[2];
    for (int64_t i = 0; i < w.staged(); ++i)
      for (int64_t r = 0; r < pass_->residues; ++r) {
        const int64_t x = (q_[2] + i) * w.step() + pass_->base + r, source = source_of(w, *pass_, q_[2] + i, r);
        if (source < 0 || source == x) continue;
        A lanes[W];
        for (int l = 0; l < W; ++l) lanes[l] = widen(planes.start[l][row_offset_[row] + source * planes.axis[2]]);
        store(to + ((pass_->group + r) * band_.group_size() + i) * pitch_, load(lanes));
      }
  }

  const LaneBand& band_;
  PaddingMode mode_;
  A* stage_;
  const int64_t pitch_;
  int64_t* column_;
  int64_t* row_place_;
  int64_t* row_offset_;
  bool filled_ = false;
  int64_t q_[kSpatialAxes] = {0, 0, 0}, x_ = 0, columns_ = 0, rows_ = 0;
  const StagePass* pass_ = nullptr;
};
