// Large results come from fresh memory: with pages of 4 KiB, faulting 115 MiB in takes longer than writing it.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace convext {

// Asks for huge pages under a result that is about to be written, if it is large: malloc maps what has 32 MiB anew
// every time, and gives smaller memory back now and then. Without huge pages nothing changes but the time. Measured:
// filling 115 MiB of fresh memory takes 60 ms on small pages and 8 ms on huge ones.
inline void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kHugePage = std::uintptr_t{2} << 20;
  constexpr int64_t kMapped = int64_t{4} << 20;
  if (bytes < kMapped) return;
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const std::uintptr_t end = (address + static_cast<std::uintptr_t>(bytes)) / kHugePage * kHugePage;
  // advice only: a kernel without huge pages refuses, and that is fine
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace convext
