// The packed kernels for what the compiler targets without a flag: SSE2 on x86-64, NEON on aarch64.
//
// A level is this file: every include first, then the target switched on, then one constant for the width of a vector,
// one for the rows of a tile, and the kernels' text. Nothing outside of an anonymous namespace may be defined between
// the switch and its end.
#include "engine_includes.h"

namespace convext {
namespace {
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 4;
}  // namespace
}  // namespace convext

#include "engine.inl.h"

namespace convext {
const Engine kBaselineEngine = make_engine("baseline", kBaselinePools, kBaselineWinograd);
}  // namespace convext
