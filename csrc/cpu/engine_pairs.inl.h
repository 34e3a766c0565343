// The kernels that a level with dot products of pairs adds to the level it builds on. As engine.inl.h: included once,
// all in an anonymous namespace.

namespace convext {
namespace {
// Each file uses the ones before it.
// clang-format off
#include "simd.h"
#include "epilogue.h"
#include "microkernel.h"
#include "line_product.h"
#include "dot_product.h"
#include "gather.h"
#include "gather_vectors.h"
#include "pairs.h"
#include "small_images.h"
#include "tap_packer.h"
#include "weight_packer.h"
#include "pixel_packer.h"
#include "weight_lines.h"
#include "packed_conv.h"
#include "zone_unit.h"
#include "row_product.h"
#include "pixel_stage.h"
#include "pixel_rows.h"
#include "packed_wgrad.h"
#include "wgrad_result.h"
#include "band_stage.h"
#include "correlation.h"
#include "inner_product.h"
#include "banded.h"
#include "col2im.h"
#include "packed_kernels.h"
// clang-format on

using PairKernels = PackedKernels<BFloat16, float, DotProduct>;

}  // namespace
}  // namespace convext
