// Filling the stage of a band (band.h). Include only from engine.inl.h.
#pragma once

// Fills the stage of a band that starts at result position (qd, qh, qw) of image n.
template <class T, class A, class Product = MultiplyAdd<A>>
class BandStager {
 public:
  // `channels`: those of the image. Where the product takes pairs of them, so does `fill`.
  // Channels of the stage stand `distance` apart.
  BandStager(const ImageReader<T>& image, const Band& band, int64_t channels, int64_t distance)
      : image_(image), band_(band), channels_(channels), distance_(distance) {}
  BandStager(const ImageReader<T>& image, const Band& band, int64_t channels)
      : BandStager(image, band, channels, band.channel_size) {}

  void fill(int64_t n, int64_t depth, int64_t qd, int64_t qh, int64_t qw, A* stage) const {
    const GatherAxis* g = image_.region->axis;
    for (int64_t c = 0; c < depth; ++c) {
      A* to = stage + c * distance_;
      const T* channel = image_.data + n * image_.strides.outer + c * Product::kTerms * image_.strides.channel;
      const int64_t odd = 2 * c + 1 < channels_ ? image_.strides.channel : -1;  // 0: of an expanded image
      for (int64_t t = 0; t < g[0].taps; ++t) {
        const int64_t d = padded_source(image_.mode, qd * g[0].step + tap_offset(g[0], t), g[0].extent);
        const T* plane = d < 0 ? nullptr : channel + d * image_.strides.axis[0];
        for (int64_t gw = 0; gw < band_.w.groups; ++gw) {
          const Span span = span_of(band_.w, g[2], gw, qw, band_.pitch);
          for (int64_t gh = 0; gh < band_.h.groups; ++gh) {
            fill_rows(plane, odd, span_of(band_.h, g[1], gh, qh, rows()), span, to);
            to += rows() * band_.pitch;
          }
        }
      }
      std::fill_n(to, band_.shared, A{0});
    }
  }

 private:
  int64_t rows() const { return band_.rows + band_.h.span; }

  // A band's last rows may lie beyond what any window reads, further out than the padding mode is defined.
  int64_t padded_source_in_reach(int64_t x, int64_t extent) const {
    const int64_t source = padded_source(image_.mode, x, extent);
    return source < extent ? source : -1;
  }

  // What a group holds along an axis: positions [begin, end) read source coordinates from x + begin * step on.
  struct Span {
    int64_t x, begin, end;
  };
  static Span span_of(const StagedAxis& axis, const GatherAxis& g, int64_t group, int64_t q, int64_t length) {
    const int64_t x = axis.source(g, group, q, 0), begin = std::min(positions_below(x, g.step), length);
    return {x, begin, std::max(begin, std::min(positions_below(x - g.extent, g.step), length))};
  }

  // Fills the rows of a group, of a plane or, if it is null, with zeros.
  void fill_rows(const T* plane, int64_t odd, const Span& high, const Span& wide, A* to) const {
    const GatherAxis& g = image_.region->axis[1];
    const int64_t pitch = band_.pitch, step = g.step * image_.strides.axis[1];
    if (!plane) return zero(to, 0, rows() * pitch);
    if (image_.mode == PaddingMode::kZeros) {
      zero(to, 0, high.begin * pitch);
      const T* row = plane + (high.x + high.begin * g.step) * image_.strides.axis[1];
      for (int64_t i = high.begin; i < high.end; ++i, row += step) fill_row(row, odd, wide, to + i * pitch);
      return zero(to, high.end * pitch, rows() * pitch);
    }
    for (int64_t i = 0; i < rows(); ++i, to += pitch) {
      const int64_t h = padded_source_in_reach(high.x + i * g.step, g.extent);
      if (h < 0) {
        zero(to, 0, pitch);
      } else {
        fill_row(plane + h * image_.strides.axis[1], odd, wide, to);
      }
    }
  }

  // Zeros are stored in whole vectors: what spills over is not yet filled, or the slack after the stage.
  static void zero(A* to, int64_t from, int64_t last) {
    for (int64_t i = from; i < last; i += kLanes<A>) store(to + i, Vector<A>{});
  }

  // `odd`: distance to the row that it is paired with; negative if there is none.
  void fill_row(const T* row, [[maybe_unused]] int64_t odd, const Span& span, A* to) const {
    const GatherAxis& g = image_.region->axis[2];
    const int64_t len = band_.pitch, x = span.x, begin = span.begin, end = span.end;
    const int64_t step = image_.strides.axis[2];
    zero(to, 0, begin);
    if (begin < end) copy(to + begin, row + (x + begin * g.step) * step, odd, g.step * step, end - begin);
    zero(to, end, len);
    if (image_.mode == PaddingMode::kZeros) return;
    const auto pad = [&](int64_t from, int64_t last) {
      for (int64_t i = from; i < last; ++i) {
        const int64_t source = padded_source_in_reach(x + i * g.step, g.extent);
        if (source >= 0) copy(to + i, row + source * step, odd, 1, 1);
      }
    };
    pad(0, begin);
    pad(end, len);
  }

  static void copy(A* to, const T* from, [[maybe_unused]] int64_t odd, int64_t step, int64_t count) {
    if constexpr (Product::kTerms == 2) {
      interleave_strided(to, from, odd >= 0 ? from + odd : nullptr, step, count);
    } else {
      copy_strided(to, from, step, count);
    }
  }

  const ImageReader<T>& image_;
  const Band& band_;
  int64_t channels_, distance_;
};
