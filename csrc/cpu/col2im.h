// Strided dgrad as one matrix product and a fold. Include only from engine.inl.h.
//
//   sums[(m, tap), x] = sum over c of weight[c, (m, tap)] * source[c, x]        a plain product: no taps, no padding
//   result[m, y]      = bias[m] + sum of sums[(m, tap), x] over tap, x with x * stride + tap * dilation - lo = y
//
//   weight [c][(m, tap)]  as it lies: a panel is rows of MR neighbours        sums of a channel, two taps, stride 2:
//   source [c][x]         as it lies: a panel is rows of NR neighbours          tap 0:  a0 a1 a2 ..  -> y = 0 2 4 ..
//                                                                               tap 1:  b0 b1 b2 ..  -> y = 1 3 5 ..
//                                                                               line:   a0 b0 a1 b1 a2 b2 ..
//
// The phases of packed_conv.h visit the weight once for every phase and have to pick its taps out of rows in which they
// do not neighbour each other, and they gather the image for every tap. Here both sides are copied as they lie, once a
// unit; a sum of many channels outweighs the few additions by which the fold ends it. It gathers: a unit owns its
// result positions and computes all sums that reach them, so nothing is scattered and the order of every sum (channels,
// then taps of axis 0, 1, 2 in turn) depends on nothing but the problem.
#pragma once

template <class A>
inline constexpr auto kLaneNumbers = [] {
  std::array<A, kLanes<A>> lane{};
  for (std::size_t i = 0; i < lane.size(); ++i) lane[i] = static_cast<A>(i);
  return lane;
}();

template <class T, class A, class Product>
class Col2imConv {
 public:
  Col2imConv(const ConvJob& job, const Col2imShape& shape, A* workspace)
      : job_(job),
        p_(*job.problem),
        shape_(shape),
        taps_(kernel_taps(p_)),
        reduction_(1, job.panel_depth, false),
        epilogue_(job),
        is_flat_(has_flat_source()),
        spreads_(spreads()),
        source_region_(source_region()) {
    const Col2imWorkspace sizes(p_, shape, job.tile);
    pitch_ = sizes.pitch;
    weight_ = workspace;
    image_ = weight_ + sizes.weight;
    sums_ = image_ + sizes.image;
    phases_ = sums_ + sizes.sums;
    line_ = phases_ + sizes.phases;
    phase_pitch_ = sizes.phases / p_.axis[2].stride;
  }

  void run(int64_t index) {
    const ConvAxis& cut = p_.axis[shape_.cut];
    const int64_t bands = divide_up(cut.input, shape_.band), image_blocks = divide_up(p_.batch, shape_.images);
    // The channel blocks of some pixels follow each other, so that a thread finds those pixels in its cache.
    const int64_t channel_blocks = divide_up(job_.rows, shape_.channels);
    first_channel_ = index % channel_blocks * shape_.channels;
    index /= channel_blocks;
    channels_ = std::min(shape_.channels, job_.rows - first_channel_);
    begin_ = index % bands * shape_.band;
    end_ = std::min(begin_ + shape_.band, cut.input);
    index /= bands;
    first_image_ = index % image_blocks * shape_.images;
    images_ = std::min(shape_.images, p_.batch - first_image_);
    group_ = index / image_blocks;
    const SourceRange range(cut, begin_, end_);
    first_source_ = shape_.whole(p_) ? 0 : range.first;
    source_count_ = shape_.whole(p_) ? cut.output : range.last - range.first;
    image_pixels_ = output_pixels(p_) / cut.output * source_count_;
    multiply_all();
    fold();
  }

 private:
  static constexpr int64_t kColumns = kTileColumns<A>;
  static constexpr int W = kLanes<A>;
  static constexpr int kTerms = Product::kTerms;
  static constexpr int64_t kRowsAtOnce = 8;

  // Whether the source's pixels follow each other through all of an image.
  bool has_flat_source() const {
    int64_t distance = 1;
    for (int i = kSpatialAxes; i-- > 0; distance *= p_.axis[i].output)
      if (p_.axis[i].output > 1 && job_.source_strides.axis[i] != distance) return false;
    return true;
  }

  // The source's pixels, as one long axis if they are flat, so that runs do not end with a row.
  Region source_region() const {
    Region r;
    if (is_flat_) {
      r.axis[2].count = r.axis[2].extent = output_pixels(p_);
    } else {
      for (int i = 0; i < kSpatialAxes; ++i) r.axis[i].count = r.axis[i].extent = p_.axis[i].output;
    }
    return r;
  }

  void multiply_all() {
    const int64_t rows = channels_ * taps_, pixels = images_ * image_pixels_;
    const Panels panels(rows, job_.tile.rows);
    Strides strides = job_.source_strides;
    if (is_flat_) strides.axis[2] = 1;
    for (int64_t b = 0; b < reduction_.blocks(); ++b) {
      const Block block = reduction_.block(b);
      pack_weight(block, panels);
      const ImageReader<T> reader{static_cast<const T*>(job_.source) + group_ * job_.depth * strides.channel, strides,
                                  &source_region_, PaddingMode::kZeros, &p_};
      for (int64_t x = 0; x < pixels; x += kColumns) {
        const int64_t count = std::min(kColumns, pixels - x), width = count <= W ? W : kColumns;
        gather(reader, block, x, count, width);
        for (int64_t p = 0; p < panels.count; ++p) {
          const TileCall<A> call{block.length(), weight_ + panels.start(p) * block.length(),
                                 image_,         sums_ + panels.start(p) * pitch_ + x,
                                 pitch_,         b == 0 ? TileStart::kZero : TileStart::kPartialSum,
                                 nullptr};
          multiply_columns<A, Product>(panels.rows(p), width, call);
        }
      }
    }
  }

  // Packs the block of the unit's weight: panels [channel][MR neighbours among (result channel, tap)].
  void pack_weight(const Block& block, const Panels& panels) {
    const int64_t h = p_.axis[1].kernel, w = p_.axis[2].kernel;
    const bool dense = job_.weight_row == taps_ && (w == 1 || job_.weight_tap[2] == 1) &&
                       (h == 1 || job_.weight_tap[1] == w) && (p_.axis[0].kernel == 1 || job_.weight_tap[0] == h * w);
    const T* from = static_cast<const T*>(job_.weight) + group_ * job_.weight_group +
                    block.channel * kTerms * job_.weight_depth + first_channel_ * job_.weight_row;
    // Rows of the weight lie far apart: some of them at a time, each along all panels.
    for (int64_t c = 0; dense && c < block.length(); c += kRowsAtOnce)
      for (int64_t p = 0; p < panels.count; ++p)
        copy_rows(weight_ + panels.start(p) * block.length(), from + panels.start(p), panels.rows(p), block, c);
    if (dense) return;
    for (int64_t p = 0; p < panels.count; ++p) {
      const int64_t start = panels.start(p), width = panels.rows(p);
      A* to = weight_ + start * block.length();
      for (int64_t i = 0; i < width; ++i) {
        const int64_t m = (start + i) / taps_, tap = (start + i) % taps_;
        const T* column = from + m * job_.weight_row + tap / (h * w) * job_.weight_tap[0] +
                          tap / w % h * job_.weight_tap[1] + tap % w * job_.weight_tap[2];
        for (int64_t c = 0; c < block.length(); ++c)
          copy(to + c * width + i, row_of(column, block, c, job_.weight_depth), 1, 1);
      }
    }
  }

  // What a row of panels is made of: a row of the source or of the weight, or two that are paired.
  struct SourceRow {
    const T* data;
    const T* odd;  // null: zeros
  };
  // Channel c of a block whose first one stands at `data`, or pair c.
  SourceRow row_of(const T* data, const Block& block, int64_t c, int64_t distance) const {
    if constexpr (kTerms == 1) return {data + c * distance, nullptr};
    const T* even = data + 2 * c * distance;
    return {even, odd_channel(even, block.channel + c, job_.depth, distance)};
  }
  static void copy(A* to, const SourceRow& row, int64_t step, int64_t count) {
    if constexpr (kTerms == 2) {
      interleave_strided(to, row.data, row.odd, step, count);
    } else {
      copy_strided(to, row.data, step, count);
    }
  }
  // A vector of a row from its x-th element on; a paired row has an odd one.
  static void copy_vector(A* to, const SourceRow& row, int64_t x) {
    if constexpr (kTerms == 2) {
      interleave_group<W>(to, row.data + x, row.odd + x);
    } else {
      store(to, load_widened<A>(row.data + x));
    }
  }

  // Copies some of the block's rows of fewer than two vectors, from row c on, to neighbouring rows: as whole vectors
  // while what they spill over, on either side, belongs to the rows that follow. Asks for the rows of the next time.
  void copy_rows(A* to, const T* from, int64_t width, const Block& block, int64_t c) const {
    const int64_t distance = job_.weight_depth, count = block.length(), end = std::min(c + kRowsAtOnce, count);
    const int64_t ahead = kRowsAtOnce * kTerms * distance;
    if (width <= W)
      for (; c < end && (count - 1 - c) * std::min(width, distance) >= W; ++c) {
        const SourceRow row = row_of(from, block, c, distance);
        __builtin_prefetch(row.data + ahead);
        if (kTerms == 2) __builtin_prefetch(row.odd + ahead);
        copy_vector(to + c * width, row, 0);
      }
    for (; c < end; ++c) copy(to + c * width, row_of(from, block, c, distance), 1, width);
  }

  // Packs `count` of the unit's pixels from its x-th on, in rows of `width`.
  void gather(const ImageReader<T>& reader, const Block& block, int64_t x, int64_t count, int64_t width) {
    const int64_t inner = output_pixels(p_) / p_.axis[shape_.cut].output;
    PixelRun runs[kColumns];
    const int64_t first = (first_image_ * p_.axis[shape_.cut].output + first_source_) * inner + x;
    const int run_count = make_runs(source_region_, first, count, runs);
    if (run_count == 1 && count == kColumns && reader.strides.axis[2] == 1) {
      const PixelRun& run = runs[0];
      const int64_t distance = reader.strides.channel;
      const T* from = reader.data + run.n * reader.strides.outer + block.channel * kTerms * distance;
      for (int i = 0; i < kSpatialAxes; ++i) from += run.q[i] * reader.strides.axis[i];
      for (int64_t c = 0; c < block.length(); ++c) {
        const SourceRow row = row_of(from, block, c, distance);
        if (kTerms == 2 && !row.odd) {
          copy(image_ + c * kColumns, row, 1, kColumns);
        } else {
          for (int j = 0; j < kVectors; ++j) copy_vector(image_ + c * kColumns + j * W, row, j * W);
        }
      }
      return;
    }
    const RowTarget<A> target{image_, width, 0};
    if constexpr (kTerms == 2)
      return gather_pairs_pixelwise<T, A>(reader, job_.depth, block, runs, run_count, width, target);
    gather_pixelwise<T, A>(reader, block, runs, run_count, width, target);
  }

  // Result positions of an axis in this unit.
  int64_t first_of(int axis) const { return axis == shape_.cut ? begin_ : 0; }
  int64_t last_of(int axis) const { return axis == shape_.cut ? end_ : p_.axis[axis].input; }

  // The source position that reaches result position y under a tap, as a place in the unit's sums; or -1.
  int64_t source_of(int axis, int64_t y, int64_t tap) const {
    const ConvAxis& a = p_.axis[axis];
    const int64_t x = y + a.lo - tap * a.dilation;
    if (x < 0 || x % a.stride != 0 || x / a.stride >= a.output) return -1;
    return x / a.stride - (axis == shape_.cut ? first_source_ : 0);
  }

  // A tap of the last axis: phase position q in [begin, end) gets the sum of source position q - first.
  struct LineTap {
    int64_t tap, phase, first, begin, end;
  };

  // Finds the taps of the unit's lines, in the order of their phases.
  void find_line_taps() {
    const ConvAxis& w = p_.axis[2];
    const int64_t widths = width(2), offset = shape_.cut == 2 ? first_source_ * w.stride : 0;
    int made = 0;
    for (int64_t phase = 0; phase < w.stride; ++phase)
      for (int64_t t = 0; t < w.kernel; ++t) {
        const int64_t y = offset + t * w.dilation - w.lo - first_of(2);  // the result of the first sum
        if (((y - phase) % w.stride + w.stride) % w.stride != 0) continue;
        const int64_t first = (y - phase) / w.stride;
        line_taps_[made++] = {t, phase, first, std::max<int64_t>(0, first), first + widths};
      }
  }
  int64_t width(int axis) const { return axis == shape_.cut ? source_count_ : p_.axis[axis].output; }

  void fold() {
    const ConvAxis* axis = p_.axis;
    const Strides& s = job_.result_strides;
    find_line_taps();
    // Lines of whole vectors of results are written where they belong.
    const bool in_place =
        std::is_same_v<T, A> && epilogue_.is_bias() && s.axis[2] == 1 && (last_of(2) - first_of(2)) % (2 * W) == 0;
    for (int64_t d = first_of(0); d < last_of(0); ++d)
      for (int64_t h = first_of(1); h < last_of(1); ++h) {
        int64_t rows[kMostCol2imTaps];  // offsets of the rows of sums that reach the line, for the first of its taps
        int row_count = 0;
        for (int64_t td = 0; td < axis[0].kernel; ++td) {
          const int64_t xd = source_of(0, d, td);
          if (xd < 0) continue;
          for (int64_t th = 0; th < axis[1].kernel; ++th) {
            const int64_t xh = source_of(1, h, th);
            if (xh < 0) continue;
            rows[row_count++] = (td * axis[1].kernel + th) * axis[2].kernel * pitch_ + (xd * width(1) + xh) * width(2);
          }
        }
        T* line = static_cast<T*>(job_.result) + d * s.axis[0] + h * s.axis[1] + first_of(2) * s.axis[2] +
                  first_image_ * s.outer + (group_ * job_.rows + first_channel_) * s.channel;
        for (int64_t i = 0; i < images_; ++i)
          for (int64_t m = 0; m < channels_; ++m) {
            const A* const sums = sums_ + m * taps_ * pitch_ + i * image_pixels_;
            T* const to = line + i * s.outer + m * s.channel;
            A* const at = in_place ? reinterpret_cast<A*>(to) : line_;
            if (row_count == 0) {
              fill_line(at, bias_of(m));
            } else if (spreads_) {
              spread_line(at, sums + rows[0], bias_of(m));
            } else {
              fold_line(at, sums, rows, row_count, bias_of(m));
            }
            if (!in_place) write_line(to);
          }
      }
  }

  A bias_of(int64_t m) const {
    if (!job_.epilogue.bias) return A{0};
    return static_cast<const A*>(job_.packed_bias)[group_ * job_.bias_channels() + first_channel_ + m];
  }

  // A line that no source reaches.
  void fill_line(A* line, A bias) const {
    const int64_t positions = last_of(2) - first_of(2);
    for (int64_t i = 0; i < positions; i += W) store(line + i, Vector<A>{} + bias);
  }

  // Whether a single tap gives every other result of a line, from the first on, its only sum: nothing to add up, and
  // the last sum is of the last such result.
  bool spreads() const {
    const ConvAxis& w = p_.axis[2];
    return taps_ == 1 && w.stride == 2 && w.lo == 0 && shape_.cut != 2 && w.output == divide_up(w.input, 2);
  }
  void spread_line(A* line, const A* row, A bias) const {
    const int64_t positions = last_of(2) - first_of(2);
    const Vector<A> odd = Vector<A>{} + bias;
    for (int64_t i = 0; i < positions; i += 2 * W, row += W) {
      const Vector<A> even = odd + load(row);
      store(line + i, interleave_low<A>(even, odd));
      store(line + i + W, interleave_high<A>(even, odd));
    }
  }

  // Folds one line of results.
  void fold_line(A* line, const A* sums, const int64_t* rows, int row_count, A bias) {
    const int64_t stride = p_.axis[2].stride, positions = last_of(2) - first_of(2);
    const LineTap *tap = line_taps_, *const last = line_taps_ + p_.axis[2].kernel;
    for (int64_t phase = 0; phase < stride && phase < positions; ++phase) {
      const LineTap* const first = tap;
      while (tap < last && tap->phase == phase) ++tap;
      for (int64_t q = 0; q * stride + phase < positions; q += W) {
        Vector<A> sum = Vector<A>{} + bias;
        for (int r = 0; r < row_count; ++r)
          for (const LineTap* t = first; t < tap; ++t) sum += addend(sums + rows[r] + t->tap * pitch_, *t, q);
        store(phases_ + phase * phase_pitch_ + q, sum);
      }
    }
    interleave_phases(line);
  }

  // What a row of sums gives to phase positions q to q + W: zeros where they have no source. Around the row there is
  // workspace to read.
  static Vector<A> addend(const A* row, const LineTap& tap, int64_t q) {
    const Vector<A> zero = {};
    if (q >= tap.end || q + W <= tap.begin) return zero;
    const Vector<A> all = load(row + (q - tap.first));
    if (q >= tap.begin && q + W <= tap.end) return all;
    const Vector<A> lane = load(kLaneNumbers<A>.data());
    const Vector<A> begun = lane < zero + static_cast<A>(tap.begin - q) ? zero : all;
    return lane < zero + static_cast<A>(tap.end - q) ? begun : zero;
  }

  void interleave_phases(A* line) const {
    const int64_t stride = p_.axis[2].stride, positions = last_of(2) - first_of(2);
    if (stride == 2) {
      for (int64_t i = 0, q = 0; i < positions; i += 2 * W, q += W) {
        const Vector<A> even = load(phases_ + q), odd = load(phases_ + phase_pitch_ + q);
        store(line + i, interleave_low<A>(even, odd));
        store(line + i + W, interleave_high<A>(even, odd));
      }
      return;
    }
    for (int64_t phase = 0; phase < stride; ++phase)
      for (int64_t i = phase, q = phase * phase_pitch_; i < positions; i += stride) line[i] = phases_[q++];
  }

  void write_line(T* to) const {
    const int64_t step = job_.result_strides.axis[2], n = last_of(2) - first_of(2);
    if (!epilogue_.is_bias()) return epilogue_.write({to, 0, step, line_, 0, 1, 1, n});
    if constexpr (std::is_same_v<T, A>) {
      if (step == 1) return copy_row(to, line_, n);
    }
    store_line(to, step, line_, 1, n);
  }

  const ConvJob& job_;
  const ConvProblem& p_;
  const Col2imShape shape_;
  const int64_t taps_;
  const Reduction reduction_;
  const EpilogueOf<T, A> epilogue_;
  const bool is_flat_;
  const bool spreads_;
  const Region source_region_;
  int64_t pitch_, phase_pitch_;
  A *weight_, *image_, *sums_, *phases_, *line_;
  // The unit: channels, images, result positions [begin_, end_) of the cut axis and the source positions they need.
  int64_t group_ = 0, first_channel_ = 0, channels_ = 0, first_image_ = 0, images_ = 0;
  int64_t begin_ = 0, end_ = 0, first_source_ = 0, source_count_ = 0, image_pixels_ = 0;
  LineTap line_taps_[kMostCol2imTaps];
};
