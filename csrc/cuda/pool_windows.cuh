// The windows of a pooling as its kernels see them: pool_problem.h's formulas in the width of the offsets, with no
// division where windows are regular.
#pragma once

#include <algorithm>

#include "../pool_problem.h"
#include "divisor.h"
#include "tile_product.cuh"

namespace convext::cuda {

template <class Offset>
struct PoolSide {                // of one axis
  Divisor<Offset> output, size;  // size: of the side that results are counted on, outputs or inputs
  Offset input, kernel, stride, dilation, lo, limit, counted;
  bool adaptive;

  PoolSide() = default;
  PoolSide(const PoolAxis& a, bool results_are_inputs)
      : output(a.output),
        size(results_are_inputs ? a.input : a.output),
        input(static_cast<Offset>(a.input)),
        kernel(static_cast<Offset>(a.kernel)),
        stride(static_cast<Offset>(a.stride)),
        dilation(static_cast<Offset>(a.dilation)),
        lo(static_cast<Offset>(a.lo)),
        limit(static_cast<Offset>(a.limit())),
        counted(static_cast<Offset>(a.input + a.hi)),
        adaptive(a.adaptive) {}

  // The input coordinate of a window's first tap, which may lie in the padding.
  __device__ Offset begin(Offset o) const {
    return adaptive ? static_cast<Offset>(static_cast<int64_t>(o) * input / output.value()) : o * stride - lo;
  }
  __device__ Offset taps(Offset o) const {
    if (!adaptive) return kernel;
    return static_cast<Offset>((static_cast<int64_t>(o + 1) * input + output.value() - 1) / output.value()) - begin(o);
  }
  __device__ bool inside(Offset x) const { return x >= 0 && x < limit; }

  // What an average counts; at least 1.
  __device__ Offset count(Offset o, bool include_pad) const {
    Offset n = 0, x = begin(o);
    const Offset end = taps(o);
    for (Offset t = 0; t < end; ++t, x += dilation) n += include_pad && !adaptive ? x < counted : inside(x);
    return n > 0 ? n : 1;
  }

  // Calls visit(o, t) for every window o with a tap t at input coordinate i; of regular windows taps ascend, which is
  // the order that torch's col2im adds in. One call of visit: three axes nested multiply the copies of its body.
  template <class Visit>
  __device__ void each_window(Offset i, const Visit& visit) const {
    if (!adaptive && (i >= limit || i + lo < 0)) return;
    const Offset reach = (kernel - 1) * dilation, last = output.value() - 1;
    Offset o = adaptive ? static_cast<Offset>(static_cast<int64_t>(i) * output.value() / input)
                        : std::min((i + lo) / stride, last);
    for (; o >= 0 && o <= last; o += adaptive ? 1 : -1) {
      const Offset back = i - begin(o);
      if (back < 0 || (!adaptive && back > reach)) return;
      if (dilation != 1 && back % dilation != 0) continue;
      visit(o, dilation == 1 ? back : back / dilation);
    }
  }
};

// A result's channel and coordinates from its number: pixels of a row are neighbours, or channels where those are.
template <class Offset>
struct PoolPlace {
  Offset sample, channel, x[kSpatialAxes];
};

template <class Offset>
struct PoolGrid {
  PoolSide<Offset> axis[kSpatialAxes];
  Divisor<Offset> channels;
  Offset results;
  bool channels_last;

  PoolGrid() = default;
  PoolGrid(const PoolProblem& p, bool results_are_inputs, bool channels_last_)
      : axis{{p.axis[0], results_are_inputs}, {p.axis[1], results_are_inputs}, {p.axis[2], results_are_inputs}},
        channels(std::max<int64_t>(p.channels, 1)),
        results(static_cast<Offset>(p.planes() * (results_are_inputs ? p.input_pixels() : p.output_pixels()))),
        channels_last(channels_last_) {}

  __device__ PoolPlace<Offset> place(Offset number) const {
    PoolPlace<Offset> at{};
    const auto take = [&](const Divisor<Offset>& size) {
      const Offset rest = size.quotient(number), digit = number - rest * size.value();
      number = rest;
      return digit;
    };
    if (channels_last) at.channel = take(channels);
#pragma unroll
    for (int i = kSpatialAxes - 1; i >= 0; --i) at.x[i] = take(axis[i].size);
    if (!channels_last) at.channel = take(channels);
    at.sample = number;
    return at;
  }
};

// Strides in the width of the offsets.
template <class Offset>
struct PoolStrides {
  Offset sample, channel, axis[kSpatialAxes];

  PoolStrides() = default;
  explicit PoolStrides(const Strides& s)
      : sample(static_cast<Offset>(s.outer)),
        channel(static_cast<Offset>(s.channel)),
        axis{static_cast<Offset>(s.axis[0]), static_cast<Offset>(s.axis[1]), static_cast<Offset>(s.axis[2])} {}

  __device__ Offset plane(const PoolPlace<Offset>& at) const { return at.sample * sample + at.channel * channel; }
  __device__ Offset pixel(Offset d, Offset h, Offset w) const { return d * axis[0] + h * axis[1] + w * axis[2]; }
  __device__ Offset at(const PoolPlace<Offset>& p) const { return plane(p) + pixel(p.x[0], p.x[1], p.x[2]); }
};

// Offsets of windows' winners, of one, two or four bytes; -1 where a window has none.
struct PoolCodes {
  Buffer<uint8_t> one;
  Buffer<int16_t> two;
  Buffer<int32_t> four;

  template <class Offset>
  __device__ int32_t get(Offset i) const {
    if (one) return one[i] == 255 ? -1 : one[i];
    return two ? two[i] : four[i];
  }
  template <class Offset>
  __device__ void set(Offset i, int32_t code) const {
    if (one) one[i] = static_cast<uint8_t>(code);
    if (two) two[i] = static_cast<int16_t>(code);
    if (four) four[i] = code;
  }

  // Those of neighbouring elements, at once.
  template <int Lanes>
  __device__ void get(int32_t i, int32_t (&codes)[Lanes]) const {
    if (one) {
      load(one, i, codes);
#pragma unroll
      for (int lane = 0; lane < Lanes; ++lane) codes[lane] = codes[lane] == 255 ? -1 : codes[lane];
    }
    if (two) load(two, i, codes);
    if (four) load(four, i, codes);
  }
  template <int Lanes>
  __device__ void set(int32_t i, const int32_t (&codes)[Lanes]) const {
    if (one) store(one, i, codes);
    if (two) store(two, i, codes);
    if (four) store(four, i, codes);
  }

 private:
  template <class Code, int Lanes>
  struct alignas(sizeof(Code) * Lanes < 16 ? sizeof(Code) * Lanes : 16) Several {
    Code code[Lanes];
  };
  template <class Code, int Lanes>
  __device__ static void load(const Buffer<Code>& from, int32_t i, int32_t (&codes)[Lanes]) {
    const Code* address = from.at(i, Lanes);
#if defined(CONVEXT_EMULATED)
    emulator::check_aligned(address, alignof(Several<Code, Lanes>));
#endif
    const Several<Code, Lanes> several = *reinterpret_cast<const Several<Code, Lanes>*>(address);
#pragma unroll
    for (int lane = 0; lane < Lanes; ++lane) codes[lane] = several.code[lane];
  }
  template <class Code, int Lanes>
  __device__ static void store(const Buffer<Code>& to, int32_t i, const int32_t (&codes)[Lanes]) {
    Several<Code, Lanes> several;
#pragma unroll
    for (int lane = 0; lane < Lanes; ++lane) several.code[lane] = static_cast<Code>(codes[lane]);
    Code* address = to.at(i, Lanes);
#if defined(CONVEXT_EMULATED)
    emulator::check_aligned(address, alignof(Several<Code, Lanes>));
#endif
    *reinterpret_cast<Several<Code, Lanes>*>(address) = several;
  }
};

}  // namespace convext::cuda
