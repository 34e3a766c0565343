#include "region.h"

#include <algorithm>
#include <numeric>

namespace convext {
namespace {

// The result positions [first, last) of one axis that have no padded image but themselves.
struct Interior {
  int64_t first, last;
};

Interior interior(PaddingMode mode, const ConvAxis& a) {
  int64_t low = 0, high = 0;  // border positions at the start and at the end
  switch (mode) {
    case PaddingMode::kZeros: break;
    case PaddingMode::kReflect:
      low = a.lo > 0 ? a.lo + 1 : 0;
      high = a.hi > 0 ? a.hi + 1 : 0;
      break;
    case PaddingMode::kReplicate:
      low = a.lo > 0;
      high = a.hi > 0;
      break;
    case PaddingMode::kCircular:  // the padding before the first element is a copy of the end
      low = std::max<int64_t>(a.hi, 0);
      high = std::max<int64_t>(a.lo, 0);
      break;
  }
  low = std::min(low, a.input);
  return {low, std::max(low, a.input - high)};
}

int64_t modulo(int64_t x, int64_t m) { return (x % m + m) % m; }

// The x in [0, m) with a * x = 1 modulo m, for coprime a and m.
int64_t inverse(int64_t a, int64_t m) {
  int64_t r0 = m, r1 = modulo(a, m), x0 = 0, x1 = 1;
  while (r1 > 1) {
    const int64_t q = r0 / r1;
    r0 -= q * r1, std::swap(r0, r1);
    x0 -= q * x1, std::swap(x0, x1);
  }
  return m == 1 ? 0 : modulo(x1, m);
}

// Result positions first, first + stride, ... below last: the taps t with (first + lo - t * dilation) divisible by the
// stride form an arithmetic progression, and the k-th of them reads q + off0 - k * (its stride in units of output).
GatherAxis phase_axis(const ConvAxis& a, int64_t first, int64_t last) {
  GatherAxis g;
  g.count = (last - first + a.stride - 1) / a.stride;
  g.out0 = first;
  g.out_step = a.stride;
  g.extent = a.output;
  const int64_t common = std::gcd(a.stride, a.dilation), period = a.stride / common, shift = first + a.lo;
  g.taps = 0;
  if (modulo(shift, common) != 0) return g;
  const __int128 solution =
      static_cast<__int128>(modulo(shift / common, period)) * inverse(a.dilation / common, period);
  g.tap0 = static_cast<int64_t>(solution % period);
  g.tap_step = period;
  if (g.tap0 >= a.kernel) return g;
  g.taps = (a.kernel - g.tap0 + period - 1) / period;
  g.off0 = (shift - g.tap0 * a.dilation) / a.stride;
  g.off_step = -(period * a.dilation / a.stride);
  return g;
}

// The first position whose tap reads source coordinate x or beyond.
int64_t first_reading(const GatherAxis& g, int64_t tap, int64_t x) {
  const int64_t off = g.off0 + tap * g.off_step;
  return std::clamp<int64_t>(off >= x ? 0 : (x - off + g.step - 1) / g.step, 0, g.count);
}

std::vector<GatherAxis> zone_axes(const GatherAxis& g) {
  std::vector<int64_t> cuts{0, g.count};
  for (int64_t t = 0; t < g.taps; ++t)
    for (const int64_t x : {int64_t{0}, g.extent}) cuts.push_back(first_reading(g, t, x));
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  std::vector<GatherAxis> zones;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    const auto reads = [&](int64_t t) {
      return first_reading(g, t, 0) <= cuts[i] && cuts[i] < first_reading(g, t, g.extent);
    };
    int64_t first = 0, last = g.taps;
    while (first < last && !reads(first)) ++first;
    while (first < last && !reads(last - 1)) --last;
    GatherAxis zone = g;
    zone.count = cuts[i + 1] - cuts[i];
    zone.out0 += cuts[i] * g.out_step;
    zone.taps = last - first;
    zone.tap0 += first * g.tap_step;
    zone.off0 += cuts[i] * g.step + first * g.off_step;
    zones.push_back(zone);
  }
  return zones;
}

GatherAxis border_axis(const ConvAxis& a, int64_t first, int64_t last) {
  GatherAxis g;
  g.count = last - first;
  g.out0 = first;
  g.taps = a.kernel;
  g.extent = a.output;
  g.folded = true;
  return g;
}

}  // namespace

Region fprop_region(const ConvProblem& p) {
  Region r;
  for (int i = 0; i < kSpatialAxes; ++i) {
    const ConvAxis& a = p.axis[i];
    GatherAxis& g = r.axis[i];
    g.count = a.output;
    g.taps = a.kernel;
    g.step = a.stride;
    g.off0 = -a.lo;
    g.off_step = a.dilation;
    g.extent = a.input;
  }
  return r;
}

std::vector<GatherAxis> dgrad_axes(PaddingMode mode, const ConvAxis& a) {
  const Interior in = interior(mode, a);
  std::vector<GatherAxis> axes;
  for (int64_t first = in.first; first < std::min(in.first + a.stride, in.last); ++first)
    axes.push_back(phase_axis(a, first, in.last));
  if (in.first > 0) axes.push_back(border_axis(a, 0, in.first));
  if (in.last < a.input) axes.push_back(border_axis(a, in.last, a.input));
  return axes;
}

std::vector<Region> dgrad_regions(const ConvProblem& p) {
  std::vector<Region> regions;
  const std::vector<GatherAxis> axes[kSpatialAxes] = {dgrad_axes(p.mode, p.axis[0]), dgrad_axes(p.mode, p.axis[1]),
                                                      dgrad_axes(p.mode, p.axis[2])};
  for (const GatherAxis& d : axes[0])
    for (const GatherAxis& h : axes[1])
      for (const GatherAxis& w : axes[2]) regions.push_back({{d, h, w}});
  return regions;
}

std::vector<Region> zones_of(const Region& region) {
  std::vector<Region> zones;
  const std::vector<GatherAxis> axes[kSpatialAxes] = {zone_axes(region.axis[0]), zone_axes(region.axis[1]),
                                                      zone_axes(region.axis[2])};
  for (const GatherAxis& d : axes[0])
    for (const GatherAxis& h : axes[1])
      for (const GatherAxis& w : axes[2]) zones.push_back({{d, h, w}});
  return zones;
}

std::vector<TapBox> tap_boxes(const ConvProblem& p) {
  const Region region = fprop_region(p);
  std::vector<TapBox> boxes(static_cast<std::size_t>(region.taps()));
  int64_t inner = 1;  // taps of the axes after
  for (int i = kSpatialAxes; i-- > 0; inner *= p.axis[i].kernel)
    for (std::size_t t = 0; t < boxes.size(); ++t) {
      const GatherAxis& g = region.axis[i];
      const int64_t tap = static_cast<int64_t>(t) / inner % g.taps, begin = first_reading(g, tap, 0);
      GatherAxis &source = boxes[t].source.axis[i], &grad = boxes[t].grad.axis[i];
      source = g;
      source.count = first_reading(g, tap, g.extent) - begin;
      source.taps = 1, source.tap0 = tap;
      source.off0 = begin * g.step + g.off0 + tap * g.off_step;
      grad.count = source.count;
      grad.off0 = begin;
      grad.extent = g.count;
    }
  return boxes;
}

int64_t count_dgrad_regions(const ConvProblem& p) {
  int64_t count = 1;
  for (const ConvAxis& a : p.axis) {
    const Interior in = interior(p.mode, a);
    count *= std::min(a.stride, in.last - in.first) + (in.first > 0) + (in.last < a.input);
    count = std::min(count, int64_t{1} << 20);  // three axes of 2^40 would overflow
  }
  return count;
}

}  // namespace convext
