// Where a panel of lines (line_product.h) comes from: the weight of a group as it lies. Include only from engine.inl.h.
//
//   in its order:   [result channel][term]                a panel's rows are neighbouring result channels
//   lines across:   [term][result channel]                dgrad's of one tap
#pragma once

template <class T, class A, class Product>
class WeightLines {
 public:
  WeightLines(const ConvJob& job, const RegionJob& region, int64_t group)
      : job_(job), region_(region), group_(group), rows_(job.rows, job.tile.rows) {}

  // Asks for the first line of each of a panel's rows, which nothing foresees; each line that is copied asks for the
  // one behind it. Lines across ask for each other.
  void prefetch(const Block& block, int64_t panel) const {
    if (job_.shape.lines_across) return;
    const int64_t distance = job_.weight_row / Product::kTerms;
    const A* from = static_cast<const A*>(job_.weight) + (group_ * job_.rows + rows_.start(panel)) * distance +
                    block.channel * job_.weight_depth + block.tap;
    for (int64_t i = 0; i < rows_.rows(panel); ++i) __builtin_prefetch(from + i * distance);
  }

  // The copy of a panel of a block, in the course of so many lines of products. Where whole lines would end beyond the
  // weight it is done at once.
  LineCopy<A> copy_of(const Block& block, int64_t panel, A* to, int64_t lines) const {
    if (job_.shape.lines_across) return copy_across(block, panel, to, lines);
    // Of pairs, elements of a panel are two of the weight.
    const int64_t depth = job_.weight_depth, distance = job_.weight_row / Product::kTerms, length = block.length();
    const int64_t width = divide_up(length, W), rows = rows_.rows(panel);
    const int64_t first = (group_ * job_.rows + rows_.start(panel)) * distance + block.channel * depth + block.tap;
    const int64_t end = (job_.problem->groups * job_.rows - 1) * distance + region_.reduction.length();
    const A* from = static_cast<const A*>(job_.weight) + first;
    if (first + (rows - 1) * distance + width * W <= end) {
      const int64_t count = width * rows;
      return {from, distance, rows, to, 0, count, divide_up(count, std::max<int64_t>(1, lines))};
    }
    for (int64_t k = 0; k < length; k += W)
      for (int64_t i = 0; i < rows; ++i, to += W) copy_row(to, from + i * distance + k, std::min(W, length - k));
    return {};
  }

  // Elements of a panel: whole lines.
  int64_t elements(const Block& block, int64_t panel) const {
    return job_.shape.lines_across ? round_up(rows_.rows(panel), W) * block.length()
                                   : rows_.rows(panel) * round_up(block.length(), W);
  }

 private:
  static constexpr int64_t W = kLanes<A>, kAhead = 8;

  // The same of lines across: a term's, of neighbouring result channels.
  LineCopy<A> copy_across(const Block& block, int64_t panel, A* to, int64_t lines) const {
    const int64_t distance = job_.weight_depth, length = block.length(), rows = rows_.rows(panel);
    const int64_t width = divide_up(rows, W);
    const int64_t first = group_ * job_.weight_group + block.channel * distance + rows_.start(panel);
    const int64_t end = (job_.problem->groups * job_.depth - 1) * distance + job_.rows;
    const A* from = static_cast<const A*>(job_.weight) + first;
    if (first + (length - 1) * distance + width * W <= end) {
      const int64_t count = width * length, pace = divide_up(count, std::max<int64_t>(1, lines));
      return {from, distance, length, to, 0, count, pace, kAhead * distance};
    }
    for (int64_t i = 0; i < rows; i += W)
      for (int64_t k = 0; k < length; ++k, to += W) copy_row(to, from + i + k * distance, std::min(W, rows - i));
    return {};
  }

  const ConvJob& job_;
  const RegionJob& region_;
  int64_t group_;
  Panels rows_;
};
