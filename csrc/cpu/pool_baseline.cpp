// The pooling kernels for what the compiler targets without a flag: SSE2 on x86-64, NEON on aarch64.
//
// A level is this file: every include first, then the target switched on, then one constant for the width of a vector,
// and the kernels' text. They are apart from engine_baseline.cpp, which compiles long enough by itself.
#include "engine_includes.h"

namespace convext {
namespace {
constexpr int kVectorBytes = 16;
}  // namespace
}  // namespace convext

#include "pool_engine.inl.h"

namespace convext {
const PoolTable kBaselinePools = make_pool_table();
}  // namespace convext
