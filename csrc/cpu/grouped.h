// Grouped fprop and dgrad, with the result channels of a group along the vector. Include only from engine.inl.h.
//
//   result[p][k] = bias[k] + sum over (c, t) of stage[offset(c, t) + p] * weight[(c, t)][k]
//
//   weight: (c, t)  +-----------------------+      One step of (c, t): load up to three vectors of filters, broadcast
//                   |  w[(c, t)][k .. k+NR) |      up to 16 pixels of a result row from where they are staged:
//   stage  +------+ +-----------------------+      AVX-512 (32 registers): 16 x 1, 14 x 2 or 9 x 3 sums. Two rows of
//   row    | p    | |  sums of pixels       |      7 pixels make one tile, which halves the filters' loads.
//   of p   | ..   | |  times filters        |      A group of 16 channels fills a vector, while a row of 14 or 7 pixels
//          +------+ +-----------------------+      does not; no panel of the image is made, and a stride costs nothing.
//
// A unit is one image of one group, staged whole (grouped_job.h). It packs the group's weight itself, a transposition
// of whole squares, and writes its sums, [pixel][k], as they lie or, to NCHW, turned; channels_last images are turned
// as they are staged. Sums run over at most kReductionBlock terms before they are added up, in an order that the shape
// alone decides.
#pragma once

// Where a term of the sums finds its pixels, from the stage on, and its filters, from the packed weight on.
struct GroupedTerm {
  int64_t source, weight;
};

// Taps of a row that read the pixel behind what the one before them reads make a run: one broadcast serves them all.
// A single vector of filters would otherwise need a load for every FMA, and then loads are the limit. More vectors
// share a broadcast anyway, and have no registers for the filters of a run: all their runs have length one.
inline constexpr int kMostRun = 3;

template <class A>
struct GroupedTile {
  const GroupedTerm* runs[kMostRun];  // of length 1, 2 and 3, and how many; a run's terms stand together
  int64_t run_count[kMostRun];
  const A* source;
  int64_t source_distance;  // from a row of the tile to the next
  const A* weight;
  A* to;                                                  // sums [vector][pixel][lane]
  int64_t row_distance, pixel_distance, vector_distance;  // there
  const A* bias;                                          // begins the sums; null: they are added to what stands there
};

template <class A, int kVectorCount, int kRows, int kPixels>
using GroupedSums = Vector<A>[kRows][kPixels][kVectorCount];

template <int kLength, class A, int kVectorCount, int kRows, int kPixels>
[[gnu::always_inline]] inline void add_runs(const GroupedTile<A>& tile,
                                            GroupedSums<A, kVectorCount, kRows, kPixels>& sum) {
  constexpr int W = kLanes<A>;
  const A* const source = tile.source;
  const A* const weight = tile.weight;
  const int64_t distance = tile.source_distance;
  const GroupedTerm* const end = tile.runs[kLength - 1] + kLength * tile.run_count[kLength - 1];
  for (const GroupedTerm* term = tile.runs[kLength - 1]; term < end; term += kLength) {
    const A* pixel = source + term->source;
    Vector<A> filters[kLength][kVectorCount];
#pragma GCC unroll 3
    for (int i = 0; i < kLength; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVectorCount; ++v) filters[i][v] = load(weight + term[i].weight + v * W);
#pragma GCC unroll 2
    for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 18
      for (int x = 0; x < kPixels + kLength - 1; ++x) {
        const A value = pixel[y * distance + x];
#pragma GCC unroll 3
        for (int i = 0; i < kLength; ++i)
          if (x >= i && x - i < kPixels)
#pragma GCC unroll 4
            for (int v = 0; v < kVectorCount; ++v) sum[y][x - i][v] += filters[i][v] * value;
      }
  }
}

template <class A, int kVectorCount, int kRows, int kPixels>
void multiply_pixels(const GroupedTile<A>& tile) {
  constexpr int W = kLanes<A>;
  GroupedSums<A, kVectorCount, kRows, kPixels> sum = {};
  if constexpr (kVectorCount == 1) {
    add_runs<3, A, kVectorCount, kRows, kPixels>(tile, sum);
    add_runs<2, A, kVectorCount, kRows, kPixels>(tile, sum);
  }
  add_runs<1, A, kVectorCount, kRows, kPixels>(tile, sum);
  // In registers: what is stored might be the tile's own members, for all that compilers know.
  A* const first = tile.to;
  const A* const bias = tile.bias;
  const int64_t row = tile.row_distance, pixel = tile.pixel_distance, vector = tile.vector_distance;
  const auto finish = [&](auto addend) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 16
      for (int x = 0; x < kPixels; ++x)
#pragma GCC unroll 4
        for (int v = 0; v < kVectorCount; ++v) {
          A* to = first + y * row + x * pixel + v * vector;
          store(to, addend(to, v) + sum[y][x][v]);
        }
  };
  if (bias) {
    finish([&](const A*, int v) __attribute__((always_inline)) { return load(bias + v * W); });
  } else {
    finish([](const A* to, int) __attribute__((always_inline)) { return load(to); });
  }
}

// Most pixels of a tile with so many vectors of filters: what the registers hold.
constexpr int most_grouped_pixels(int vectors) {
  constexpr int kMost[3][3] = {{16, 14, 9}, {12, 6, 4}, {8, 4, 2}};
  return kMost[kVectorBytes == 64 ? 0 : kVectorBytes == 32 ? 1 : 2][vectors - 1];
}

template <class A>
using GroupedFunction = void (*)(const GroupedTile<A>&);
template <class A, int kVectorCount, int kRows, std::size_t... P>
constexpr std::array<GroupedFunction<A>, 16> grouped_row(std::index_sequence<P...>) {
  return {&multiply_pixels<A, kVectorCount, kRows, static_cast<int>(P) + 1>...};
}
template <class A, int kRows, std::size_t... V>
constexpr auto grouped_functions(std::index_sequence<V...>) {
  return std::array{grouped_row<A, static_cast<int>(V) + 1, kRows>(
      std::make_index_sequence<static_cast<std::size_t>(most_grouped_pixels(static_cast<int>(V) + 1) / kRows)>{})...};
}
// kMultiplyPixels<A>[rows - 1][vectors - 1][pixels - 1]
template <class A>
inline constexpr std::array kMultiplyPixels = {
    grouped_functions<A, 1>(std::make_index_sequence<kMostGroupedVectors>{}),
    grouped_functions<A, 2>(std::make_index_sequence<kMostGroupedVectors>{})};

template <class T, class A>
class GroupedConv {
 public:
  GroupedConv(const ConvJob& job, const GroupedShape& shape, std::byte* workspace)
      : GroupedConv(job, shape, workspace, GroupedWorkspace(shape, kLanes<A>, sizeof(A))) {}

  // Images of a group follow each other, so that a thread finds its weight packed.
  void run(int64_t index) {
    const int64_t batch = job_.problem->batch, n = index % batch, group = index / batch;
    if (group != group_) enter(group);
    const Strides& s = job_.source_strides;
    stager_.fill(static_cast<const T*>(job_.source) + n * s.outer + group * job_.depth * s.channel, job_.depth);
    for (int64_t c = 0; c < shape_.depth; c += shape_.chunk) {
      const int64_t channels = std::min(shape_.chunk, shape_.depth - c);
      if (!shape_.holds_weight) pack_weight(c, channels, weight_);
      const A* weight = weight_ + (shape_.holds_weight ? c * shape_.taps * shape_.rows : 0);
      const GroupedTerm* terms = terms_;
      for (const RegionJob* r = job_.wave.data(); r != job_.wave.data() + job_.wave.size(); ++r) {
        multiply_region(*r->region, terms, channels, c, weight);
        terms += shape_.chunk * r->region->taps();
      }
    }
    for (int64_t v = 0; v < shape_.vectors; ++v) write(n, v);
  }

 private:
  static constexpr int W = kLanes<A>;

  GroupedConv(const ConvJob& job, const GroupedShape& shape, std::byte* workspace, const GroupedWorkspace& at)
      : job_(job),
        shape_(shape),
        epilogue_(job),
        terms_(reinterpret_cast<GroupedTerm*>(workspace + at.terms)),
        stage_(reinterpret_cast<A*>(workspace + at.stage)),
        weight_(reinterpret_cast<A*>(workspace + at.weight)),
        sums_(reinterpret_cast<A*>(workspace + at.sums)),
        stager_(shape.staged, shape.band, shape.mode, job.source_strides,
                reinterpret_cast<RowCopy*>(workspace + at.copies), stage_, shape.stage_elements()) {
    GroupedTerm* term = terms_;
    for (const RegionJob* r = job.wave.data(); r != job.wave.data() + job.wave.size(); ++r)
      for (int64_t length = 1; length <= kMostRun; ++length)
        for (int64_t c = 0; c < shape.chunk; ++c)
          for (int64_t h = 0; h < r->region->axis[1].taps; ++h)
            for_each_run(r->region->axis[2], [&](int64_t first, int64_t step, int64_t taps) {
              if (taps == length)
                for (int64_t i = 0; i < taps; ++i) *term++ = this->term(*r->region, c, h, first + i * step);
            });
  }

  GroupedTerm term(const Region& region, int64_t channel, int64_t h_tap, int64_t w_tap) const {
    const GatherAxis &h = region.axis[1], &w = region.axis[2];
    const int64_t index = (h.tap0 + h_tap * h.tap_step) * job_.problem->axis[2].kernel + w.tap0 + w_tap * w.tap_step;
    return {shape_.offset(region, channel, h_tap, w_tap), (channel * shape_.taps + index) * shape_.rows};
  }

  // visit(first tap, step to the next tap, taps) for each run of a row of taps.
  template <class Visit>
  void for_each_run(const GatherAxis& w, Visit visit) const {
    const int64_t apart = std::abs(w.off_step);
    // Taps `phases` apart read the same residue modulo the step (band.h), one place apart.
    const bool runs = shape_.vectors == 1 && apart > 0 && w.step % apart == 0;
    const int64_t phases = runs ? std::min(w.step / apart, w.taps) : w.taps;
    for (int64_t phase = 0; phase < phases; ++phase) {
      int64_t left = divide_up(w.taps - phase, phases), first = phase;
      while (left > 0) {  // four are two and two
        const int64_t taps = left == 4 ? 2 : std::min<int64_t>(left, kMostRun);
        const int64_t last = first + (taps - 1) * phases;
        visit(w.off_step > 0 ? first : last, w.off_step > 0 ? phases : -phases, taps);
        first += taps * phases, left -= taps;
      }
    }
  }

  void enter(int64_t group) {
    group_ = group;
    std::fill_n(bias_, kMostGroupedChannels + W, A{0});
    if (job_.epilogue.bias)
      std::copy_n(static_cast<const A*>(job_.packed_bias) + group * job_.bias_channels(), shape_.rows, bias_);
    if (shape_.holds_weight) pack_weight(0, shape_.depth, weight_);
  }

  // Packs lines (channel, tap) of result channels.
  void pack_weight(int64_t channel, int64_t channels, A* to) const {
    const ConvAxis* axis = job_.problem->axis;
    const int64_t taps = shape_.taps, rows = shape_.rows, *s = job_.weight_tap;
    const T* from = static_cast<const T*>(job_.weight) + group_ * job_.weight_group + channel * job_.weight_depth;
    const bool dense = (axis[2].kernel == 1 || s[2] == 1) && (axis[1].kernel == 1 || s[1] == axis[2].kernel);
    if (!dense) {
      for (int64_t h = 0; h < axis[1].kernel; ++h)
        for (int64_t w = 0; w < axis[2].kernel; ++w, to += rows) pack_tap(from + h * s[1] + w * s[2], channels, to);
      return;
    }
    const bool one_run = job_.weight_depth == taps;
    const int64_t runs = one_run ? 1 : channels, length = one_run ? channels * taps : taps;
    const T* const end = static_cast<const T*>(job_.weight) + (job_.problem->groups - 1) * job_.weight_group +
                         (shape_.depth - 1) * job_.weight_depth + (rows - 1) * job_.weight_row + taps;
    for (int64_t run = 0; run < runs; ++run, to += length * rows) {
      const T* row[kMostGroupedChannels];
      for (int64_t m = 0; m < rows; ++m) row[m] = from + run * job_.weight_depth + m * job_.weight_row;
      transpose_rows(row, static_cast<int>(rows), length, to, end - row[rows - 1] >= round_up(length, W));
    }
  }

  // The lines of one tap, which stand `taps` lines apart.
  void pack_tap(const T* from, int64_t channels, A* to) const {
    const int64_t rows = shape_.rows, apart = shape_.taps * rows;
    if (job_.weight_depth == 1) {  // fprop's channels_last weight: a run a row
      const T* row[kMostGroupedChannels];
      A lines[kMostGroupedChannels * kMostGroupedChannels];
      for (int64_t c = 0; c < channels; c += kMostGroupedChannels) {
        const int64_t n = std::min(kMostGroupedChannels, channels - c);
        for (int64_t m = 0; m < rows; ++m) row[m] = from + c + m * job_.weight_row;
        transpose_rows(row, static_cast<int>(rows), n, lines);
        for (int64_t i = 0; i < n; ++i) copy_row(to + (c + i) * apart, lines + i * rows, rows);
      }
      return;
    }
    for (int64_t c = 0; c < channels; ++c, from += job_.weight_depth, to += apart)
      copy_strided(to, from, job_.weight_row, rows);  // dgrad's channels_last one has lines already
  }

  // Asks for the `part`-th of `parts` of the block that begins with a channel and is packed next: its rows stand far
  // apart, where the processor does not see them coming.
  void prefetch_weight(int64_t channel, int64_t part, int64_t parts) const {
    if (channel >= shape_.depth || job_.weight_depth != shape_.taps) return;
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    const int64_t length = std::min(shape_.chunk, shape_.depth - channel) * shape_.taps;
    const T* from = static_cast<const T*>(job_.weight) + group_ * job_.weight_group + channel * job_.weight_depth;
    for (int64_t m = part * shape_.rows / parts; m < (part + 1) * shape_.rows / parts; ++m)
      for (int64_t i = 0; i < length; i += kLine) __builtin_prefetch(from + m * job_.weight_row + i, 0, 2);
  }

  void multiply_region(const Region& region, const GroupedTerm* terms, int64_t channels, int64_t first_channel,
                       const A* weight) const {
    const GatherAxis &h = region.axis[1], &w = region.axis[2];
    GroupedTile<A> tile = {};
    for_each_run(w, [&](int64_t, int64_t, int64_t taps) { tile.run_count[taps - 1] += h.taps * channels; });
    for (int length = 1; length <= kMostRun; ++length) {
      tile.runs[length - 1] = terms;
      terms += length * tile.run_count[length - 1] / channels * shape_.chunk;
    }
    tile.pixel_distance = w.out_step * W, tile.vector_distance = shape_.pixels * W;
    tile.row_distance = h.out_step * shape_.width * W, tile.source_distance = shape_.band.pitch;
    const Panels parts(shape_.vectors, kMostGroupedVectors);
    for (int64_t i = 0; i < parts.count; ++i) {
      const int64_t v = parts.start(i), n = parts.rows(i), most = most_grouped_pixels(static_cast<int>(n));
      const Panels columns(w.count, most);
      const int64_t most_rows = 2 * w.count <= most ? 2 : 1;
      tile.weight = weight + v * W;
      tile.bias = first_channel == 0 ? bias_ + v * W : nullptr;
      for (int64_t y = 0; y < h.count; y += most_rows)
        for (int64_t j = 0; j < columns.count; ++j) {
          const int64_t x = columns.start(j), rows = std::min(most_rows, h.count - y);
          if (!shape_.holds_weight && y == 0)
            prefetch_weight(first_channel + shape_.chunk, i * columns.count + j, parts.count * columns.count);
          const int64_t pixel = (h.out0 + y * h.out_step) * shape_.width + w.out0 + x * w.out_step;
          tile.source = stage_ + first_channel * shape_.band.channel_size + y * shape_.band.pitch + x;
          tile.to = sums_ + (v * shape_.pixels + pixel) * W;
          kMultiplyPixels<A>[rows - 1][n - 1][columns.rows(j) - 1](tile);
        }
    }
  }

  // Writes a vector's sums as they lie, to channels that follow each other.
  void write_in_order(int64_t n, int64_t vector) const {
    const Strides& s = job_.result_strides;
    T* to = static_cast<T*>(job_.result) + n * s.outer + group_ * shape_.rows + vector * W;
    const A* sums = sums_ + vector * shape_.pixels * W;
    for (int64_t i = 0; i < shape_.pixels; i += shape_.width, to += s.axis[1], sums += shape_.width * W)
      epilogue_.write({to, s.axis[2], 1, sums, W, 1, shape_.width, std::min<int64_t>(W, shape_.rows - vector * W)});
  }

  // Turns a vector's sums and writes them: the result's planes of an image, in one run where they are dense.
  void write(int64_t n, int64_t vector) const {
    const Strides& s = job_.result_strides;
    if (s.channel == 1) return write_in_order(n, vector);
    const int64_t lanes = std::min<int64_t>(W, shape_.rows - vector * W);
    Planes<T, A> planes;
    for (int64_t l = 0; l < W; ++l)
      planes.start[l] = static_cast<T*>(job_.result) + n * s.outer +
                        (group_ * shape_.rows + vector * W + std::min(l, lanes - 1)) * s.channel;
    const int64_t height = shape_.pixels / shape_.width;
    const bool dense = height == 1 || s.axis[1] == shape_.width * s.axis[2];
    const int64_t lines = dense ? 1 : height, pixels = shape_.pixels / lines;
    const A* sums = sums_ + vector * shape_.pixels * W;
    const auto write_lines = [&](auto finish) {
      for (int64_t y = 0; y < lines; ++y)
        write_pixels<T, A>(sums + y * pixels * W, planes, static_cast<int>(lanes), y * s.axis[1], s.axis[2], pixels,
                           finish);
    };
    if (epilogue_.is_bias()) return write_lines([](Vector<A> sum, const T*, int64_t) { return sum; });
    const EpilogueOf<T, A> epilogue = epilogue_;  // a store to the result cannot change it
    epilogue.with_activation([&](auto activate) {
      write_lines([=](Vector<A> sum, const T* to, int64_t count) {
        return activate(epilogue.add_residual(sum, to, s.axis[2], count));
      });
    });
  }

  const ConvJob& job_;
  const GroupedShape& shape_;
  const EpilogueOf<T, A> epilogue_;
  GroupedTerm* terms_;  // of one block of channels, for each region
  A *stage_, *weight_, *sums_;
  PlaneStager<T, A> stager_;
  int64_t group_ = -1;
  A bias_[kMostGroupedChannels + W];
};
