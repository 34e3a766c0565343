// What the machine can do: limits that the benchmark holds times against, and the state that it measures them in.
#pragma once

#include <cstdint>

#include "cpu/engine.h"

namespace convext {

// FLOP/s of one thread that runs the micro-kernel on panels in L1: the best of several short runs.
double measure_fma_peak(FloatType type);

// FLOP/s of each of so many threads, as many as the pool must have, which run the micro-kernel on panels in L1 at once
// and for so long: the mean over that time, which a layer may be compared with that ran on the same threads just before
// or after.
double measure_fma_pace(FloatType type, int64_t threads, double seconds);

// Bytes/s, read and written, at which one thread copies half of a working set of so many bytes onto its other half: the
// best of several short runs. What it may be compared with depends on the cache that holds the whole.
double measure_copy_bandwidth(int64_t bytes);

// Seconds for a cache line to go from the calling thread to the pool's second one and back; 0 where they do not run at
// once. Cores that share a cache take a tenth of a microsecond, others several times as long, and what one thread has
// written another reads as much slower. A virtual machine's processors may be moved from the one to the other.
double measure_line_trip();

}  // namespace convext
