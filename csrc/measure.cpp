#include "measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/workers.h"

namespace convext {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Waits until the other thread has stored `value`; false if that is not so some time after `start`, when no trip lasts.
bool await(const std::atomic<int>& line, int value, Clock::time_point start) {
  constexpr double kLongest = 0.01;
  constexpr int kLooks = 1000;  // between those at the clock, which most trips need not wait for
  do {
    for (int look = 0; look < kLooks; ++look)
      if (line.load(std::memory_order_acquire) == value) return true;
  } while (seconds_since(start) < kLongest);
  return false;
}

}  // namespace

double measure_fma_peak(FloatType type) {
  const Kernels& kernels = active_engine().of(type);
  double best = 0;
  for (int run = 0; run < 20; ++run) {
    const auto start = Clock::now();
    const double flops = kernels.run_full_tile(1000);
    best = std::max(best, flops / seconds_since(start));
  }
  return best;
}

double measure_fma_pace(FloatType type, int64_t threads, double seconds) {
  if (threads < 1) throw std::invalid_argument("convext: expected at least 1 thread, got " + std::to_string(threads));
  const Kernels& kernels = active_engine().of(type);
  constexpr int64_t kTilesBetweenLooks = 100;  // at the clock: a tenth of a millisecond
  std::vector<double> pace(static_cast<std::size_t>(threads));
  for_each_worker(threads, threads, [&](int64_t worker, int64_t, int64_t) {
    const auto start = Clock::now();
    double flops = 0, passed = 0;
    do {
      flops += kernels.run_full_tile(kTilesBetweenLooks);
      passed = seconds_since(start);
    } while (passed < seconds);
    pace[static_cast<std::size_t>(worker)] = flops / passed;
  });
  return std::accumulate(pace.begin(), pace.end(), 0.0) / static_cast<double>(threads);
}

double measure_copy_bandwidth(int64_t bytes) {
  constexpr int64_t kLargest = int64_t{1} << 34;
  if (bytes < 2 || bytes > kLargest)
    throw std::invalid_argument("convext: expected 2 to 2^34 bytes, got " + std::to_string(bytes));
  const auto half = static_cast<std::size_t>(bytes / 2);
  const std::vector<char> source(half, 1);
  std::vector<char> target(half);
  constexpr std::size_t kBytesARun = std::size_t{1} << 26;
  const std::size_t copies = std::max<std::size_t>(1, kBytesARun / half);
  double best = 0;
  for (int run = 0; run < 20; ++run) {
    const auto start = Clock::now();
    for (std::size_t copy = 0; copy < copies; ++copy) {
      std::memcpy(target.data(), source.data(), half);
      asm volatile("" : : "r"(target.data()) : "memory");  // each copy is made, though the next one overwrites it
    }
    best = std::max(best, 2.0 * static_cast<double>(half * copies) / seconds_since(start));
  }
  return best;
}

double measure_line_trip() {
  constexpr int kTrips = 500;
  struct alignas(2 * Scratch::kAlignment) Line {  // processors fetch lines by twos
    std::atomic<int> value{0};
  };
  Line there, back;
  double seconds = 0;
  for_each_worker(2, 2, [&](int64_t worker, int64_t, int64_t) {
    const auto begin = Clock::now();
    if (worker == 1) {
      for (int trip = 1; trip <= kTrips && await(there.value, trip, begin); ++trip)
        back.value.store(trip, std::memory_order_release);
      return;
    }
    there.value.store(1, std::memory_order_release);
    if (!await(back.value, 1, begin)) return;  // one thread runs both workers in turn
    const auto start = Clock::now();
    for (int trip = 2; trip <= kTrips; ++trip) {
      there.value.store(trip, std::memory_order_release);
      if (!await(back.value, trip, begin)) return;
    }
    seconds = seconds_since(start) / (kTrips - 1);
  });
  return seconds;
}

}  // namespace convext
