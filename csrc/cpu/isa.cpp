// Which ISA level runs: what the processor has, capped by CONVEXT_MAX_ISA and set_max_isa.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>

#include "engine.h"

namespace convext {
namespace {

bool runs_here([[maybe_unused]] const Engine& engine) {
#if defined(__x86_64__)
  if (&engine == &kAvx512Bf16Engine) return runs_here(kAvx512Engine) && __builtin_cpu_supports("avx512bf16");
  if (&engine == &kAvx512Engine)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  if (&engine == &kAvx2Engine) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return true;
}

constexpr const Engine* kLevels[] = {
    &kBaselineEngine,
#if defined(__x86_64__)
    &kAvx2Engine,
    &kAvx512Engine,
    &kAvx512Bf16Engine,
#endif
};

// The highest level up to the one of this name that the processor has.
const Engine* capped_at(const char* name) {
  const Engine* best = nullptr;
  std::string names;
  for (const Engine* level : kLevels) {
    if (runs_here(*level)) best = level;
    if (std::strcmp(level->name, name) == 0) return best;
    names += (names.empty() ? "" : ", ") + std::string(level->name);
  }
  throw std::invalid_argument("convext: expected an ISA level (" + names + "), got '" + name + "'");
}

// The environment is read once, at the first use; convext/__init__.py makes that the import.
std::atomic<const Engine*>& active() {
  static std::atomic<const Engine*> engine = [] {
    const char* cap = std::getenv("CONVEXT_MAX_ISA");
    return capped_at(cap && *cap ? cap : (*std::rbegin(kLevels))->name);
  }();
  return engine;
}

}  // namespace

const Engine& active_engine() { return *active().load(std::memory_order_relaxed); }

std::vector<const char*> isa_levels() {
  std::vector<const char*> names;
  for (const Engine* level : kLevels)
    if (runs_here(*level)) names.push_back(level->name);
  return names;
}

const char* max_isa() { return active_engine().name; }
void set_max_isa(const char* name) { active().store(capped_at(name)); }

}  // namespace convext
