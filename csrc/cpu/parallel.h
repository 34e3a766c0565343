// Cutting work among threads, each with a workspace of its own.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>

namespace convext {

// Memory that begins at a cache line, allocated before any thread starts: an exception inside a parallel region loses
// its message. Aligned by hand: malloc cuts aligned memory out of a larger piece and keeps the splinters at its ends
// for small blocks; they then stand between the pieces, which cannot be joined for a larger one.
class Scratch {
 public:
  static constexpr int64_t kAlignment = 64;
  explicit Scratch(int64_t bytes)
      : allocated_(::operator new(static_cast<std::size_t>(bytes + kAlignment - kLeastAlignment))) {
    const auto address = reinterpret_cast<std::uintptr_t>(allocated_);
    data_ = static_cast<std::byte*>(allocated_) + (-address) % std::uintptr_t{kAlignment};
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { ::operator delete(allocated_); }
  std::byte* data() const { return data_; }

 private:
  static constexpr int64_t kLeastAlignment = __STDCPP_DEFAULT_NEW_ALIGNMENT__;
  void* allocated_;
  std::byte* data_;
};

// Cuts [0, count) into one contiguous part for each worker: body(begin, end, workspace). `work` is about the number of
// elements touched: a thread for less than kWorkOfAThread costs more than it saves.
template <class Body>
void for_each_part(int64_t count, int64_t work, int64_t workspace_bytes, const Body& body) {
  constexpr int64_t kWorkOfAThread = 16384;
  if (count <= 0) return;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t workers = std::clamp<int64_t>(std::min(count, work / kWorkOfAThread), 1, threads);
  const int64_t bytes = (workspace_bytes + Scratch::kAlignment - 1) / Scratch::kAlignment * Scratch::kAlignment;
  const Scratch scratch(workers * bytes);
  if (workers == 1) return body(int64_t{0}, count, scratch.data());
  torch::stable::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    for (int64_t worker = first; worker < last; ++worker)
      body(worker * count / workers, (worker + 1) * count / workers, scratch.data() + worker * bytes);
  });
}

}  // namespace convext
