// Fibers: functions with a stack of their own that are left and entered again at will, on one thread of the system.
//
// On x86-64 the switch is seven instructions; elsewhere ucontext does it, at two system calls a switch.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

// `count` stacks, each with a page before it that nobody may touch.
class Stacks {
 public:
  static constexpr std::size_t kBytes = 128 << 10, kGuard = 16 << 10;

  explicit Stacks(int count) : bytes_(static_cast<std::size_t>(count) * (kBytes + kGuard)) {
    void* data = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<std::byte*>(data);
    for (int i = 0; i < count; ++i)
      if (mprotect(bottom(i) - kGuard, kGuard, PROT_NONE) != 0) throw std::bad_alloc();
  }
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks() { munmap(data_, bytes_); }

  std::byte* bottom(int i) const { return data_ + static_cast<std::size_t>(i) * (kBytes + kGuard) + kGuard; }

 private:
  std::size_t bytes_;
  std::byte* data_;
};

#if defined(__x86_64__)

// Saves the callee-saved registers and the stack pointer, then takes up those of the other side.
extern "C" void convext_switch_stack(void** from, void* to);
asm(R"(
.text
.type convext_switch_stack, @function
convext_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size convext_switch_stack, .-convext_switch_stack
)");

class Fiber {
 public:
  // `entry` never returns: it leaves by `leave` for the last time.
  void prepare(std::byte* stack, void (*entry)()) {
    // six registers, the entry's address, and a return address of zero; the entry finds its stack aligned as if called
    void** top = reinterpret_cast<void**>(stack + Stacks::kBytes) - 2;
    top[1] = nullptr;
    top[0] = reinterpret_cast<void*>(entry);
    for (int i = 1; i <= 6; ++i) top[-i] = nullptr;
    own_ = top - 6;
  }
  void enter() { convext_switch_stack(&outside_, own_); }
  void leave() { convext_switch_stack(&own_, outside_); }

 private:
  void *own_ = nullptr, *outside_ = nullptr;
};

#else

class Fiber {
 public:
  void prepare(std::byte* stack, void (*entry)()) {
    getcontext(&own_);
    own_.uc_stack.ss_sp = stack;
    own_.uc_stack.ss_size = Stacks::kBytes;
    own_.uc_link = nullptr;
    makecontext(&own_, entry, 0);
  }
  void enter() { swapcontext(&outside_, &own_); }
  void leave() { swapcontext(&own_, &outside_); }

 private:
  ucontext_t own_, outside_;
};

#endif

}  // namespace emulator
