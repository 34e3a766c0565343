// Cutting work among threads, each with a workspace of its own.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace convext {

// Memory that begins at a cache line, allocated before any thread starts: an exception inside a parallel region loses
// its message. Aligned by hand: malloc cuts aligned memory out of a larger piece and keeps the splinters at its ends
// for small blocks; they then stand between the pieces, which cannot be joined for a larger one.
class Scratch {
 public:
  static constexpr int64_t kAlignment = 64;
  Scratch() = default;
  explicit Scratch(int64_t bytes)
      : bytes_(bytes), allocated_(::operator new(static_cast<std::size_t>(bytes + kAlignment - kLeastAlignment))) {}
  Scratch(Scratch&& other) noexcept
      : bytes_(std::exchange(other.bytes_, 0)), allocated_(std::exchange(other.allocated_, nullptr)) {}
  Scratch& operator=(Scratch&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(allocated_, other.allocated_);
    return *this;
  }
  ~Scratch() { ::operator delete(allocated_); }

  int64_t bytes() const { return bytes_; }
  std::byte* data() const {
    const auto address = reinterpret_cast<std::uintptr_t>(allocated_);
    return static_cast<std::byte*>(allocated_) + (-address) % std::uintptr_t{kAlignment};
  }

 private:
  static constexpr int64_t kLeastAlignment = __STDCPP_DEFAULT_NEW_ALIGNMENT__;
  int64_t bytes_ = 0;
  void* allocated_ = nullptr;
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
