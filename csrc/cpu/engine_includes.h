// Everything the kernels use from elsewhere: included by each engine_<level>.cpp before it switches its target on.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "../elements.h"
#include "../epilogue.h"
#include "../region.h"
#include "band.h"
#include "correlation_shape.h"
#include "engine.h"
#include "grouped_job.h"
#include "lane_band.h"
#include "outer_lines.h"
#include "packed.h"
#include "pool_job.h"
