// Packing the weight of fprop and dgrad into panels [term][result channel]. Include only from engine.inl.h.
#pragma once

template <class T, class A, class Product>
struct WeightPacker {
  const ConvJob& job;

  // Packs panel `index` of the wave, counted over (region, group, reduction block, panel).
  void pack(int64_t index) const {
    if (job.zones) return TapPacker<T, A, Product>(job).pack(index);
    const RegionJob* r = job.wave.data();
    while (r + 1 < job.wave.data() + job.wave.size() && (r + 1)->first_pack <= index) ++r;
    const int64_t panels = job.weight_panels(), local = index - r->first_pack;
    const int64_t panel = local % panels, block_index = local / panels % r->reduction.blocks();
    const int64_t group = local / panels / r->reduction.blocks();
    const Block block = r->reduction.block(block_index);
    const Panels rows(job.rows, job.tile.rows);
    const int64_t start = job.shape.pixels_are_rows ? panel * job.tile.columns : rows.start(panel);
    const int64_t width = job.shape.pixels_are_rows ? job.tile.columns : rows.rows(panel);
    if (panel + 1 < panels) prefetch_rows(*r, block, group, start + width, 0, width);
    pack_panel(*r, block, group, start, width, panel_at(*r, block, group, start));
  }

  // Where the panel that starts at result channel `start` stands.
  A* panel_at(const RegionJob& r, const Block& block, int64_t group, int64_t start) const {
    const int64_t channels = packed_channels(job.shape, job.tile, job.rows);
    if (job.zones) return TapPacker<T, A, Product>(job).panel_at(*r.region, block, group, start);
    return static_cast<A*>(job.packed_weight) + r.packed_offset +
           channels * (group * r.reduction.length() + r.reduction.before(block)) + start * block.length();
  }

  // Asks for rows [begin, end) of the panel that starts at result channel `start`, which is packed next: they stand a
  // weight row apart, too far for the processor to see them coming.
  void prefetch_rows(const RegionJob& r, const Block& block, int64_t group, int64_t start, int64_t begin,
                     int64_t end) const {
    if (r.reduction.channels_inner && block.taps > 1) return;
    const T* from = static_cast<const T*>(job.weight) + group * job.weight_group + start * job.weight_row +
                    block.channel * Product::kTerms * job.weight_depth;
    if (block.taps > 1 && job.weight_depth != block.taps) return;  // not one run a row
    if (block.taps == 1 && job.weight_depth != 1) return;
    for (int64_t i = begin; i < std::min(end, job.rows - start); ++i)
      for (int64_t k = 0; k < Product::kTerms * block.length(); k += 64 / static_cast<int64_t>(sizeof(T)))
        __builtin_prefetch(from + i * job.weight_row + k);
  }

  // Packs `width` result channels from `start` on, and zeros beyond the last.
  void pack_panel(const RegionJob& r, const Block& block, int64_t group, int64_t start, int64_t width, A* to) const {
    const T* from = static_cast<const T*>(job.weight) + group * job.weight_group + start * job.weight_row +
                    block.channel * Product::kTerms * job.weight_depth;
    const int64_t rows = std::min(width, job.rows - start);
    int64_t offset[kReductionBlock];                    // of each tap in the weight
    bool neighbours = true, reversed = block.taps > 1;  // taps that follow each other, or go backwards
    for (int64_t t = 0; t < block.taps; ++t) {
      const Tap tap = tap_at(*r.region, block.tap + t);
      offset[t] = 0;
      for (int i = 0; i < kSpatialAxes; ++i)
        offset[t] += (r.region->axis[i].tap0 + tap.t[i] * r.region->axis[i].tap_step) * job.weight_tap[i];
      neighbours = neighbours && offset[t] == offset[0] + t;
      reversed = reversed && offset[t] == offset[0] - t;
    }
    // The channels of a single tap are in order either way.
    const bool contiguous =
        neighbours && job.weight_depth == block.taps && (!r.reduction.channels_inner || block.taps == 1);
    const int64_t channel_step = r.reduction.channel_step(block), tap_step = r.reduction.tap_step(block);
    if constexpr (Product::kTerms == 2) {
      if (job.shape.neighbour_pairs) {
        const A* row[kTileColumns<A>];
        for (int64_t i = 0; i < width; ++i)
          row[i] = i < rows ? reinterpret_cast<const A*>(from + i * job.weight_row) : kZeros<A>;
        return transpose_rows(row, static_cast<int>(width), block.length(), to);
      }
      const int64_t channels = job.depth - 2 * block.channel;
      return pack_weight_pairs<T, A, Product>({from, job.weight_row, job.weight_depth, channels, rows, width}, block,
                                              offset, channel_step, tap_step, to);
    }
    const T* row[kTileColumns<A>];
    const auto list_rows = [&](int64_t first) {
      for (int64_t i = 0; i < width; ++i) row[i] = i < rows ? from + first + i * job.weight_row : kZeros<T>;
    };
    if (contiguous) {  // fprop's contiguous weight: each row is one run of the block
      list_rows(offset[0]);
      return transpose_rows(row, static_cast<int>(width), block.length(), to);
    }
    if (neighbours && block.taps > 1 && !r.reduction.channels_inner) {  // some of fprop's taps: a run a channel
      for (int64_t c = 0; c < block.channels; ++c) {
        list_rows(offset[0] + c * job.weight_depth);
        transpose_rows(row, static_cast<int>(width), block.taps, to + c * channel_step * width);
      }
      return;
    }
    if (reversed && !r.reduction.channels_inner) {  // dgrad's taps: a run a channel, whose lines are turned round
      A lines[kReductionBlock * kTileColumns<A>];
      for (int64_t c = 0; c < block.channels; ++c) {
        list_rows(offset[block.taps - 1] + c * job.weight_depth);
        transpose_rows(row, static_cast<int>(width), block.taps, lines);
        A* channel = to + c * channel_step * width;
        for (int64_t t = 0; t < block.taps; ++t)
          copy_row(channel + t * width, lines + (block.taps - 1 - t) * width, width);
      }
      return;
    }
    if (job.weight_row == 1) {  // dgrad's 1x1 or channels_last weight has lines of the panel's layout
      for (int64_t t = 0; t < block.taps; ++t)
        for (int64_t c = 0; c < block.channels; ++c) {
          A* line = to + (c * channel_step + t * tap_step) * width;
          copy_strided(line, from + offset[t] + c * job.weight_depth, 1, rows);
          if (rows < width) std::fill(line + rows, line + width, A{0});
        }
      return;
    }
    if (job.weight_depth == 1 && r.reduction.channels_inner) {  // fprop's channels_last weight: a run a row and tap
      for (int64_t t = 0; t < block.taps; ++t) {
        list_rows(offset[t]);
        transpose_rows(row, static_cast<int>(width), block.channels, to + t * tap_step * width);
      }
      return;
    }
    for (int64_t c = 0; c < block.channels; ++c)
      for (int64_t i = 0; i < width; ++i) {
        const T* element = from + c * job.weight_depth + i * job.weight_row;
        A* column = to + c * channel_step * width + i;
        for (int64_t t = 0; t < block.taps; ++t)
          column[t * tap_step * width] = i < rows ? widen(element[offset[t]]) : A{0};
      }
  }
};
