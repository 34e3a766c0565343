#include "emulator.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
namespace {

enum class State { kReady, kAtBarrier, kAtCollective, kDone };

struct Copy {
  void* to;
  const void* from;
  int bytes, read;
  int64_t group;
};

struct Thread {
  Fiber fiber;
  State state = State::kReady;
  std::source_location where;  // it waits
  Combine combine = nullptr;
  void* lane = nullptr;
  std::vector<Copy> copies;
  int64_t group = 0;  // that the next copy joins
};

std::string place(const std::source_location& where) {
  const std::string file = where.file_name();
  return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(where.line());
}

bool same(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

class Machine {
 public:
  void run(int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body);
  Thread& current() { return threads_[threadIdx.x]; }
  void wait(State state, const std::source_location& where) {
    Thread& t = current();
    t.state = state;
    t.where = where;
    t.fiber.leave();
  }
  void* shared(int64_t first, int64_t bytes) {
    if (first < 0 || first + bytes > shared_bytes_)
      throw std::runtime_error("shared memory of " + std::to_string(shared_bytes_) + " bytes, asked for [" +
                               std::to_string(first) + ", " + std::to_string(first + bytes) + ")");
    if (first % 16 != 0) throw std::runtime_error("a part of shared memory begins at byte " + std::to_string(first));
    return shared_ + first;
  }

  std::mutex in_use;

 private:
  static void entry();
  void run_block();
  bool run_threads();
  bool run_collectives();
  bool open_barrier();
  void report_stuck() const;

  static constexpr int kSharedBytes = 228 << 10;
  Stacks stacks_{kLargestBlock};
  std::unique_ptr<Thread[]> threads_ = std::make_unique<Thread[]>(kLargestBlock);
  alignas(128) std::byte shared_[kSharedBytes];
  int count_ = 0, shared_bytes_ = 0;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr fault_;
  std::vector<int> order_;
  std::mt19937_64 random_;
};

Machine& machine() {
  static Machine* const machine = new Machine;  // never destroyed: its stacks may be in use at exit
  return *machine;
}

template <class Number>
void arrange(std::vector<Number>& order, int64_t count, std::mt19937_64& random) {
  order.resize(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), Number{0});
  if (settings().schedule == Schedule::kReversed) std::reverse(order.begin(), order.end());
  if (settings().schedule == Schedule::kRandom) std::shuffle(order.begin(), order.end(), random);
}

void Machine::entry() {
  Machine& m = machine();
  try {
    (*m.body_)();
    if (!m.current().copies.empty()) throw std::runtime_error("a thread ends before it waited for its cp.async");
  } catch (const std::exception& error) {
    std::ostringstream text;
    text << "CUDA emulator: block " << blockIdx.x << ", thread " << threadIdx.x << ": " << error.what();
    m.fault_ = std::make_exception_ptr(std::runtime_error(text.str()));
  }
  Thread& t = m.current();
  t.state = State::kDone;
  t.fiber.leave();
}

void Machine::run(int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body) {
  if (threads < kWarp || threads > kLargestBlock || threads % kWarp != 0)
    throw std::runtime_error("CUDA emulator: blocks of " + std::to_string(threads) + " threads");
  count_ = threads;
  shared_bytes_ = shared_bytes;
  body_ = &body;
  fault_ = nullptr;
  random_.seed(settings().seed);
  blockDim.x = static_cast<unsigned>(threads);
  gridDim.x = static_cast<unsigned>(blocks);
  std::vector<int64_t> order;
  arrange(order, blocks, random_);
  arrange(order_, threads, random_);
  ++settings().launches;
  settings().blocks += blocks;
  for (const int64_t block : order) {
    blockIdx.x = static_cast<unsigned>(block);
    run_block();
  }
}

void Machine::run_block() {
  poison(shared_, shared_bytes_);
  for (int i = 0; i < count_; ++i) {
    Thread& t = threads_[i];
    t.state = State::kReady;
    t.copies.clear();
    t.group = 0;
    t.fiber.prepare(stacks_.bottom(i), entry);
  }
  for (;;) {
    const bool ran = run_threads();
    if (fault_) std::rethrow_exception(fault_);
    const bool combined = run_collectives();
    const bool opened = open_barrier();
    if (ran || combined || opened) continue;
    if (std::all_of(&threads_[0], &threads_[count_], [](const Thread& t) { return t.state == State::kDone; })) return;
    report_stuck();
  }
}

// Every thread that can go on does so, until it waits. False if there was none.
bool Machine::run_threads() {
  if (settings().schedule == Schedule::kRandom) std::shuffle(order_.begin(), order_.end(), random_);
  bool any = false;
  for (const int i : order_) {
    if (threads_[i].state != State::kReady) continue;
    any = true;
    threadIdx.x = static_cast<unsigned>(i);
    threads_[i].fiber.enter();
    if (fault_) return true;
  }
  return any;
}

bool Machine::run_collectives() {
  bool any = false;
  for (int first = 0; first < count_; first += kWarp) {
    Thread* const warp = &threads_[first];
    const bool complete = std::all_of(warp, warp + kWarp, [&](const Thread& t) {
      return t.state == State::kAtCollective && t.combine == warp->combine && same(t.where, warp->where);
    });
    if (!complete) continue;
    void* lanes[kWarp];
    for (int i = 0; i < kWarp; ++i) lanes[i] = warp[i].lane;
    warp->combine(lanes);
    for (int i = 0; i < kWarp; ++i) warp[i].state = State::kReady;
    any = true;
  }
  return any;
}

bool Machine::open_barrier() {
  Thread* const all = &threads_[0];
  for (int i = 0; i < count_; ++i)
    if (all[i].state != State::kAtBarrier || !same(all[i].where, all[0].where)) return false;
  for (int i = 0; i < count_; ++i) all[i].state = State::kReady;
  return true;
}

void Machine::report_stuck() const {
  std::ostringstream text;
  text << "CUDA emulator: block " << blockIdx.x << ": not all threads reach the same barrier or collective:";
  constexpr const char* kNames[] = {"ready", "at the barrier in", "at the collective in", "at their end"};
  for (int first = 0, last; first < count_; first = last) {
    const Thread& t = threads_[first];
    const auto alike = [&](const Thread& other) {
      return other.state == t.state && (t.state == State::kDone || same(other.where, t.where));
    };
    for (last = first + 1; last < count_ && alike(threads_[last]);) ++last;
    text << "\n  threads " << first << " to " << last - 1 << " are " << kNames[static_cast<int>(t.state)];
    if (t.state != State::kDone) text << ' ' << place(t.where);
  }
  throw std::runtime_error(text.str());
}

}  // namespace

Settings& settings() {
  static Settings settings;
  return settings;
}

void run(int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(machine().in_use);
  machine().run(blocks, threads, shared_bytes, body);
}

void barrier(const std::source_location& where) { machine().wait(State::kAtBarrier, where); }

void collective(Combine combine, void* lane, const std::source_location& where) {
  Thread& t = machine().current();
  t.combine = combine;
  t.lane = lane;
  machine().wait(State::kAtCollective, where);
}

void* shared_memory(int64_t first_byte, int64_t bytes) { return machine().shared(first_byte, bytes); }

void copy_async(void* to, const void* from, int bytes, int read) {
  check_aligned(to, bytes);
  if (read > 0) check_aligned(from, bytes);
  poison(to, bytes);
  Thread& t = machine().current();
  t.copies.push_back({to, from, bytes, read, t.group});
}

void commit_copies() { ++machine().current().group; }

void wait_for_copies(int groups_in_flight) {
  Thread& t = machine().current();
  const auto landed = [&](const Copy& c) { return c.group < t.group - groups_in_flight; };
  for (const Copy& c : t.copies) {
    if (!landed(c)) continue;
    if (c.read > 0) std::memcpy(c.to, c.from, static_cast<std::size_t>(c.read));
    std::memset(static_cast<std::byte*>(c.to) + c.read, 0, static_cast<std::size_t>(c.bytes - c.read));
  }
  std::erase_if(t.copies, landed);
}

void out_of_bounds(int64_t index, int64_t count, int64_t length) {
  throw std::runtime_error("access to [" + std::to_string(index) + ", " + std::to_string(index + count) +
                           ") out of bounds of a buffer of " + std::to_string(length) + " elements");
}

void check_aligned(const void* address, int bytes) {
  if (reinterpret_cast<std::uintptr_t>(address) % static_cast<std::uintptr_t>(bytes) != 0)
    throw std::runtime_error("misaligned access of " + std::to_string(bytes) + " bytes");
}

void poison(void* data, int64_t bytes) {
  if (bytes > 0) std::memset(data, 0xff, static_cast<std::size_t>(bytes));  // NaN in every floating type
}

}  // namespace emulator

// For the tests, through ctypes.
extern "C" {
__attribute__((visibility("default"))) void convext_emulator_schedule(int schedule, uint64_t seed) {
  emulator::settings().schedule = static_cast<emulator::Schedule>(schedule);
  emulator::settings().seed = seed;
}
__attribute__((visibility("default"))) void convext_emulator_narrow_offsets(int64_t largest) {
  emulator::settings().narrow_offsets = largest;
}
__attribute__((visibility("default"))) int64_t convext_emulator_launches() { return emulator::settings().launches; }
}
