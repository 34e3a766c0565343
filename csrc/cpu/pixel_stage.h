// Where the terms of a tile of pixels are, block after block of the reduction, for pixel_rows.h. Include only from
// engine.inl.h.
//
//                term:  tap 0: c0 c1 ..  tap 1: c0 c1 ..
//   rows[pixel]         +----------------+----------------+--
//                       | x[q + 0][all c]| x[q + 1][all c]|
//                       +----------------+----------------+--
//
// A tile takes the first of these places that it can:
//
//   single tap   the image, for pixels of any rows that stand at one distance
//   windows      the image: pixels of one result row whose windows lie inside of it. Windows overlap; a term stands at
//                the same offset in all of them
//   segments     copies of the image rows that the windows of one result row touch, with their padding
//   rows         each pixel's terms copied one after another. Where all channels of a pixel are summed, neighbouring
//                taps are neighbours in memory: a kernel row is one run of kw * C elements
#pragma once

template <class T, class A>
struct PixelTile {
  int64_t start, rows;   // pixels of the unit
  const PixelRun* runs;  // their columns count from the tile's first pixel
  int run_count;
  T* to;               // the first result channel of the group
  int64_t to_row;      // distance between the pixels' results, or 0 where it varies
  int64_t begin, end;  // those of the tile's pixels that the block adds to
  const A* a;          // the block's terms of the first pixel
  RowPlaces places;
};

template <class T, class A>
class PixelStage {
  using Tile = PixelTile<T, A>;

 public:
  // For one group of a region. `rows` has room for kReductionBlock terms of each of a unit's pixels.
  PixelStage(const ConvJob& job, const RegionJob& region, int64_t tile_rows, int64_t group, A* rows)
      : region_(*region.region), tile_rows_(tile_rows), rows_(rows) {
    image_ = {static_cast<const T*>(job.source) + group * job.depth * job.source_strides.channel, job.source_strides,
              &region_, job.source_mode, job.problem};
    image_end_ = image_.data + (job.problem->batch - 1) * image_.strides.outer + job.depth;
    for (int i = 0; i < kSpatialAxes; ++i) image_end_ += (region_.axis[i].extent - 1) * image_.strides.axis[i];
    const int64_t width = region_.axis[2].count;
    tiles_end_with_rows_ = region_.taps() > 1 && 3 * width >= 2 * divide_up(width, tile_rows_) * tile_rows_;
  }

  // Windows are at one distance only along a row, so tiles end with it, unless that would leave them short.
  bool tiles_end_with_rows() const { return tiles_end_with_rows_; }

  void begin(const Block& block) {
    block_ = block;
    list_offsets();
  }

  // Finds or makes a place for the tile's terms of the block.
  void place(Tile& tile) {
    if (reads_nothing(tile)) return;
    if (!read_in_place(tile) && !read_windows(tile) && !stage_segments(tile)) stage_rows(tile);
  }

 private:
  // Leaves out pixels that read nothing but zero padding under the block's single tap, which adds zero to sums that are
  // never -0: with a large dilation they are half of all. Only where tiles end with rows, however pixels are cut into
  // units: 0 * Inf must not depend on the number of threads. Returns whether the tile has no others.
  bool reads_nothing(Tile& tile) const {
    tile.begin = 0, tile.end = tile.rows;
    if (block_.taps != 1 || !tiles_end_with_rows_ || image_.mode != PaddingMode::kZeros) return false;
    const Tap tap = tap_at(region_, block_.tap);
    const PixelRun& run = tile.runs[0];
    const GatherAxis* g = region_.axis;
    for (int i = 0; i < 2; ++i) {
      const int64_t x = run.q[i] * g[i].step + tap_offset(g[i], tap.t[i]);
      if (x < 0 || x >= g[i].extent) tile.end = 0;
    }
    const int64_t x = run.q[2] * g[2].step + tap_offset(g[2], tap.t[2]);
    tile.begin = std::min(positions_below(x, g[2].step), tile.end);
    tile.end = std::clamp(positions_below(x - g[2].extent, g[2].step), tile.begin, tile.end);
    if (tile.begin < tile.end) return false;
    tile.a = kZeros<A>;
    tile.places = {0, nullptr};
    return true;
  }

  // Points the tile at the image, if one tap of all its pixels lies there at one distance.
  bool read_in_place(Tile& tile) const {
    if constexpr (!std::is_same_v<T, A>) {
      return false;
    } else {
      if (block_.taps != 1) return false;
      Piece pieces[3 * kTileRows];
      const int made = make_pieces(image_, tap_at(region_, block_.tap), tile.runs, tile.run_count, pieces);
      const int64_t step = region_.axis[2].step * image_.strides.axis[2];
      const int64_t distance = pieces[0].len > 1 || made == 1 ? step : pieces[1].offset - pieces[0].offset;
      for (int i = 0; i < made; ++i)
        if (pieces[i].offset < 0 || pieces[i].offset != pieces[0].offset + pieces[i].column * distance ||
            (pieces[i].len > 1 && distance != step))
          return false;
      if (distance * static_cast<int64_t>(sizeof(A)) % kSetDistance == 0) return false;
      tile.a = image_.data + pieces[0].offset + block_.channel;
      tile.places = {distance, nullptr};
      return true;
    }
  }

  // Where the block's terms stand in a window of the image, and in one of segments.
  void list_offsets() {
    const GatherAxis* g = region_.axis;
    segment_ = (tile_rows_ - 1) * g[2].step + (g[2].taps - 1) * std::abs(g[2].off_step) + 1;
    row_q_[0] = -1;
    Tap tap = block_.taps > 0 ? tap_at(region_, block_.tap) : Tap{};
    for (int64_t t = 0, k = 0, row = 0; t < block_.taps; ++t) {
      int64_t in_image = 0;
      for (int i = 0; i < kSpatialAxes; ++i) in_image += tap.t[i] * g[i].off_step * image_.strides.axis[i];
      const int64_t in_segments = (row * segment_ + tap.t[2] * g[2].off_step - first_column()) * block_.channels;
      for (int64_t c = 0; c < block_.channels; ++c, ++k)
        image_offset_[k] = in_image + c, segment_offset_[k] = in_segments + c;
      if (++tap.t[2] < g[2].taps) continue;
      tap.t[2] = 0, ++row;
      if (++tap.t[1] == g[1].taps) tap.t[1] = 0, ++tap.t[0];
    }
  }
  // The least offset of a tap in its row.
  int64_t first_column() const {
    const GatherAxis& g = region_.axis[2];
    return std::min<int64_t>(0, (g.taps - 1) * g.off_step);
  }

  // Points the tile at the image, if the windows of all its pixels lie inside of it.
  bool read_windows(Tile& tile) {
    if constexpr (!std::is_same_v<T, A>) {
      return false;
    } else {
      const int64_t distance = region_.axis[2].step * image_.strides.axis[2];
      if (tile.run_count != 1 || distance * static_cast<int64_t>(sizeof(A)) % kSetDistance == 0) return false;
      const PixelRun& run = tile.runs[0];
      if (run.n != row_image_ || run.q[0] != row_q_[0] || run.q[1] != row_q_[1]) enter_row(run);
      const GatherAxis& g = region_.axis[2];
      const int64_t first = run.q[2] * g.step + g.off0, last = first + (run.len - 1) * g.step;
      if (!row_ || !windows_inside(g, first, last)) return false;
      tile.a = row_ + first * image_.strides.axis[2];
      tile.places = {distance, image_offset_};
      return true;
    }
  }
  // Whether all that the taps read of positions whose first tap stands at [first, last] lies inside of the image.
  static bool windows_inside(const GatherAxis& g, int64_t first, int64_t last) {
    const int64_t across = (g.taps - 1) * g.off_step;
    return first + std::min<int64_t>(0, across) >= 0 && last + std::max<int64_t>(0, across) < g.extent;
  }
  // Finds the image row under the run's first tap, null where a tap reads padding: neighbouring tiles share it.
  void enter_row(const PixelRun& run) {
    row_image_ = run.n, row_q_[0] = run.q[0], row_q_[1] = run.q[1];
    row_ = image_.data + block_.channel + run.n * image_.strides.outer;
    for (int i = 0; i < 2; ++i) {
      const GatherAxis& g = region_.axis[i];
      const int64_t x = run.q[i] * g.step + g.off0;
      if (!windows_inside(g, x, x)) return row_ = nullptr, void();
      row_ += x * image_.strides.axis[i];
    }
  }

  // Distance between the places of two pixels' terms in the workspace, which has kReductionBlock for each.
  int64_t staged_distance() const {
    const int64_t distance = round_up(block_.length(), kLanes<A>);
    return distance + (distance + kLanes<A> <= kReductionBlock ? kLanes<A> : 0);
  }

  // Copies the image rows under the tile's windows, unless that is more than the windows' terms themselves.
  bool stage_segments(Tile& tile) {
    const Region& region = region_;
    const GatherAxis* g = region.axis;
    if (block_.length() == 0) return false;
    const int64_t first = block_.tap / g[2].taps, last = (block_.tap + block_.taps - 1) / g[2].taps;
    const int64_t distance = g[2].step * block_.channels;
    if (tile.run_count != 1 || (last - first + 1) * segment_ * block_.channels > tile.rows * block_.length() ||
        distance * static_cast<int64_t>(sizeof(A)) % kSetDistance == 0)
      return false;
    A* to = rows_ + tile.start * staged_distance();
    tile.a = to;
    tile.places = {distance, segment_offset_};
    const PixelRun& run = tile.runs[0];
    const int64_t columns = (tile.rows - 1) * g[2].step + (g[2].taps - 1) * std::abs(g[2].off_step) + 1;
    for (int64_t row = first; row <= last; ++row, to += segment_ * block_.channels)
      stage_segment(tap_at(region, row * g[2].taps), run, columns, to);
    return true;
  }

  // `columns` neighbours from the first one that the run reads in the row of this tap.
  void stage_segment(const Tap& tap, const PixelRun& run, int64_t columns, A* to) const {
    const GatherAxis* g = region_.axis;
    const int64_t channels = block_.channels, pixel = image_.strides.axis[2];
    const int64_t d = padded_source(image_.mode, run.q[0] * g[0].step + tap_offset(g[0], tap.t[0]), g[0].extent);
    const int64_t h = padded_source(image_.mode, run.q[1] * g[1].step + tap_offset(g[1], tap.t[1]), g[1].extent);
    if (d < 0 || h < 0) return std::fill_n(to, columns * channels, A{0}), void();
    const T* row = image_.data + block_.channel + run.n * image_.strides.outer + d * image_.strides.axis[0] +
                   h * image_.strides.axis[1];
    const int64_t x = run.q[2] * g[2].step + g[2].off0 + first_column();
    const int64_t begin = std::clamp<int64_t>(-x, 0, columns);
    const int64_t end = std::clamp<int64_t>(g[2].extent - x, begin, columns);
    const auto pad = [&](int64_t from, int64_t until) {
      for (int64_t j = from; j < until; ++j) {
        const int64_t w = padded_source(image_.mode, x + j, g[2].extent);
        if (w < 0) {
          std::fill_n(to + j * channels, channels, A{0});
        } else {
          copy_strided(to + j * channels, row + w * pixel, 1, channels);
        }
      }
    };
    pad(0, begin);
    if (pixel == channels) {
      copy_strided(to + begin * channels, row + (x + begin) * pixel, 1, (end - begin) * channels);
    } else {
      for (int64_t j = begin; j < end; ++j) copy_strided(to + j * channels, row + (x + j) * pixel, 1, channels);
    }
    pad(end, columns);
  }

  // Copies the tile's terms of the block to rows of its own.
  void stage_rows(Tile& tile) {
    const int64_t distance = staged_distance();
    has_slack_ = distance >= block_.length() + kLanes<A>;
    A* rows = rows_ + tile.start * distance;
    tile.a = rows;
    tile.places = {distance, nullptr};
    const Region& region = region_;
    const GatherAxis* g = region.axis;
    const int64_t last = block_.tap + block_.taps;
    for (int64_t t = block_.tap; t < last;) {
      const Tap tap = tap_at(region, t);
      const int64_t taps = std::min(g[2].taps - tap.t[2], last - t);  // of one kernel row
      for (int i = 0; i < tile.run_count; ++i) {
        const PixelRun& run = tile.runs[i];
        const int64_t d = padded_source(image_.mode, run.q[0] * g[0].step + tap_offset(g[0], tap.t[0]), g[0].extent);
        const int64_t h = padded_source(image_.mode, run.q[1] * g[1].step + tap_offset(g[1], tap.t[1]), g[1].extent);
        A* to = rows + run.column * distance + (t - block_.tap) * block_.channels;
        if (d < 0 || h < 0) {
          for (int64_t j = 0; j < run.len; ++j) std::fill_n(to + j * distance, taps * block_.channels, A{0});
        } else {
          const T* row = image_.data + block_.channel + run.n * image_.strides.outer + d * image_.strides.axis[0] +
                         h * image_.strides.axis[1];
          stage_kernel_row(row, run.q[2], run.len, tap.t[2], taps, to, distance);
        }
      }
      t += taps;
    }
  }

  // The terms of taps [first, first + taps) of a kernel row for `len` pixels from position q on.
  void stage_kernel_row(const T* row, int64_t q, int64_t len, int64_t first, int64_t taps, A* to,
                        int64_t distance) const {
    const GatherAxis& g = region_.axis[2];
    const int64_t pixel = image_.strides.axis[2], channels = block_.channels;
    const int64_t x = q * g.step + tap_offset(g, first);  // what the first tap of the first pixel reads
    if (g.off_step != 1 || pixel != channels) {           // a tap at a time
      if (taps > 1) {
        for (int64_t t = 0; t < taps; ++t) stage_kernel_row(row, q, len, first + t, 1, to + t * channels, distance);
        return;
      }
    }
    int64_t begin = std::min(positions_below(x, g.step), len);
    const int64_t end = std::max(begin, std::min(positions_below(x + taps - 1 - g.extent, g.step), len));
    const auto stage_edge = [&](int64_t from, int64_t until) {
      for (int64_t j = from; j < until; ++j)
        for (int64_t t = 0; t < taps; ++t) {
          const int64_t w = padded_source(image_.mode, x + j * g.step + t * g.off_step, g.extent);
          A* at = to + j * distance + t * channels;
          if (w < 0) {
            std::fill_n(at, channels, A{0});
          } else {
            copy_strided(at, row + w * pixel, 1, channels);
          }
        }
    };
    stage_edge(0, begin);
    const int64_t length = taps * channels;
    if constexpr (std::is_same_v<T, A>) {
      // Whole vectors, which spill over what is staged after them, or over the slack at the end of the row.
      if (length < kLanes<A> && has_slack_) {
        int64_t whole = end;  // up to here a vector ends inside of the image's memory
        while (whole > begin && row + (x + (whole - 1) * g.step) * pixel + kLanes<A> > image_end_) --whole;
        for (; begin < whole; ++begin) store(to + begin * distance, load(row + (x + begin * g.step) * pixel));
      }
    }
    for (int64_t j = begin; j < end; ++j) copy_strided(to + j * distance, row + (x + j * g.step) * pixel, 1, length);
    stage_edge(end, len);
  }

  const Region& region_;
  int64_t tile_rows_;
  ImageReader<T> image_;
  const T* image_end_;
  A* rows_;
  bool tiles_end_with_rows_;
  bool has_slack_ = false;
  Block block_{};
  int64_t row_image_ = 0, row_q_[2] = {-1, -1};  // of the row entered
  const T* row_ = nullptr;
  int64_t segment_ = 0;  // columns between the segments of a tile
  int64_t image_offset_[kReductionBlock], segment_offset_[kReductionBlock];
};
