// unfold for one element type: rows of columns copied from shifted rows of the image. Include only from engine.inl.h.
//
//   columns[n, (c, t), (od, oh, ow)] = image[n, c, o * stride + t * dilation - lo], or 0 outside of the image
//
// For one (n, c, t) the row of columns is the image shifted by t, row after row:
//
//     image row i = oh * stride + t * dilation - lo        . . x x x x x x x x . .
//     columns  [oh, :]                                     0 [ copied, step s ] 0
//
// Where the image is channels_last, neighbouring pixels of one channel are C elements apart. Then a unit is a vector's
// worth of channels: a square of (pixels x channels) is transposed in registers.
#pragma once

// Which blocks of one axis read inside of the image at one tap: block o reads first_source + o * stride.
struct UnfoldSpan {
  int64_t begin = 0, end = 0, first_source = 0;
  UnfoldSpan() = default;
  UnfoldSpan(const ConvAxis& a, int64_t tap) : first_source(tap * a.dilation - a.lo) {
    const auto divide_up_signed = [&](int64_t n) { return n <= 0 ? int64_t{0} : (n + a.stride - 1) / a.stride; };
    begin = std::min(divide_up_signed(-first_source), a.output);
    end = std::clamp(divide_up_signed(a.input - first_source), begin, a.output);
  }
  bool holds(int64_t o) const { return o >= begin && o < end; }
};

template <class T>
inline void fill_zero(T* to, int64_t n) {
  std::memset(static_cast<void*>(to), 0, static_cast<std::size_t>(n) * sizeof(T));
}

// to[i] = from[i * step]
template <class T>
inline void copy_strided(T* to, const T* from, int64_t step, int64_t n) {
  if (step == 1) {
    std::memcpy(static_cast<void*>(to), from, static_cast<std::size_t>(n) * sizeof(T));
    return;
  }
  int64_t i = 0;
  if constexpr (std::is_floating_point_v<T>) {
    constexpr int W = kLanes<T>;
    if (step == 2)  // the last element read is at 2 * (i + W - 1): the second load starts one early
      for (; i + W <= n; i += W)
        store(to + i, even_lanes_overlapping<T>(load(from + 2 * i), load(from + 2 * i + W - 1)));
  }
  for (; i < n; ++i) to[i] = from[i * step];
}

template <class T>
class UnfoldRows {
 public:
  explicit UnfoldRows(const UnfoldJob& job) : job_(job), p_(job.problem) {}

  void run(int64_t unit) const {
    const ConvAxis &d = p_.axis[0], &h = p_.axis[1], &w = p_.axis[2];
    const int64_t taps = unfold_taps(p_), tap = unit % taps, rest = unit / taps;
    const int64_t c0 = rest % job_.channel_blocks * job_.channels_at_once, n = rest / job_.channel_blocks;
    const int64_t channels = std::min(job_.channels_at_once, p_.channels - c0);
    const UnfoldSpan in_d(d, tap / w.kernel / h.kernel), in_h(h, tap / w.kernel % h.kernel), in_w(w, tap % w.kernel);
    const T* image = static_cast<const T*>(job_.image) + n * job_.strides.outer + c0 * job_.strides.channel;
    T* to = static_cast<T*>(job_.columns) + ((n * p_.channels + c0) * taps + tap) * unfold_blocks(p_);
    const bool shifts = shifts_planes();
    for (int64_t od = 0; od < d.output; ++od) {
      const T* plane = image + (in_d.first_source + od * d.stride) * job_.strides.axis[0];
      const UnfoldSpan in_rows = in_d.holds(od) ? in_h : UnfoldSpan();
      if (shifts) {
        shift_plane(to, plane, in_rows, in_w);
        to += h.output * w.output;
        continue;
      }
      for (int64_t oh = 0; oh < h.output; ++oh, to += w.output) {
        const T* from = plane + (in_h.first_source + oh * h.stride) * job_.strides.axis[1];
        rows(to, from, channels, taps, in_rows.holds(oh) ? in_w : UnfoldSpan() /* a row of zeros */);
      }
    }
  }

 private:
  // Whether the columns of a plane are the plane itself, shifted as one line: a "same" convolution of stride one.
  bool shifts_planes() const {
    const ConvAxis &h = p_.axis[1], &w = p_.axis[2];
    return h.stride == 1 && w.stride == 1 && w.output == w.input && job_.strides.axis[2] == 1 &&
           job_.strides.axis[1] == w.input && job_.channels_at_once == 1;
  }

  // One copy for all rows; what it carries over the ends of the rows is then zeroed.
  void shift_plane(T* to, const T* plane, const UnfoldSpan& in_h, const UnfoldSpan& in_w) const {
    const int64_t width = p_.axis[2].output, height = p_.axis[1].output;
    if (in_h.begin >= in_h.end || in_w.begin >= in_w.end) return fill_zero(to, height * width);
    const int64_t first = in_h.begin * width + in_w.begin, last = (in_h.end - 1) * width + in_w.end;
    fill_zero(to, first);
    copy_strided(to + first, plane + in_h.first_source * width + in_w.first_source + first, 1, last - first);
    fill_zero(to + last, height * width - last);
    for (int64_t oh = in_h.begin; oh < in_h.end; ++oh) {
      std::fill_n(to + oh * width, in_w.begin, T{});
      std::fill_n(to + oh * width + in_w.end, width - in_w.end, T{});
    }
  }

  // One row of blocks, of each channel.
  void rows(T* to, const T* from, int64_t channels, int64_t taps, const UnfoldSpan& in_w) const {
    const ConvAxis& w = p_.axis[2];
    const int64_t step = w.stride * job_.strides.axis[2], channel_step = taps * unfold_blocks(p_);
    const T* first = from + (in_w.first_source + in_w.begin * w.stride) * job_.strides.axis[2];
    int64_t done = 0;
    if constexpr (std::is_floating_point_v<T>) {
      if (channels == kLanes<T> && job_.strides.channel == 1)
        done = transpose(to + in_w.begin, channel_step, first, step, in_w.end - in_w.begin);
    }
    for (int64_t c = 0; c < channels; ++c) {
      T* row = to + c * channel_step;
      fill_zero(row, in_w.begin);
      const T* source = first + c * job_.strides.channel + done * step;
      copy_strided(row + in_w.begin + done, source, step, in_w.end - in_w.begin - done);
      fill_zero(row + in_w.end, w.output - in_w.end);
    }
  }

  // Whole squares of kLanes pixels by kLanes channels; returns the number of pixels done.
  static int64_t transpose(T* to, int64_t channel_step, const T* from, int64_t step, int64_t n) {
    constexpr int W = kLanes<T>;
    int64_t i = 0;
    for (; i + W <= n; i += W) {
      Vector<T> v[W];
      for (int j = 0; j < W; ++j) v[j] = load(from + (i + j) * step);
      transpose_square<T>(v);
      for (int j = 0; j < W; ++j) store(to + j * channel_step + i, v[j]);
    }
    return i;
  }

  const UnfoldJob& job_;
  const UnfoldProblem& p_;
};
