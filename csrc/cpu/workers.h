// A call's workspace, and its work cut among threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstddef>
#include <new>
#include <utility>

#include "memory.h"
#include "plan.h"

namespace convext {

// Aligned memory of so many bytes.
class AlignedMemory {
 public:
  AlignedMemory() = default;
  explicit AlignedMemory(int64_t bytes)
      : bytes_(bytes),
        data_(static_cast<std::byte*>(::operator new(static_cast<std::size_t>(bytes), std::align_val_t{kAlignment}))) {
    advise_huge_pages(data_, bytes);
  }
  AlignedMemory(AlignedMemory&& other) noexcept
      : bytes_(std::exchange(other.bytes_, 0)), data_(std::exchange(other.data_, nullptr)) {}
  AlignedMemory& operator=(AlignedMemory&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~AlignedMemory() { ::operator delete(data_, std::align_val_t{kAlignment}); }

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

  static constexpr int64_t kAlignment = 64;

 private:
  int64_t bytes_ = 0;
  std::byte* data_ = nullptr;
};

// Workspace for one call, allocated before any thread starts: an exception inside a parallel region loses its message.
//
// The calling thread keeps the largest that it has needed, up to kMostKept, for its next call: to fault fresh pages in
// takes longer than a convolution of small images. Left to malloc, the workspace was at times the top of the heap,
// which glibc gives back to the system as soon as results that stand below it make it large enough (AlexNet's conv2,
// forward + backward on two threads: 4.4 to 5.7 instead of 2.4 ms).
class Workspace {
 public:
  explicit Workspace(const ConvPlan& plan)
      : thread_bytes_(round_up(plan.thread_bytes, AlignedMemory::kAlignment)),
        shared_bytes_(round_up(plan.shared_bytes, AlignedMemory::kAlignment)) {
    const int64_t bytes = shared_bytes_ + plan.workers * thread_bytes_;
    if (kept().bytes() >= bytes) {
      memory_ = std::move(kept());
    } else {
      if (bytes <= kMostKept) AlignedMemory(std::move(kept()));  // which this one will replace
      memory_ = AlignedMemory(bytes);
    }
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() {
    if (memory_.bytes() <= kMostKept && memory_.bytes() > kept().bytes()) kept() = std::move(memory_);
  }

  std::byte* shared() const { return memory_.data(); }
  std::byte* of_worker(int64_t worker) const { return memory_.data() + shared_bytes_ + worker * thread_bytes_; }

 private:
  static constexpr int64_t kMostKept = int64_t{32} << 20;
  static AlignedMemory& kept() {
    static thread_local AlignedMemory memory;
    return memory;
  }

  int64_t thread_bytes_, shared_bytes_;
  AlignedMemory memory_;
};

// Cuts [0, count) into one contiguous part for each worker: body(worker, begin, end).
template <class Body>
void for_each_worker(int64_t workers, int64_t count, const Body& body) {
  workers = std::min(workers, count);
  if (workers <= 1) {
    if (count > 0) body(0, 0, count);
    return;
  }
  torch::stable::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    for (int64_t worker = first; worker < last; ++worker)
      body(worker, worker * count / workers, (worker + 1) * count / workers);
  });
}

}  // namespace convext
