// A call's workspace, and its work cut among threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstddef>
#include <new>
#include <utility>

#include "memory.h"
#include "plan.h"

namespace convext {

// What a thread's calls hand on to one another: the last workspace, up to what glibc would keep as well. Left to glibc
// it came from fresh pages every now and then, whenever what lies at the heap's end, results of this library or of
// others, made it trim: gradients of 6 MB took 0.25 or 1.3 ms from call to call.
class KeptMemory {
 public:
  static constexpr std::align_val_t kAlignment{64};
  static constexpr int64_t kMostKept = int64_t{16} << 20;

  KeptMemory() = default;
  KeptMemory(const KeptMemory&) = delete;
  KeptMemory& operator=(const KeptMemory&) = delete;
  ~KeptMemory() { give({}); }

  struct Block {
    std::byte* data = nullptr;
    int64_t bytes = 0;
  };
  // A block of at least so many bytes, until it is given back.
  Block take(int64_t bytes) {
    if (kept_.bytes >= bytes) return std::exchange(kept_, {});
    give({});
    // glibc learns from the release of what it mapped how much to keep, of results too: this one shall teach it that.
    if (bytes <= kMostKept) ::operator delete(::operator new(static_cast<std::size_t>(bytes), kAlignment), kAlignment);
    Block block{static_cast<std::byte*>(::operator new(static_cast<std::size_t>(bytes), kAlignment)), bytes};
    advise_huge_pages(block.data, bytes);
    return block;
  }
  void give(Block block) {
    if (block.bytes <= kMostKept) std::swap(kept_, block);
    ::operator delete(block.data, kAlignment);
  }

 private:
  Block kept_;
};

inline KeptMemory& kept_memory() {
  thread_local KeptMemory kept;
  return kept;
}

// Workspace for one call, allocated before any thread starts: an exception inside a parallel region loses its message.
class Workspace {
 public:
  explicit Workspace(const ConvPlan& plan)
      : thread_bytes_(round_up(plan.thread_bytes, kAlignment)),
        shared_bytes_(round_up(plan.shared_bytes, kAlignment)),
        block_(kept_memory().take(shared_bytes_ + plan.workers * thread_bytes_)) {}
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { kept_memory().give(block_); }

  std::byte* shared() const { return block_.data; }
  std::byte* of_worker(int64_t worker) const { return block_.data + shared_bytes_ + worker * thread_bytes_; }

 private:
  static constexpr auto kAlignment = static_cast<int64_t>(KeptMemory::kAlignment);
  int64_t thread_bytes_, shared_bytes_;
  KeptMemory::Block block_;
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
