// A threadgroup at a time: fibers for its threads, SIMD groups of 32, barriers, and memory that remembers who touched it.
//
// Rules that are stricter than the hardware, so that a kernel which passes does not lean on luck:
//   * every thread of a SIMD group must reach the same SIMD operation (same source line), every thread of a threadgroup the same barrier;
//   * a thread may not return while others still wait for one;
//   * threadgroup memory that was never written may not be read; two threads that touch one element, one of them writing,
//     must have a barrier between them.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "fibers.h"

namespace sim {

constexpr int kSimd = 32;
constexpr size_t kThreadgroupBytes = 32 * 1024;

[[noreturn]] inline void fail(const char* format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "SIM: ");
  vfprintf(stderr, format, args);
  fprintf(stderr, "\n");
  va_end(args);
  fflush(stderr);
  _Exit(9);
}

struct Dim3 {
  uint32_t x, y, z;
};

enum class State { ready, simd_wait, barrier_wait, done };

struct Thread {
  Fiber fiber;
  State state = State::done;
  uint32_t index = 0;
  int line = 0;             // where it waits
  int op = 0;               // which operation it waits for
  uint32_t simd_ops = 0;    // operations done: the parity picks the exchange buffer
  uint32_t simd_epoch = 0;  // simdgroup barriers passed
};

struct SimdGroup {
  uint64_t slots[2][kSimd];
  int waiting = 0;
};

struct Rng {
  uint64_t state;
  uint32_t next(uint32_t n) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return static_cast<uint32_t>((state >> 11) % n);
  }
};

enum class Order { forward, reverse, random };

struct SharedBase {
  virtual void reset() = 0;
  virtual size_t bytes() const = 0;
};

struct Machine {
  std::vector<Thread> threads;
  std::vector<SimdGroup> groups;
  std::vector<SharedBase*> shared;
  Fiber scheduler;
  Thread* current = nullptr;
  Dim3 grid{}, threadgroup{}, group_position{}, n_groups{};
  uint32_t n_threads = 0;  // of this threadgroup; an edge threadgroup may have fewer (dispatchThreads)
  Dim3 size{};             // of this threadgroup
  Order order = Order::forward;
  Rng rng{1};
  uint32_t epoch = 0;  // threadgroup barriers passed
  int barrier_waiting = 0;
  void (*body)() = nullptr;
};

inline Machine machine;

inline Thread& self() {
  Quiet quiet;
  return *machine.current;
}
inline uint32_t lane() {
  Quiet quiet;
  return self().index % kSimd;
}
inline SimdGroup& group() {
  Quiet quiet;
  return machine.groups[self().index / kSimd];
}
inline int group_size(uint32_t g) {
  Quiet quiet;
  uint32_t left = machine.n_threads - g * kSimd;
  return static_cast<int>(left < kSimd ? left : kSimd);
}

inline void yield() { switch_to(self().fiber, machine.scheduler); }

inline void sync_release(void* address) {
#if defined(SIM_TSAN)
  __tsan_release(address);
#else
  (void)address;
#endif
}
inline void sync_acquire(void* address) {
#if defined(SIM_TSAN)
  __tsan_acquire(address);
#else
  (void)address;
#endif
}

// Waits for the whole SIMD group; afterwards every lane reads every lane's value from the returned buffer.
inline const uint64_t* simd_exchange(uint64_t value, int op, int line) {
  Quiet quiet;
  Thread& me = self();
  SimdGroup& mine = group();
  const uint32_t first = me.index / kSimd * kSimd;
  const int n = group_size(me.index / kSimd);
  uint64_t* slots = mine.slots[me.simd_ops % 2];
  slots[me.index % kSimd] = value;
  me.simd_ops++;
  me.op = op;
  me.line = line;
  if (++mine.waiting < n) {
    me.state = State::simd_wait;
    yield();
    return slots;
  }
  mine.waiting = 0;
  for (int i = 0; i < n; i++) {
    Thread& other = machine.threads[first + i];
    if (other.op != op || other.line != line)
      fail("divergent SIMD operation: thread %u at line %d, thread %u at line %d", me.index, line, other.index, other.line);
    other.state = State::ready;
  }
  return slots;
}

inline void simdgroup_barrier_at(int line) {
  Quiet quiet;
  Thread& me = self();
  sync_release(&group());
  simd_exchange(0, -1, line);
  sync_acquire(&group());
  me.simd_epoch++;
}

inline void threadgroup_barrier_at(int line) {
  Quiet quiet;
  Thread& me = self();
  me.line = line;
  sync_release(&machine.epoch);
  if (++machine.barrier_waiting < static_cast<int>(machine.n_threads)) {
    me.state = State::barrier_wait;
    yield();
  } else {
    machine.barrier_waiting = 0;
    machine.epoch++;
    for (uint32_t i = 0; i < machine.n_threads; i++) {
      Thread& other = machine.threads[i];
      if (other.line != line)
        fail("divergent barrier: thread %u at line %d, thread %u at line %d", me.index, line, i, other.line);
      other.state = State::ready;
    }
  }
  sync_acquire(&machine.epoch);
}

inline void thread_main() {
  Thread& me = self();
  arrived(me.fiber, machine.scheduler);
  sync_acquire(&machine.body);
  sync_acquire(me.fiber.stack);  // the stack was another thread's before
  machine.body();
  {
    Quiet quiet;
    sync_release(&machine.rng);
    sync_release(me.fiber.stack);
    me.state = State::done;
  }
  switch_to(me.fiber, machine.scheduler, true);
  abort();
}

inline Thread* pick() {
  const uint32_t n = machine.n_threads;
  const uint32_t start = machine.order == Order::random ? machine.rng.next(n) : 0;
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t at = machine.order == Order::reverse ? n - 1 - i : (start + i) % n;
    if (machine.threads[at].state == State::ready) return &machine.threads[at];
  }
  return nullptr;
}

inline void report_stuck() {
  uint32_t done = 0;
  for (uint32_t i = 0; i < machine.n_threads; i++) done += machine.threads[i].state == State::done;
  if (done == machine.n_threads) return;
  for (uint32_t i = 0; i < machine.n_threads; i++) {
    const Thread& t = machine.threads[i];
    if (t.state == State::simd_wait)
      fail("divergent SIMD operation: thread %u waits at line %d for lanes that never come", i, t.line);
    if (t.state == State::barrier_wait)
      fail("divergent barrier: thread %u waits at line %d for threads that never come", i, t.line);
  }
}

inline void run_threadgroup() {
  for (SharedBase* s : machine.shared) s->reset();
  machine.epoch = 0;
  machine.barrier_waiting = 0;
  for (auto& g : machine.groups) g.waiting = 0;
  for (uint32_t i = 0; i < machine.n_threads; i++) {
    Thread& t = machine.threads[i];
    t.index = i;
    t.state = State::ready;
    t.simd_ops = t.simd_epoch = 0;
    create(t.fiber, thread_main);
  }
  sync_release(&machine.body);
  while (Thread* next = pick()) {
    machine.current = next;
    switch_to(machine.scheduler, next->fiber);
  }
  report_stuck();
}

inline void run(Dim3 grid, Dim3 threadgroup, Order order, uint64_t seed, void (*body)()) {
  Quiet quiet;
  Machine& m = machine;
  m.grid = grid;
  m.threadgroup = threadgroup;
  m.order = order;
  m.rng.state = seed * 2654435761u + 88172645463325252ull;
  m.body = body;
  const uint32_t most = threadgroup.x * threadgroup.y * threadgroup.z;
  if (most == 0 || most > 1024) fail("threadgroup of %u threads: Metal takes 1 to 1024", most);
  if (m.threads.size() < most) m.threads.resize(most);
  if (m.groups.size() < (most + kSimd - 1) / kSimd) m.groups.resize((most + kSimd - 1) / kSimd);
#if defined(SIM_TSAN)
  m.scheduler.tsan = __tsan_get_current_fiber();
#endif
  m.n_groups = {(grid.x + threadgroup.x - 1) / threadgroup.x, (grid.y + threadgroup.y - 1) / threadgroup.y,
                (grid.z + threadgroup.z - 1) / threadgroup.z};
  const uint32_t n = m.n_groups.x * m.n_groups.y * m.n_groups.z;
  std::vector<uint32_t> ids(n);
  for (uint32_t i = 0; i < n; i++) ids[i] = order == Order::reverse ? n - 1 - i : i;
  if (order == Order::random)
    for (uint32_t i = n; i > 1; i--) std::swap(ids[i - 1], ids[m.rng.next(i)]);
  for (uint32_t id : ids) {
    m.group_position = {id % m.n_groups.x, id / m.n_groups.x % m.n_groups.y, id / m.n_groups.x / m.n_groups.y};
    auto edge = [](uint32_t all, uint32_t size, uint32_t at) { return all - at * size < size ? all - at * size : size; };
    m.size = {edge(grid.x, threadgroup.x, m.group_position.x), edge(grid.y, threadgroup.y, m.group_position.y),
              edge(grid.z, threadgroup.z, m.group_position.z)};
    m.n_threads = m.size.x * m.size.y * m.size.z;
    run_threadgroup();
  }
  sync_acquire(&machine.rng);
}

struct Nothing {
  explicit Nothing(float) {}
};

// ---- threadgroup memory: `threadgroup T name[N];` becomes `static sim::Shared<T, N> name;`

struct Touch {
  uint32_t thread = 0, epoch = 0, simd_epoch = 0;
  bool valid = false, many = false;

  bool conflicts(const Thread& t) const {
    if (!valid || epoch != machine.epoch) return false;
    if (many) return true;
    if (thread == t.index) return false;
    return thread / kSimd != t.index / kSimd || simd_epoch == t.simd_epoch;
  }
  void mark(const Thread& t) {
    const bool again = valid && epoch == machine.epoch && thread != t.index;
    *this = {t.index, machine.epoch, t.simd_epoch, true, again || (many && epoch == machine.epoch)};
  }
};

inline void check_total() {
  size_t total = 0;
  for (SharedBase* s : machine.shared) total += s->bytes();
  if (total > kThreadgroupBytes) fail("threadgroup memory of %zu bytes: Metal gives %zu", total, kThreadgroupBytes);
}

template <typename T, int N>
struct Shared : SharedBase {
  T* data;
  Touch writes[N], reads[N];

  Shared() : data(static_cast<T*>(malloc(sizeof(T) * N))) {
    machine.shared.push_back(this);
    check_total();
    reset();
  }
  void reset() override {
#if defined(SIM_TSAN)
    data = static_cast<T*>(malloc(sizeof(T) * N));  // threadgroups are not ordered: each has its own
#endif
    memset(static_cast<void*>(data), 0xFF, sizeof(T) * N);  // NaN
    for (int i = 0; i < N; i++) writes[i] = reads[i] = Touch{};
  }
  size_t bytes() const override { return sizeof(T) * N; }

#if defined(SIM_TSAN)
  T read(int i) { return data[i]; }
  void write(int i, T value) { data[i] = value; }
#else
  T read(int i) {
    const Thread& me = self();
    check(i);
    if (!writes[i].valid) fail("threadgroup memory read before it was written: element %d, thread %u", i, me.index);
    if (writes[i].conflicts(me)) fail("threadgroup race: thread %u reads what thread %u wrote, no barrier between", me.index, writes[i].thread);
    reads[i].mark(me);
    return data[i];
  }
  void write(int i, T value) {
    const Thread& me = self();
    check(i);
    if (writes[i].conflicts(me)) fail("threadgroup race: threads %u and %u write one element", me.index, writes[i].thread);
    if (reads[i].conflicts(me)) fail("threadgroup race: thread %u writes what thread %u reads, no barrier between", me.index, reads[i].thread);
    writes[i].mark(me);
    data[i] = value;
  }
#endif
  void check(int i) {
    if (i < 0 || i >= N) fail("threadgroup array index %d outside [0, %d)", i, N);
  }

  struct Ref {
    Shared* array;
    int i;
    operator T() const { return array->read(i); }
    operator std::conditional_t<std::is_arithmetic_v<T>, Nothing, float>() const { return static_cast<float>(array->read(i)); }
    Ref& operator=(T value) { return array->write(i, value), *this; }
    Ref& operator=(const Ref& other) { return array->write(i, static_cast<T>(other)), *this; }
    Ref& operator+=(T value) { return *this = static_cast<T>(array->read(i) + value); }
    Ref& operator*=(T value) { return *this = static_cast<T>(array->read(i) * value); }
  };
  template <typename I>
  Ref operator[](I i) {
    return {this, static_cast<int>(i)};
  }
  operator T*() { return data; }  // a pointer into it is not watched element by element
};

// Two dimensions: poisoned, not watched.
template <typename T, int N, int M>
struct Shared2 : SharedBase {
  T data[N][M];
  Shared2() {
    machine.shared.push_back(this);
    check_total();
    reset();
  }
  void reset() override { memset(static_cast<void*>(data), 0xFF, sizeof(data)); }
  size_t bytes() const override { return sizeof(data); }
  template <typename I>
  T* operator[](I i) {
    return data[i];
  }
};

}  // namespace sim
