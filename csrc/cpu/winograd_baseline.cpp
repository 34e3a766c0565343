// Winograd's kernels for what the compiler targets without a flag: SSE2 on x86-64, NEON on aarch64.
// See engine_baseline.cpp for the rules of such a file; they are apart because that one compiles long enough.
#include "engine_includes.h"

namespace convext {
namespace {
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 4;
}  // namespace
}  // namespace convext

#include "winograd_engine.inl.h"

namespace convext {
const WinogradTable kBaselineWinograd = make_winograd_table();
}  // namespace convext
