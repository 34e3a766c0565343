// wgrad on channels_last images as outer products of pixels, read where they lie. Include only from engine.inl.h.
//
//   result[k][(row of taps), (tw, c)] = sum over pixels of grad[pixel][k] * row[pixel * stride + (tw, c)]
//
// A pixel's channels are contiguous in both images, so neither side is packed: one side's are broadcast one by one, the
// other side's are loaded as vectors. Where the source's pixels follow each other without a gap and the taps without a
// dilation, the window of one row of taps is one run of columns (tw, c): an image of three channels under seven taps is
// 21 wide, not three. Vectors run along the columns, or along the filters where those fill them better.
//
//                              columns: NV vectors
//                            +---------+---------+
//   grad[pixel][k .. k+MR)   | sum     | sum     |    One pixel: NV loads, MR broadcasts folded into MR * NV fused
//   broadcast, one by one    |  MR rows|         |    multiply-adds. As in microkernel.h, 14 x 2 on AVX-512, or 28 x 1
//                            +---------+---------+    where one vector is left.
//
// The last vector starts early, so that nothing is read beyond a window; what it computes again is dropped. A line is a
// piece of a result row; lines are summed in registers up to a chunk of kReductionBlock pixels, then they join the
// result. Rows whose windows reach beyond the source are copied into a stage with their padding first. Lines and chunks
// follow from the shape alone.
#pragma once

template <class A>
struct OuterLine {
  const A* rows;     // broadcast
  const A* vectors;  // loaded
  int64_t length;
};

template <class A>
struct OuterTile {
  const OuterLine<A>* lines;
  int64_t line_count;
  int64_t row_step, vector_step;  // between pixels
  int64_t row;                    // the first
  const int64_t* column;          // where each vector starts
  A* sums;                        // [MR][NV vectors]
};

template <class A, int MR, int NV>
void multiply_lines(const OuterTile<A>& tile) {
  constexpr int W = kLanes<A>;
  Vector<A> sum[MR][NV] = {};
  const int64_t row_step = tile.row_step, vector_step = tile.vector_step;
  for (int64_t l = 0; l < tile.line_count; ++l) {
    const A* row = tile.lines[l].rows + tile.row;
    const A* from[NV];
    for (int v = 0; v < NV; ++v) from[v] = tile.lines[l].vectors + tile.column[v];
    for (int64_t i = tile.lines[l].length; i > 0; --i) {
      Vector<A> x[NV];
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) x[v] = load(from[v]);
#pragma GCC unroll 32
      for (int r = 0; r < MR; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) sum[r][v] += x[v] * row[r];
      row += row_step;
      for (int v = 0; v < NV; ++v) from[v] += vector_step;
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) store(tile.sums + (r * NV + v) * W, sum[r][v]);
}

template <class A>
using OuterFunction = void (*)(const OuterTile<A>&);
template <class A, int NV, std::size_t... I>
constexpr std::array<OuterFunction<A>, sizeof...(I)> outer_functions(std::index_sequence<I...>) {
  return {&multiply_lines<A, static_cast<int>(I) + 1, NV>...};
}
// Most rows of a tile of NV vectors; kOuter<A, NV>[rows - 1] multiplies it.
template <int NV>
inline constexpr int kOuterRows = kTileRows * kVectors / NV;
template <class A, int NV>
inline constexpr auto kOuter = outer_functions<A, NV>(std::make_index_sequence<kOuterRows<NV>>{});

// One unit: a block of filters of a group over one slice of the chunks.
template <class A>
class OuterWgrad {
  static constexpr int W = kLanes<A>;

 public:
  OuterWgrad(const WgradJob& job, void* workspace)
      : job_(job),
        p_(*job.problem),
        region_(job.source_region),
        bands_(region_, p_.batch),
        stage_(static_cast<A*>(workspace)) {
    const GatherAxis& w = region_.axis[2];
    // a run of columns is what one row of taps reads, or one tap
    const bool merged = w.off_step == 1 && p_.groups == 1 && job.source_strides.axis[2] == p_.in_channels;
    runs_ = merged ? 1 : w.taps;
    taps_in_run_ = merged ? w.taps : 1;
    columns_ = taps_in_run_ * p_.in_channels;
    const int64_t first = w.off0, last = w.off0 + (w.taps - 1) * w.off_step;
    staged_ = first < 0 || (w.count - 1) * w.step + last >= w.extent || columns_ < W;
    grad_step_ = job.grad_strides.axis[2];
    source_step_ = w.step * (staged_ ? p_.in_channels : job.source_strides.axis[2]);
  }

  void run(int64_t unit) {
    const Panels filters = job_.filter_blocks();
    const int64_t block = unit % filters.count;
    unit /= filters.count;
    group_ = unit % p_.groups;
    const int64_t slice = unit / p_.groups;
    first_filter_ = filters.start(block), filters_ = filters.rows(block);
    const int64_t row = group_ * p_.out_channels + first_filter_, columns = job_.columns();
    if (job_.in_place) {
      to_ = static_cast<A*>(job_.result) + row * job_.result_strides.outer;
      distance_ = job_.result_strides.outer;
    } else {
      const int64_t before = (slice * p_.groups + group_) * p_.out_channels * columns;
      distance_ = job_.shape.filters_are_vectors ? p_.out_channels : columns;
      to_ = static_cast<A*>(job_.partial) + before + first_filter_ * (job_.shape.filters_are_vectors ? 1 : columns);
    }
    const int64_t chunks = bands_.chunks(p_.batch), begin = slice * chunks / job_.slices;
    const int64_t end = (slice + 1) * chunks / job_.slices;
    if (begin == end) clear(0, columns);
    for (int64_t chunk = begin; chunk < end; ++chunk) run_chunk(chunk, chunk > begin);
  }

 private:
  // Run of columns by run of columns: the lines that it reads inside of the source, then all tiles.
  void run_chunk(int64_t chunk, bool add) {
    const int64_t first = chunk * bands_.in_chunk;
    const int64_t last = std::min(first + bands_.in_chunk, p_.batch * bands_.in_image);
    const GatherAxis* g = region_.axis;
    for (int64_t td = 0; td < g[0].taps; ++td)
      for (int64_t th = 0; th < g[1].taps; ++th)
        for (int64_t tw = 0; tw < runs_; ++tw) {
          line_count_ = 0;
          for (int64_t line = first; line < last; ++line) add_line(line, {{td, th, tw}}, line - first);
          const int64_t at = ((td * g[1].taps + th) * g[2].taps + tw) * p_.in_channels;
          if (line_count_ > 0) {
            multiply_run(at, add);
          } else if (!add) {
            clear(at, columns_);
          }
        }
  }

  void clear(int64_t at, int64_t columns) const {
    const bool swapped = job_.shape.filters_are_vectors;
    for (int64_t i = 0; i < (swapped ? columns : filters_); ++i)
      std::fill_n(to_ + (swapped ? (at + i) * distance_ : i * distance_ + at), swapped ? filters_ : columns, A{0});
  }

  // Lists a line, the `place`-th of its chunk, unless it reads padding only.
  void add_line(int64_t index, const Tap& tap, int64_t place) {
    const GatherAxis* g = region_.axis;
    const int64_t in_row = divide_up(g[2].count, bands_.length), qw = index % in_row * bands_.length;
    index /= in_row;
    const int64_t qh = index % g[1].count;
    index /= g[1].count;
    const int64_t qd = index % g[0].count, n = index / g[0].count;
    const int64_t d = padded_source(p_.mode, qd * g[0].step + tap_offset(g[0], tap.t[0]), g[0].extent);
    const int64_t h = padded_source(p_.mode, qh * g[1].step + tap_offset(g[1], tap.t[1]), g[1].extent);
    if (d < 0 || h < 0) return;
    const Strides &gs = job_.grad_strides, &ss = job_.source_strides;
    const int64_t length = std::min(bands_.length, g[2].count - qw);
    const A* grad = static_cast<const A*>(job_.grad) + group_ * p_.out_channels + first_filter_ + n * gs.outer +
                    qd * gs.axis[0] + qh * gs.axis[1] + qw * gs.axis[2];
    const A* row =
        static_cast<const A*>(job_.source) + group_ * p_.in_channels + n * ss.outer + d * ss.axis[0] + h * ss.axis[1];
    const int64_t first = qw * g[2].step + tap_offset(g[2], tap.t[2]);
    const A* source = staged_ ? stage(row, first, length, place) : row + first * ss.axis[2];
    lines_[line_count_++] =
        job_.shape.filters_are_vectors ? OuterLine<A>{source, grad, length} : OuterLine<A>{grad, source, length};
  }

  // Copies what a line reads from source column `first` on, with its padding.
  const A* stage(const A* row, int64_t first, int64_t length, int64_t place) const {
    const GatherAxis& g = region_.axis[2];
    const int64_t channels = p_.in_channels, step = job_.source_strides.axis[2];
    const int64_t pixels = (length - 1) * g.step + taps_in_run_;
    A* to = stage_ + place * bands_.staged_pixels * channels;
    const int64_t begin = std::min(pixels, positions_below(first, 1));
    const int64_t end = std::max(begin, std::min(pixels, g.extent - first));
    const auto pad = [&](int64_t from, int64_t last) {
      for (int64_t i = from; i < last; ++i) {
        const int64_t x = padded_source(p_.mode, first + i, g.extent);
        if (x < 0 || x >= g.extent) {
          std::fill_n(to + i * channels, channels, A{0});
        } else {
          std::copy_n(row + x * step, channels, to + i * channels);
        }
      }
    };
    pad(0, begin);
    if (step == channels) {
      copy_row(to + begin * channels, row + (first + begin) * step, (end - begin) * channels);
    } else {
      for (int64_t i = begin; i < end; ++i) copy_row(to + i * channels, row + (first + i) * step, channels);
    }
    pad(end, pixels);
    return to;
  }

  // All tiles of a run whose sums join the result from column `at` on.
  void multiply_run(int64_t at, bool add) const {
    const bool one_pixel = line_count_ == 1 && lines_[0].length == 1;
    if (one_pixel && !add && !job_.shape.filters_are_vectors && columns_ >= W) return multiply_pixel(at);
    const int64_t extent = job_.shape.filters_are_vectors ? filters_ : columns_;
    for (int64_t first = 0; first < extent; first += kVectors * W) {
      if (extent - first > W) {
        multiply_vectors<kVectors>(first, extent, at, add);
      } else {
        multiply_vectors<1>(first, extent, at, add);
      }
    }
  }

  // A single pixel's columns times each of its filters: the result is all there is to write, and is written as it lies.
  // In tiles its rows, a power of two apart more often than not, would fall into one set of a cache.
  void multiply_pixel(int64_t at) const {
    const A *const filters = lines_[0].rows, *const columns = lines_[0].vectors;
    for (int64_t i = 0; i < filters_; ++i) {
      A* to = to_ + i * distance_ + at;
      const A filter = filters[i];
      for (int64_t j = 0; j < columns_; j += W) {
        const int64_t k = std::min<int64_t>(j, columns_ - W);
        store(to + k, Vector<A>{} + load(columns + k) * filter);
      }
    }
  }

  template <int NV>
  void multiply_vectors(int64_t first, int64_t extent, int64_t at, bool add) const {
    alignas(kVectorBytes) A sums[kOuterRows<NV> * NV * W];
    int64_t column[NV];
    for (int v = 0; v < NV; ++v) column[v] = std::max<int64_t>(0, std::min(first + v * W, extent - W));
    const bool swapped = job_.shape.filters_are_vectors;
    A* to = to_ + (swapped ? at * distance_ : at);
    const Panels rows(swapped ? columns_ : filters_, kOuterRows<NV>);
    for (int64_t i = 0; i < rows.count; ++i) {
      const int64_t row = rows.start(i), height = rows.rows(i);
      kOuter<A, NV>[height - 1]({lines_, line_count_, swapped ? source_step_ : grad_step_,
                                 swapped ? grad_step_ : source_step_, row, column, sums});
      for (int64_t r = 0; r < height; ++r)
        for (int v = 0; v < NV; ++v) {
          A* sum = to + (row + r) * distance_ + column[v];
          const A* from = sums + (r * NV + v) * W;
          const int64_t skip = first + v * W - column[v];  // what the vector before has
          if (skip == 0 && extent >= W) {
            store(sum, add ? load(sum) + load(from) : load(from));
          } else {
            for (int64_t j = skip; j < std::min<int64_t>(W, extent - column[v]); ++j)
              sum[j] = add ? sum[j] + from[j] : from[j];
          }
        }
    }
  }

  const WgradJob& job_;
  const ConvProblem& p_;
  const Region& region_;
  const OuterLines bands_;
  A* stage_;
  bool staged_;
  int64_t runs_, taps_in_run_, columns_, grad_step_, source_step_;
  A* to_ = nullptr;
  int64_t distance_ = 0, group_ = 0, first_filter_ = 0, filters_ = 0;
  OuterLine<A> lines_[kReductionBlock];
  int64_t line_count_ = 0;
};

// Adds the slices' partial results in order, in the first one, and writes the filter `index` of the result.
template <class A>
void finish_outer_filter(const WgradJob& job, int64_t index) {
  const ConvProblem& p = *job.problem;
  const int64_t columns = job.columns(), group = index / p.out_channels, row = index % p.out_channels;
  const int64_t distance = job.shape.filters_are_vectors ? p.out_channels : 1;
  const int64_t slice_distance = p.groups * p.out_channels * columns;
  A* sum = static_cast<A*>(job.partial) + group * p.out_channels * columns +
           (job.shape.filters_are_vectors ? row : row * columns);
  for (int64_t s = 1; s < job.slices; ++s) {
    const A* partial = sum + s * slice_distance;
    for (int64_t i = 0; i < columns * distance; i += distance) sum[i] += partial[i];
  }
  write_filter<A>(job, index, sum, p.in_channels * distance, distance);
}
