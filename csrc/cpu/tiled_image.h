// What Winograd's tiles are cut from.
#pragma once

#include "run.h"
#include "winograd_job.h"

namespace convext {

// The image that a gather of stride 1 in the plane reads: where its taps descend, from the last tap on.
inline TiledImage tiled_image(const Operand& operand, const Region& region, PaddingMode mode) {
  TiledImage image;
  image.data = operand.data;
  image.strides = operand.strides;
  image.mode = mode;
  for (int i = 0; i < kSpatialAxes; ++i) {
    const GatherAxis& g = region.axis[i];
    image.origin[i] = g.off0 + std::min<int64_t>(0, g.off_step * (g.taps - 1));
    image.extent[i] = g.extent;
  }
  return image;
}

}  // namespace convext
