// A call's workspace, and its work cut among threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstddef>
#include <utility>
#include <vector>

#include "memory.h"
#include "parallel.h"
#include "plan.h"

namespace convext {

// Workspace for one call: a piece of memory that its workers share and one of each worker's.
//
// The calling thread keeps the largest pieces that it has needed, up to kMostKept each, for its next call: to fault
// fresh pages in takes longer than a convolution of small images. Left to malloc, the workspace was at times the end of
// the heap, which glibc gives back to the system as soon as freed results before it make it large enough (AlexNet's
// conv2, forward + backward on two threads: 4.4 to 5.7 instead of 2.4 ms).
//
// A worker's piece is the same from call to call: where it begins at what was the end of another's, it takes each cache
// line from that worker's core first (ResNet-50's conv3_2.b, forward + backward on two cores that share no cache: 2.6
// instead of 1.8 ms).
class Workspace {
 public:
  explicit Workspace(const ConvPlan& plan) : pieces_(static_cast<std::size_t>(1 + plan.workers)) {
    Pieces& kept = kept_pieces();
    kept.resize(std::max(kept.size(), pieces_.size()));
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      const int64_t needed = i == 0 ? plan.shared_bytes : plan.thread_bytes;
      if (kept[i].bytes() >= needed) {
        pieces_[i] = std::move(kept[i]);
        continue;
      }
      if (needed <= kMostKept) kept[i] = Scratch();  // the new one replaces it
      pieces_[i] = Scratch(needed);
      advise_huge_pages(pieces_[i].data(), needed);
    }
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() {
    for (std::size_t i = 0; i < pieces_.size(); ++i)
      if (pieces_[i].bytes() <= kMostKept && pieces_[i].bytes() > kept_pieces()[i].bytes())
        kept_pieces()[i] = std::move(pieces_[i]);
  }

  std::byte* shared() const { return pieces_[0].data(); }
  std::byte* of_worker(int64_t worker) const { return pieces_[static_cast<std::size_t>(1 + worker)].data(); }

 private:
  using Pieces = std::vector<Scratch>;
#ifdef __SANITIZE_ADDRESS__                // GCC's
  static constexpr int64_t kMostKept = 0;  // each call's own, so that whoever leaves it is seen
#else
  static constexpr int64_t kMostKept = int64_t{16} << 20;
#endif
  static Pieces& kept_pieces() {
    static thread_local Pieces pieces;
    return pieces;
  }

  Pieces pieces_;
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
