// Grouped fprop and dgrad on NCHW images, with the result channels of a group along the vector. Include only from
// engine.inl.h.
//
//   result[p][k] = bias[k] + sum over (c, t) of stage[offset(c, t) + p] * weight[(c, t)][k]
//
//   weight: (c, t)  +-----------------------+      One step of (c, t): load up to three vectors of filters, broadcast
//                   |  w[(c, t)][k .. k+NR) |      up to 16 pixels of a result row from where they are staged:
//   stage  +------+ +-----------------------+      AVX-512 (32 registers): 16 x 1, 14 x 2 or 9 x 3 sums.
//   row    | p    | |  sums of pixels       |
//   of p   | ..   | |  times filters        |      A group of 16 channels fills a vector, while a row of 14 or 7 pixels
//          +------+ +-----------------------+      does not; no panel of the image is made, and a stride costs nothing.
//
// A unit is one image of one group, staged whole (grouped_job.h). It packs the group's weight itself, a transposition
// of whole squares, and turns its sums, [pixel][k], as it writes them. Sums run over at most kReductionBlock terms
// before they are added up, in an order that the shape alone decides.
#pragma once

// Where a term of the sums finds its pixels, from the stage on, and its filters, from the packed weight on.
struct GroupedTerm {
  int64_t source, weight;
};

template <class A>
struct GroupedTile {
  const GroupedTerm* terms;
  int64_t term_count;
  const A* source;
  const A* weight;
  A* to;                                    // sums [vector][pixel][lane]
  int64_t pixel_distance, vector_distance;  // there
  const A* bias;                            // begins the sums; null: they are added to what stands there
};

template <class A, int kVectorCount, int kPixels>
void multiply_pixels(const GroupedTile<A>& tile) {
  constexpr int W = kLanes<A>;
  Vector<A> sum[kPixels][kVectorCount] = {};
  const A* const source = tile.source;
  const A* const weight = tile.weight;
  for (const GroupedTerm *term = tile.terms, *end = term + tile.term_count; term < end; ++term) {
    const A* pixel = source + term->source;
    Vector<A> filters[kVectorCount];
#pragma GCC unroll 4
    for (int v = 0; v < kVectorCount; ++v) filters[v] = load(weight + term->weight + v * W);
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < kVectorCount; ++v) sum[p][v] += filters[v] * pixel[p];
  }
  const auto finish = [&](auto addend) {
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < kVectorCount; ++v) {
        A* to = tile.to + p * tile.pixel_distance + v * tile.vector_distance;
        store(to, addend(to, v) + sum[p][v]);
      }
  };
  if (tile.bias) {
    finish([&](const A*, int v) { return load(tile.bias + v * W); });
  } else {
    finish([](const A* to, int) { return load(to); });
  }
}

// Most pixels of a tile with so many vectors of filters: what the registers hold.
constexpr int most_grouped_pixels(int vectors) {
  constexpr int kMost[3][3] = {{16, 14, 9}, {12, 6, 4}, {8, 4, 2}};
  return kMost[kVectorBytes == 64 ? 0 : kVectorBytes == 32 ? 1 : 2][vectors - 1];
}

template <class A>
using GroupedFunction = void (*)(const GroupedTile<A>&);
template <class A, int kVectorCount, std::size_t... P>
constexpr std::array<GroupedFunction<A>, 16> grouped_row(std::index_sequence<P...>) {
  return {&multiply_pixels<A, kVectorCount, static_cast<int>(P) + 1>...};
}
template <class A, std::size_t... V>
constexpr auto grouped_functions(std::index_sequence<V...>) {
  return std::array{grouped_row<A, static_cast<int>(V) + 1>(
      std::make_index_sequence<static_cast<std::size_t>(most_grouped_pixels(static_cast<int>(V) + 1))>{})...};
}
// kMultiplyPixels<A>[vectors - 1][pixels - 1]
template <class A>
inline constexpr auto kMultiplyPixels = grouped_functions<A>(std::make_index_sequence<kMostGroupedVectors>{});

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
        multiply_region(*r->region, terms, channels * r->region->taps(), c, weight);
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
      for (int64_t c = 0; c < shape.chunk; ++c)
        for (int64_t t = 0; t < r->region->taps(); ++t) {
          const Tap tap = tap_at(*r->region, t);
          const GatherAxis *h = &r->region->axis[1], *w = &r->region->axis[2];
          const int64_t index =
              (h->tap0 + tap.t[1] * h->tap_step) * job.problem->axis[2].kernel + w->tap0 + tap.t[2] * w->tap_step;
          *term++ = {shape.offset(*r->region, c, tap.t[1], tap.t[2]), (c * shape.taps + index) * shape.rows};
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
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t h = 0; h < axis[1].kernel; ++h)
          for (int64_t w = 0; w < axis[2].kernel; ++w, to += rows)
            for (int64_t m = 0; m < rows; ++m)
              to[m] = widen(from[c * job_.weight_depth + m * job_.weight_row + h * s[1] + w * s[2]]);
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

  void multiply_region(const Region& region, const GroupedTerm* terms, int64_t count, int64_t first_channel,
                       const A* weight) const {
    const GatherAxis &h = region.axis[1], &w = region.axis[2];
    const Panels parts(shape_.vectors, kMostGroupedVectors);
    for (int64_t i = 0; i < parts.count; ++i) {
      const int64_t v = parts.start(i), n = parts.rows(i);
      const Panels columns(w.count, most_grouped_pixels(static_cast<int>(n)));
      for (int64_t y = 0; y < h.count; ++y)
        for (int64_t j = 0; j < columns.count; ++j) {
          const int64_t x = columns.start(j);
          if (!shape_.holds_weight && y == 0)
            prefetch_weight(first_channel + shape_.chunk, i * columns.count + j, parts.count * columns.count);
          const int64_t pixel = (h.out0 + y * h.out_step) * shape_.width + w.out0 + x * w.out_step;
          kMultiplyPixels<A>[n - 1][columns.rows(j) - 1](
              {terms, count, stage_ + first_channel * shape_.band.channel_size + y * shape_.band.pitch + x,
               weight + v * W, sums_ + (v * shape_.pixels + pixel) * W, w.out_step * W, shape_.pixels * W,
               first_channel == 0 ? bias_ + v * W : nullptr});
        }
    }
  }

  // Turns a vector's sums and writes them: the result's planes of an image, in one run where they are dense.
  void write(int64_t n, int64_t vector) const {
    const Strides& s = job_.result_strides;
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
