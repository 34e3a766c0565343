// What depthwise_shifted.h reads: planes where they lie, vectors of them whose lanes are moved. Include only from
// engine.inl.h.
#pragma once

template <class A>
struct LaneIndicesOf {
  typedef LaneInteger<A> type __attribute__((vector_size(kVectorBytes)));
};
template <class A>
using LaneIndices = typename LaneIndicesOf<A>::type;

// Lane i of the result is lane index[i] of the concatenation of a and b.
template <class A>
inline Vector<A> permuted(Vector<A> a, Vector<A> b, LaneIndices<A> index) {
#if defined(__clang__)
  constexpr LaneInteger<A> W = kLanes<A>;
  Vector<A> result = {};
  for (int i = 0; i < kLanes<A>; ++i) result[i] = index[i] < W ? a[index[i]] : b[index[i] - W];
  return result;
#else
  return __builtin_shuffle(a, b, index);
#endif
}

// How a vector of positions is read under a column of taps: as it lies; lanes of one vector, or zeros; lanes of two.
enum class Fetch { kWhole, kShifted, kJoined };

// What a vector reads. Lanes are `planes` equal parts, a plane's positions [x, ..) each, of which [begin, end) count.
// Position q reads column q * step + offset of rows of `extent`; planes are `distance` apart.
struct LaneReads {
  int64_t planes, distance;
  int64_t x, begin, end;
  int64_t step, offset, extent;
};

template <class A>
struct FetchPlan {
  Fetch kind = Fetch::kWhole;
  int64_t first = 0, second = 0;          // columns; where the second vector begins, from the first
  const LaneInteger<A>* lanes = nullptr;  // a vector of indices and one of masks

  // `memory` keeps the lanes.
  FetchPlan(const LaneReads& reads, LaneInteger<A>* memory) : lanes(memory) {
    constexpr int64_t W = kLanes<A>;
    const auto [planes, distance, x, begin, end, step, offset, extent] = reads;
    const int64_t start = x * step + offset, last = std::max<int64_t>(0, extent - W);
    first = std::clamp<int64_t>(start, 0, last);
    if (planes > 1) {
      second = distance;
    } else if (step > 1) {
      second = std::clamp<int64_t>(start + W, 0, last) - first;
    }
    const bool joined = planes > 1 || step > 1;
    bool whole = !joined;
    for (int64_t l = 0; l < W; ++l) {
      const int64_t plane = l / (W / planes), j = l % (W / planes), at = start + j * step - first;
      const bool counts = j >= begin && j < end && first + at >= 0 && first + at < extent;
      const int64_t in_second = planes > 1 ? plane : at >= W;
      const int64_t index = planes > 1 ? plane * W + at : in_second ? W + at - second : at;
      memory[l] = static_cast<LaneInteger<A>>(counts ? index : joined ? 0 : W);
      memory[W + l] = counts ? ~LaneInteger<A>{0} : 0;
      whole = whole && counts && index == l;
    }
    kind = whole ? Fetch::kWhole : joined ? Fetch::kJoined : Fetch::kShifted;
  }
  FetchPlan() = default;
};

template <class A, Fetch kFetch>
class Fetcher {
 public:
  Fetcher() = default;
  explicit Fetcher(const FetchPlan<A>& plan) : second_(plan.second) {
    if constexpr (kFetch != Fetch::kWhole) std::memcpy(&index_, plan.lanes, sizeof index_);
    if constexpr (kFetch == Fetch::kJoined) std::memcpy(&mask_, plan.lanes + kLanes<A>, sizeof mask_);
  }
  [[gnu::always_inline]] Vector<A> operator()(const A* at) const {
    if constexpr (kFetch == Fetch::kWhole) {
      return load(at);
    } else if constexpr (kFetch == Fetch::kShifted) {
      return permuted<A>(load(at), Vector<A>{}, index_);
    } else {
      const Vector<A> lanes = permuted<A>(load(at), load(at + second_), index_);
      return reinterpret_cast<Vector<A>>(reinterpret_cast<LaneIndices<A>>(lanes) & mask_);
    }
  }

 private:
  LaneIndices<A> index_ = {}, mask_ = {};
  int64_t second_ = 0;
};

// Planes that vectors may be loaded from: where they lie, or copied.
template <class T, class A>
class PlaneReader {
 public:
  // `reach`: elements that are read from where a row begins, at least; up to two vectors beyond its end.
  PlaneReader(const void* data, const Strides& strides, int64_t batch, int64_t channels, int64_t height, int64_t width,
              A* memory, int64_t reach = kLanes<A>)
      : data_(static_cast<const T*>(data)),
        strides_(strides),
        height_(height),
        width_(width),
        reach_(std::max(width, reach)),
        memory_(memory) {
    elements_ = 1 + (batch - 1) * strides.outer + (channels - 1) * strides.channel + (height - 1) * strides.axis[1] +
                (width - 1) * strides.axis[2];
  }

  // Makes `count` planes readable, in the place of `wanted` of them; true if pitch or distance have changed.
  bool enter(int64_t n, int64_t channel, int64_t count, int64_t wanted) {
    const int64_t offset = n * strides_.outer + channel * strides_.channel;
    const int64_t last_row = offset + (count - 1) * strides_.channel + (height_ - 1) * strides_.axis[1];
    const int64_t pitch = pitch_, distance = distance_;
    if constexpr (std::is_same_v<T, A>) {
      if (count == wanted && strides_.axis[2] == 1 && last_row + reach_ <= elements_) {
        planes_ = data_ + offset, pitch_ = strides_.axis[1], distance_ = strides_.channel;
        return pitch != pitch_ || distance != distance_;
      }
    }
    planes_ = memory_, pitch_ = width_, distance_ = round_up(height_ * width_, W);
    const bool dense = strides_.axis[2] == 1 && strides_.axis[1] == width_;
    const int64_t rows = dense ? 1 : height_, length = dense ? height_ * width_ : width_;
    for (int64_t c = 0; c < count; ++c)
      for (int64_t y = 0; y < rows; ++y)
        copy(memory_ + c * distance_ + y * width_, data_ + offset + c * strides_.channel + y * strides_.axis[1],
             strides_.axis[2], length);
    return pitch != pitch_ || distance != distance_;
  }

  const A* planes() const { return planes_; }
  int64_t pitch() const { return pitch_; }
  int64_t distance() const { return distance_; }

 private:
  static constexpr int64_t W = kLanes<A>;

  static void copy(A* to, const T* from, int64_t step, int64_t length) {
    if (std::is_same_v<T, A> || step != 1) return copy_strided(to, from, step, length);
    int64_t i = 0;
    for (; i + W <= length; i += W) store(to + i, load_widened<A>(from + i));
    for (; i < length; ++i) to[i] = widen(from[i]);
  }

  const T* data_;
  const Strides& strides_;
  int64_t height_, width_, reach_, elements_;
  A* memory_;
  const A* planes_ = nullptr;
  int64_t pitch_ = -1, distance_ = -1;
};
