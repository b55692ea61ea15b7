// One stack per GPU thread and a switch between them.
//
// x86-64 and AArch64 switch in a few instructions; elsewhere, and under ThreadSanitizer, ucontext does it. AddressSanitizer
// and ThreadSanitizer are told about every switch, or they would take one stack for another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define SIM_ASAN 1
extern "C" void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
extern "C" void __asan_unpoison_memory_region(const volatile void* start, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
#endif
#if defined(__SANITIZE_THREAD__)
#define SIM_TSAN 1
extern "C" void* __tsan_get_current_fiber(void);
extern "C" void* __tsan_create_fiber(unsigned flags);
extern "C" void __tsan_destroy_fiber(void* fiber);
extern "C" void __tsan_switch_to_fiber(void* fiber, unsigned flags);
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
#endif

#if !defined(SIM_TSAN) && (defined(__x86_64__) || defined(__aarch64__))
#define SIM_OWN_SWITCH 1
#else
#include <ucontext.h>
#endif

namespace sim {

constexpr size_t kStackBytes = 64 * 1024;

// The simulator's own memory is shared by all fibers; ThreadSanitizer looks at the kernel's only.
struct Quiet {
#if defined(SIM_TSAN)
  Quiet() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Quiet() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Quiet() {}
  ~Quiet() {}
#endif
};

struct Fiber {
  char* stack = nullptr;
#if defined(SIM_OWN_SWITCH)
  void* sp = nullptr;
#else
  ucontext_t context;
#endif
#if defined(SIM_ASAN)
  void* fake_stack = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
#endif
#if defined(SIM_TSAN)
  void* tsan = nullptr;
#endif
};

using Entry = void (*)();

#if defined(SIM_OWN_SWITCH)
extern "C" void sim_switch(void** save_sp, void* load_sp);
#if defined(__x86_64__)
asm(R"(
.text
.globl sim_switch
.type sim_switch,@function
sim_switch:
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
)");
constexpr int kSavedWords = 6;
inline void prepare(Fiber& fiber, Entry entry) {
  uintptr_t top = (reinterpret_cast<uintptr_t>(fiber.stack) + kStackBytes) & ~uintptr_t(15);
  void** sp = reinterpret_cast<void**>(top) - 2;  // `ret` leaves the stack as after a call
  *sp = reinterpret_cast<void*>(entry);
  sp -= kSavedWords;
  for (int i = 0; i < kSavedWords; i++) sp[i] = nullptr;
  fiber.sp = sp;
}
#else
asm(R"(
.text
.globl sim_switch
sim_switch:
  sub sp, sp, #176
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #176
  ret
)");
inline void prepare(Fiber& fiber, Entry entry) {
  uintptr_t top = (reinterpret_cast<uintptr_t>(fiber.stack) + kStackBytes) & ~uintptr_t(15);
  void** sp = reinterpret_cast<void**>(top - 176);
  for (int i = 0; i < 22; i++) sp[i] = nullptr;
  sp[11] = reinterpret_cast<void*>(entry);  // x30
  fiber.sp = sp;
}
#endif
#else
inline void prepare(Fiber& fiber, Entry entry) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
}
#endif

inline void create(Fiber& fiber, Entry entry) {
  if (!fiber.stack) fiber.stack = static_cast<char*>(malloc(kStackBytes));
#if defined(SIM_ASAN)
  __asan_unpoison_memory_region(fiber.stack, kStackBytes);  // the last thread on this stack never returned
#endif
  prepare(fiber, entry);
#if defined(SIM_ASAN)
  fiber.fake_stack = nullptr;
  fiber.bottom = fiber.stack;
  fiber.size = kStackBytes;
#endif
#if defined(SIM_TSAN)
  if (fiber.tsan) __tsan_destroy_fiber(fiber.tsan);
  fiber.tsan = __tsan_create_fiber(0);
#endif
}

// Called first by a new fiber.
inline void arrived([[maybe_unused]] Fiber& self, [[maybe_unused]] Fiber& from) {
#if defined(SIM_ASAN)
  __sanitizer_finish_switch_fiber(self.fake_stack, &from.bottom, &from.size);
#endif
}

// `last` says that `from` will not run again.
inline void switch_to(Fiber& from, Fiber& to, [[maybe_unused]] bool last = false) {
#if defined(SIM_ASAN)
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.bottom, to.size);
#endif
#if defined(SIM_TSAN)
  __tsan_switch_to_fiber(to.tsan, 1);  // 1: a switch orders nothing; only barriers do
#endif
#if defined(SIM_OWN_SWITCH)
  sim_switch(&from.sp, to.sp);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(SIM_ASAN)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

}  // namespace sim
