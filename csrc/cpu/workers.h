// A call's workspace, and its work cut among threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstddef>
#include <utility>

#include "memory.h"
#include "parallel.h"
#include "plan.h"

namespace convext {

// Workspace for one call.
//
// The calling thread keeps the largest that it has needed, up to kMostKept, for its next call: to fault fresh pages in
// takes longer than a convolution of small images. Left to malloc, the workspace was at times the end of the heap,
// which glibc gives back to the system as soon as freed results before it make it large enough (AlexNet's conv2,
// forward + backward on two threads: 4.4 to 5.7 instead of 2.4 ms).
class Workspace {
 public:
  explicit Workspace(const ConvPlan& plan)
      : thread_bytes_(round_up(plan.thread_bytes, Scratch::kAlignment)),
        shared_bytes_(round_up(plan.shared_bytes, Scratch::kAlignment)) {
    const int64_t bytes = shared_bytes_ + plan.workers * thread_bytes_;
    if (kept().bytes() >= bytes) {
      memory_ = std::move(kept());
      return;
    }
    if (bytes <= kMostKept) Scratch(std::move(kept()));  // which this one will replace
    memory_ = Scratch(bytes);
    advise_huge_pages(memory_.data(), bytes);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() {
    if (memory_.bytes() <= kMostKept && memory_.bytes() > kept().bytes()) kept() = std::move(memory_);
  }

  std::byte* shared() const { return memory_.data(); }
  std::byte* of_worker(int64_t worker) const { return memory_.data() + shared_bytes_ + worker * thread_bytes_; }

 private:
#ifdef __SANITIZE_ADDRESS__                // GCC's
  static constexpr int64_t kMostKept = 0;  // each call's own, so that whoever leaves it is seen
#else
  static constexpr int64_t kMostKept = int64_t{16} << 20;
#endif
  static Scratch& kept() {
    static thread_local Scratch memory;
    return memory;
  }

  int64_t thread_bytes_, shared_bytes_;
  Scratch memory_;
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
