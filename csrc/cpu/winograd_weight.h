// Winograd's transform of the weight, G g GT, into panels. Include only from engine.inl.h.
//
//   weight[k][c][z][y][x], any strides     ->     panel[point][c][NR]: NR result channels k along the vector, one z
//
// The taps of a vector of k and of some c are first transposed into taps[c][tap] (or [tap][c]) vectors of k; what is
// contiguous in the weight says how. dgrad exchanges k and c, and takes the taps in descending order.
#pragma once

template <class T, class A, int kKernel>
class WinogradWeight {
  static constexpr int W = kLanes<A>;
  static constexpr int kTaps = kKernel * kKernel;
  // Source channels that are transposed at a time: rows of zeros are as long.
  static constexpr int64_t kChannels = std::min<int64_t>(W, kReductionBlock / kTaps);

 public:
  explicit WinogradWeight(const WinogradJob& job, A* taps) : job_(job), conv_(*job.conv), taps_(taps) {}

  // Transforms source channels [begin, begin + count) of a panel under depth tap z of the gather: that of channel
  // `begin` goes to `to`.
  void transform(int64_t group, int64_t panel, int64_t z, int64_t begin, int64_t count, A* to, int64_t plane) {
    const int64_t last = job_.depth_taps - 1;
    if (job_.flipped) z = last - z;
    for (int v = 0; v < kVectors; ++v) {
      const int64_t row = (panel * kVectors + v) * W;
      if (row >= conv_.rows) return;  // no product reads it
      lanes_ = std::clamp<int64_t>(conv_.rows - row, 0, W);
      from_ = static_cast<const T*>(conv_.weight) + group * conv_.weight_group + row * conv_.weight_row +
              z * conv_.weight_tap[0];
      left_ = conv_.weight_group * (conv_.problem->groups - 1 - group) +
              (conv_.rows - row - std::max<int64_t>(lanes_, 1)) * conv_.weight_row + (last - z) * conv_.weight_tap[0];
      for (int64_t c = 0; c < count; c += kChannels) {
        const int64_t n = std::min<int64_t>(kChannels, count - c);
        gather(begin + c, n);
        for (int64_t i = 0; i < n; ++i) {
          A* out = to + (c + i) * kVectors * W + v * W;
          transform_plane<kKernel, kWinogradEdge, Vector<A>>(
              [](const auto& g, auto& u) { Winograd<A, kKernel>::weight(g, u); },
              [&](int y, int x) {
                const int tap = job_.flipped ? kTaps - 1 - (y * kKernel + x) : y * kKernel + x;
                return load(taps_ + i * channel_step_ + tap * tap_step_);
              },
              [&](int y, int x, Vector<A> u) { store(out + (y * kWinogradEdge + x) * plane, u); });
        }
      }
    }
  }

 private:
  // Vectors of taps: channel i's tap t at taps_ + i * channel_step_ + t * tap_step_.
  void gather(int64_t channel, int64_t n) {
    const T* from = from_ + channel * conv_.weight_depth;
    const T* rows[W];
    const auto set_rows = [&](const T* first) {
      for (int i = 0; i < W; ++i) rows[i] = i < lanes_ ? first + i * conv_.weight_row : kZeros<T>;
    };
    channel_step_ = kTaps * W, tap_step_ = W;
    if (conv_.weight_tap[2] == 1 && conv_.weight_tap[1] == kKernel) {
      if (conv_.weight_depth == kTaps) {
        set_rows(from);
        return transpose_rows(rows, W, n * kTaps, taps_);
      }
      for (int64_t i = 0; i < n; ++i) {
        set_rows(from + i * conv_.weight_depth);
        // Whole vectors where they stay inside of the weight: what they read beyond the taps is overwritten or unused.
        const int64_t whole = round_up(kTaps, W);
        const int64_t room = left_ + (conv_.depth - 1 - channel - i) * conv_.weight_depth + kTaps;
        transpose_rows(rows, W, room >= whole ? whole : kTaps, taps_ + i * channel_step_);
      }
      return;
    }
    if (conv_.weight_depth == 1) {
      channel_step_ = W, tap_step_ = n * W;
      for (int t = 0; t < kTaps; ++t) {
        set_rows(from + tap_offset(t));
        transpose_rows(rows, W, n, taps_ + t * tap_step_);
      }
      return;
    }
    for (int64_t i = 0; i < n; ++i)
      for (int t = 0; t < kTaps; ++t) {
        const T* first = from + i * conv_.weight_depth + tap_offset(t);
        A* to = taps_ + i * channel_step_ + t * tap_step_;
        if (lanes_ == W && conv_.weight_row == 1) {
          store(to, load_widened<A>(first));
          continue;
        }
        for (int j = 0; j < W; ++j) to[j] = j < lanes_ ? widen(first[j * conv_.weight_row]) : A{0};
      }
  }

  int64_t tap_offset(int t) const { return t / kKernel * conv_.weight_tap[1] + t % kKernel * conv_.weight_tap[2]; }

  const WinogradJob& job_;
  const ConvJob& conv_;
  A* taps_;
  const T* from_ = nullptr;
  int64_t lanes_ = 0, left_ = 0, channel_step_ = 0, tap_step_ = 0;
};
