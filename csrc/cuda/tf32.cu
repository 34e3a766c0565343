#include "tf32.h"

#include <atomic>

namespace convext::cuda {
namespace {

std::atomic<int (*)()> reader{nullptr};

}  // namespace

bool tf32_allowed() {
  int (*const read)() = reader.load();
  return read != nullptr && read() != 0;
}

}  // namespace convext::cuda

// The function that reads the switch, for as long as it is not replaced; null for none.
extern "C" __attribute__((visibility("default"))) void convext_cuda_read_tf32_by(int (*read)()) {
  convext::cuda::reader.store(read);
}
