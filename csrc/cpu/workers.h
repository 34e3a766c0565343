// A call's workspace, and its work cut among threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstddef>

#include "memory.h"
#include "parallel.h"
#include "plan.h"

namespace convext {

// Workspace for one call. It must come from what the allocator has kept, for to fault fresh pages in takes longer than
// a convolution of small images. glibc keeps memory up to the size of the largest that was mapped and freed, so that a
// second call of a size finds it; not if more than a page's alignment is asked for, which it maps anew in every call
// (3 MB: 1.2 ms of 1.7).
class Workspace {
 public:
  explicit Workspace(const ConvPlan& plan)
      : thread_bytes_(round_up(plan.thread_bytes, Scratch::kAlignment)),
        shared_bytes_(round_up(plan.shared_bytes, Scratch::kAlignment)),
        memory_(shared_bytes_ + plan.workers * thread_bytes_) {
    advise_huge_pages(memory_.data(), shared_bytes_ + plan.workers * thread_bytes_);
  }

  std::byte* shared() const { return memory_.data(); }
  std::byte* of_worker(int64_t worker) const { return memory_.data() + shared_bytes_ + worker * thread_bytes_; }

 private:
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
