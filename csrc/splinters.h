// Keeps the results of a loop's calls in one place in memory, where caches still hold it, instead of two by turns.
//
// To align a result, torch's allocator asks malloc for 112 bytes more and cuts them off again, as one or two splinters:
//
//     | head |          result          | tail |        head + tail = 112 bytes
//
// A call that frees its result can only lead to the same place in the next call if glibc has joined the three pieces
// again by then. It does not where a splinter is a block in use, and it counts as one on the list of freed blocks of
// its size that a thread keeps for its next small blocks (the "tcache", up to 7 blocks a size). Onto that list it comes
// whenever the list is not full; and it is not full here, as a call through the stable ABI holds blocks of these sizes
// (its stacks of arguments, the result's storage) that stood on the lists, and will again when it has returned. Then
// the next call's arguments take the splinter, the result finds its place too small by it, and goes elsewhere.
//
// So each thread keeps some blocks of each size. It frees them before a result is allocated, which fills the lists:
// what malloc then cuts off is joined with its neighbours. Afterwards it takes as many back. One splinter may find a
// place on a full list nevertheless, that of the block which the result's storage took; it then lies on top, so the
// topmost block changes places with one of ours. Under another malloc all this does nothing but take a fraction of a
// microsecond.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace convext {

class SplinterLists {
 public:
  static constexpr int64_t kLargeResult = 128 << 10;  // elements; a smaller one stays in L2 in two places as well

  SplinterLists() { take(); }
  SplinterLists(const SplinterLists&) = delete;
  SplinterLists& operator=(const SplinterLists&) = delete;
  ~SplinterLists() {
    fill();
    for (Blocks& blocks : blocks_) std::free(blocks[0]);
  }

  // Keeps this thread's lists full while it lives.
  class Full {
   public:
    explicit Full(bool large) : lists_(large ? &of_thread() : nullptr) {
      if (lists_ != nullptr) lists_->fill();
    }
    Full(const Full&) = delete;
    Full& operator=(const Full&) = delete;
    ~Full() {
      if (lists_ != nullptr) lists_->restore();
    }

   private:
    SplinterLists* lists_;
  };

 private:
  // Blocks of 48 to 112 bytes, their headers included. Of those of 32 a call holds nearly as many as a list has: left
  // out.
  static constexpr int kSizes = 5;
  // A call holds at most two blocks of one of these sizes; four leave two on a list for what comes after it.
  static constexpr int kBlocks = 5;
  using Blocks = void* [kBlocks];

  static SplinterLists& of_thread() {
    thread_local SplinterLists lists;
    return lists;
  }
  static void* block(int size) {
    void* taken = std::malloc(40 + 16 * static_cast<size_t>(size));
    asm volatile("" : "+r"(taken));  // or GCC leaves out blocks that are only allocated and freed
    return taken;
  }
  void take() {
    for (int size = 0; size < kSizes; ++size) {
      for (void*& taken : blocks_[size]) taken = block(size);
    }
  }
  void fill() {
    for (Blocks& blocks : blocks_) {
      for (int i = 1; i < kBlocks; ++i) std::free(blocks[i]);
    }
  }
  void restore() {
    for (int size = 0; size < kSizes; ++size) {
      void* topmost = block(size);
      std::free(blocks_[size][0]);  // the list is full again
      std::free(topmost);
    }
    take();
  }

  Blocks blocks_[kSizes];
};

}  // namespace convext
