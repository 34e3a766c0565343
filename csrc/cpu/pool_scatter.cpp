#include "pool_scatter.h"

#include <vector>

#include "../elements.h"
#include "parallel.h"

namespace convext {
namespace {

// From a winner's offset to its place in a contiguous plane: the window's base and the distance of the tap.
class Places {
 public:
  explicit Places(const PoolProblem& p) : p_(p) {
    strides_[1] = p.axis[2].input;
    strides_[0] = strides_[1] * p.axis[1].input;
    const int64_t taps = p.axis[0].kernel * p.axis[1].kernel * p.axis[2].kernel;
    if (taps > kTable) return;  // divisions then; they cost less than such a table
    for (int64_t t = 0; t < taps; ++t) distance_.push_back(divided(t));
  }

  // The place of the winner, or -1 for no winner and for a code that no pooling would record.
  int64_t place(int64_t base, int64_t code) const {
    if (code < 0 || (!distance_.empty() && code >= static_cast<int64_t>(distance_.size()))) return -1;
    const int64_t at = base + (distance_.empty() ? divided(code) : distance_[static_cast<std::size_t>(code)]);
    return at >= 0 && at < p_.input_pixels() ? at : -1;
  }
  int64_t base(int64_t od, int64_t oh, int64_t ow) const {
    return window_begin(p_.axis[0], od) * strides_[0] + window_begin(p_.axis[1], oh) * strides_[1] +
           window_begin(p_.axis[2], ow);
  }

 private:
  static constexpr int64_t kTable = 4096;

  int64_t divided(int64_t code) const {
    const int64_t columns = p_.axis[2].kernel, rows = p_.axis[1].kernel;
    return code / (rows * columns) * p_.axis[0].dilation * strides_[0] +
           code / columns % rows * p_.axis[1].dilation * strides_[1] + code % columns * p_.axis[2].dilation;
  }

  const PoolProblem& p_;
  int64_t strides_[kSpatialAxes] = {0, 0, 1};
  std::vector<int64_t> distance_;
};

int64_t code_at(const Winners& w, int64_t i) {
  if (w.bytes == 1) {
    const uint8_t code = static_cast<const uint8_t*>(w.offsets)[i];
    return code == static_cast<uint8_t>(kNoWinner) ? kNoWinner : code;
  }
  return w.bytes == 2 ? static_cast<const int16_t*>(w.offsets)[i] : static_cast<const int32_t*>(w.offsets)[i];
}

int64_t at(const PoolProblem& p, const Strides& s, int64_t plane, int64_t d, int64_t h, int64_t w) {
  return plane / p.channels * s.outer + plane % p.channels * s.channel + d * s.axis[0] + h * s.axis[1] + w * s.axis[2];
}

// Calls visit(plane, od, oh, ow, place) for every output, in parallel over rows.
template <class Visit>
void for_each_winner(const Winners& winners, const Visit& visit) {
  const PoolProblem& p = winners.problem;
  const Places places(p);
  const int64_t rows = p.axis[1].output, depths = p.axis[0].output, columns = p.axis[2].output;
  for_each_part(p.planes() * depths * rows, p.planes() * p.output_pixels(), 0, [&](int64_t begin, int64_t end, void*) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t oh = i % rows, od = i / rows % depths, plane = i / (rows * depths);
      const int64_t from = at(p, winners.strides, plane, od, oh, 0);
      for (int64_t ow = 0; ow < columns; ++ow) {
        const int64_t code = code_at(winners, from + ow * winners.strides.axis[2]);
        visit(plane, od, oh, ow, places.place(places.base(od, oh, ow), code));
      }
    }
  });
}

template <class Bits>
void gather_bits(const Winners& winners, const Bits* from, Bits* to, const Strides& strides) {
  const PoolProblem& p = winners.problem;
  for_each_winner(winners, [&](int64_t plane, int64_t od, int64_t oh, int64_t ow, int64_t place) {
    to[at(p, strides, plane, od, oh, ow)] = place < 0 ? Bits{0} : from[plane * p.input_pixels() + place];
  });
}

// How a scatter is cut. Where the channels of all images lie side by side, those of an image go together.
struct ScatterCut {
  static constexpr int64_t kSums = int64_t{1} << 17;

  ScatterCut(const Winners& winners, const PoolImage& grad, const PoolImage& to) {
    const PoolProblem& p = winners.problem;
    const auto side_by_side = [&](const Strides& s) { return s.channel == 1 && s.axis[2] == p.channels; };
    const bool together = p.channels > 1 && p.channels <= kSums && side_by_side(winners.strides) &&
                          side_by_side(grad.strides) && side_by_side(to.strides);
    if (together) lanes = p.channels;
    groups = p.planes() / lanes;
    places = std::min(p.input_pixels(), kSums / lanes);
    parts = (p.input_pixels() + places - 1) / places;
  }

  int64_t lanes = 1;   // channels that go together
  int64_t groups = 0;  // of channels, in the batch
  int64_t places = 0;  // of a group's pixels in one part
  int64_t parts = 0;   // of a group
};

// Some pixels of a group: places [begin, end) collect in the sum type, for a dense result of that type where it lies.
template <class T, class A>
class ScatterPart {
 public:
  ScatterPart(const Winners& winners, const Places& places, const ScatterCut& cut, const PoolImage& grad,
              const PoolImage& to, A* sums)
      : winners_(winners), p_(winners.problem), places_(places), cut_(cut), grad_(grad), to_(to), sums_(sums) {}

  void run(int64_t group, int64_t part) {
    begin_ = part * cut_.places;
    end_ = std::min(begin_ + cut_.places, p_.input_pixels());
    A* const workspace = sums_;
    if constexpr (std::is_same_v<T, A>)
      if (is_dense()) sums_ = static_cast<T*>(to_.data) + at(to_.strides, group, 0, 0) + begin_ * cut_.lanes;
    std::fill_n(sums_, (end_ - begin_) * cut_.lanes, A{0});
    find_outputs();
    for (int64_t od = d_.begin; od < d_.end; ++od)
      for (int64_t oh = h_.begin; oh < h_.end; ++oh) scatter_row(group, od, oh);
    if (sums_ == workspace) write(group);
    sums_ = workspace;
  }

 private:
  int64_t at(const Strides& s, int64_t group, int64_t d, int64_t h) const {
    return convext::at(p_, s, group * cut_.lanes, d, h, 0);
  }

  bool is_dense() const {
    const Strides& s = to_.strides;
    return s.axis[2] == cut_.lanes && s.axis[1] == p_.axis[2].input * s.axis[2] &&
           s.axis[0] == p_.axis[1].input * s.axis[1];
  }

  // The outputs whose windows may reach the part: cut along the first axis on which the part is more than one slice.
  void find_outputs() {
    const PoolAxis* a = p_.axis;
    const int64_t plane_rows = a[1].input, columns = a[2].input, last = end_ - 1;
    d_ = windows_reading(a[0], begin_ / (plane_rows * columns), last / (plane_rows * columns) + 1);
    h_ = {0, a[1].output};
    w_ = {0, a[2].output};
    if (begin_ / (plane_rows * columns) != last / (plane_rows * columns)) return;
    const int64_t first_row = begin_ / columns % plane_rows, last_row = last / columns % plane_rows;
    h_ = windows_reading(a[1], first_row, last_row + 1);
    if (first_row == last_row) w_ = windows_reading(a[2], begin_ % columns, last % columns + 1);
  }

  void scatter_row(int64_t group, int64_t od, int64_t oh) {
    const int64_t lanes = cut_.lanes;
    const int64_t codes = at(winners_.strides, group, od, oh);
    const T* grads = static_cast<const T*>(grad_.data) + at(grad_.strides, group, od, oh);
    for (int64_t ow = w_.begin; ow < w_.end; ++ow) {
      const int64_t base = places_.base(od, oh, ow), code = codes + ow * winners_.strides.axis[2];
      const T* grad = grads + ow * grad_.strides.axis[2];
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t place = places_.place(base, code_at(winners_, code + lane));
        if (place >= begin_ && place < end_) sums_[(place - begin_) * lanes + lane] += widen(grad[lane]);
      }
    }
  }

  void write(int64_t group) {
    const int64_t columns = p_.axis[2].input, rows = p_.axis[1].input, step = to_.strides.axis[2];
    for (int64_t i = begin_; i < end_;) {
      const int64_t w = i % columns, n = std::min(columns - w, end_ - i);
      T* row = static_cast<T*>(to_.data) + at(to_.strides, group, i / columns / rows, i / columns % rows) + w * step;
      const A* from = sums_ + (i - begin_) * cut_.lanes;
      if (step == cut_.lanes) {
        for (int64_t j = 0; j < n * cut_.lanes; ++j) row[j] = Narrow<T>::from(from[j]);
      } else {
        for (int64_t j = 0; j < n; ++j) row[j * step] = Narrow<T>::from(from[j]);
      }
      i += n;
    }
  }

  const Winners& winners_;
  const PoolProblem& p_;
  const Places& places_;
  const ScatterCut& cut_;
  const PoolImage &grad_, &to_;
  A* sums_;
  int64_t begin_ = 0, end_ = 0;
  PoolRange d_{}, h_{}, w_{};
};

template <class T>
void scatter(const Winners& winners, const PoolImage& grad, const PoolImage& to) {
  using A = decltype(widen(T{}));
  const PoolProblem& p = winners.problem;
  const Places places(p);
  const ScatterCut cut(winners, grad, to);
  const int64_t bytes = cut.places * cut.lanes * static_cast<int64_t>(sizeof(A));
  for_each_part(cut.groups * cut.parts, p.planes() * p.input_pixels(), bytes,
                [&](int64_t begin, int64_t end, void* workspace) {
                  ScatterPart<T, A> part(winners, places, cut, grad, to, static_cast<A*>(workspace));
                  for (int64_t i = begin; i < end; ++i) part.run(i / cut.parts, i % cut.parts);
                });
}

}  // namespace

void gather_winners(const Winners& winners, const void* from, int element_bytes, void* to, const Strides& to_strides) {
  const auto run = [&](auto bits) {
    using Bits = decltype(bits);
    gather_bits(winners, static_cast<const Bits*>(from), static_cast<Bits*>(to), to_strides);
  };
  switch (element_bytes) {
    case 1: return run(uint8_t{});
    case 2: return run(uint16_t{});
    case 4: return run(uint32_t{});
    default: return run(uint64_t{});
  }
}

void scatter_winners(const Winners& winners, PoolType type, const PoolImage& grad, const PoolImage& to) {
  switch (type) {
    case PoolType::kFloat: return scatter<float>(winners, grad, to);
    case PoolType::kDouble: return scatter<double>(winners, grad, to);
    case PoolType::kBFloat16: return scatter<BFloat16>(winners, grad, to);
    case PoolType::kHalf: return scatter<Half>(winners, grad, to);
    default: return;
  }
}

void winner_indices(const Winners& winners, int64_t* to, const Strides& to_strides) {
  const PoolProblem& p = winners.problem;
  for_each_winner(winners, [&](int64_t plane, int64_t od, int64_t oh, int64_t ow, int64_t place) {
    to[at(p, to_strides, plane, od, oh, ow)] = place;
  });
}

}  // namespace convext
