// The part of the Metal Shading Language that kernels here use, in C++ (Metal Shading Language Specification 4, chapters 2, 4, 5, 6).
#pragma once

#include <cmath>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "threadgroup.h"

typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;
typedef unsigned long ulong;

template <typename To, typename From>
inline To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type needs equal sizes");
  To to;
  memcpy(static_cast<void*>(&to), &from, sizeof to);
  return to;
}

// 16-bit floats keep their bits and round to nearest even; arithmetic is in float, rounded when stored.
struct half {
  uint16_t bits;
  half() = default;
  template <typename N, typename = std::enable_if_t<std::is_arithmetic_v<N>>>
  half(N value) : bits(round(static_cast<float>(value))) {}
  operator float() const {
    const uint32_t e = bits >> 10 & 31, m = bits & 1023, sign = uint32_t(bits >> 15) << 31;
    if (e == 0) return (sign ? -1.0f : 1.0f) * ldexpf(static_cast<float>(m), -24);
    if (e == 31) return as_type<float>(sign | 0x7F800000u | m << 13);
    return as_type<float>(sign | (e + 112) << 23 | m << 13);
  }
  static uint16_t round(float value) {
    const uint32_t u = as_type<uint32_t>(value), sign = u >> 16 & 0x8000;
    const float a = fabsf(value);
    if (!(a <= 3.0e38f)) return static_cast<uint16_t>(sign | (a != a ? 0x7E00 : 0x7C00));
    if (a >= 65520.0f) return static_cast<uint16_t>(sign | 0x7C00);
    if (a < 6.103515625e-05f) return static_cast<uint16_t>(sign | static_cast<uint32_t>(nearbyintf(ldexpf(a, 24))));
    const uint32_t v = (u & 0x7FFFFFFF) + 0xFFF + (u >> 13 & 1);
    return static_cast<uint16_t>(sign | ((v >> 13) - (112 << 10)));
  }
};
struct bfloat {
  uint16_t bits;
  bfloat() = default;
  template <typename N, typename = std::enable_if_t<std::is_arithmetic_v<N>>>
  bfloat(N value) {
    const uint32_t u = as_type<uint32_t>(static_cast<float>(value));
    bits = static_cast<uint16_t>((u & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : (u + 0x7FFF + (u >> 16 & 1)) >> 16);
  }
  operator float() const { return as_type<float>(uint32_t(bits) << 16); }
};
typedef half float16_t;
typedef bfloat bfloat16_t;

struct uint3 {
  uint x, y, z;
};

enum class mem_flags { mem_none, mem_threadgroup, mem_device };
inline void threadgroup_barrier(mem_flags, int line = __builtin_LINE()) { sim::threadgroup_barrier_at(line); }
inline void simdgroup_barrier(mem_flags, int line = __builtin_LINE()) { sim::simdgroup_barrier_at(line); }

namespace metal {

#define SIM_UNARY(name, function) \
  inline float name(float x) { return function(x); }
#define SIM_MATH                                  \
  SIM_UNARY(exp, expf)                            \
  SIM_UNARY(exp2, exp2f)                          \
  SIM_UNARY(log, logf)                            \
  SIM_UNARY(log2, log2f)                          \
  SIM_UNARY(sqrt, sqrtf)                          \
  SIM_UNARY(tanh, tanhf)                          \
  SIM_UNARY(sin, sinf)                            \
  SIM_UNARY(cos, cosf)                            \
  inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
SIM_MATH
SIM_UNARY(rint, nearbyintf)
SIM_UNARY(round, roundf)
SIM_UNARY(floor, floorf)
SIM_UNARY(ceil, ceilf)
SIM_UNARY(fabs, fabsf)
inline float abs(float x) { return fabsf(x); }
inline int abs(int x) { return x < 0 ? -x : x; }
inline bool isnan(float x) { return x != x; }
namespace precise {
SIM_MATH
}
namespace fast {
SIM_MATH
}

#define SIM_MINMAX(T)                                  \
  inline T max(T a, T b) { return a < b ? b : a; }     \
  inline T min(T a, T b) { return b < a ? b : a; }     \
  inline T clamp(T x, T low, T high) { return min(max(x, low), high); }
SIM_MINMAX(float)
SIM_MINMAX(int)
SIM_MINMAX(uint)
SIM_MINMAX(size_t)

// Numbers for sim::simd_exchange: two different operations may not meet.
enum Op { kSum = 1, kMax, kMin, kAny, kAll, kShuffle, kXor, kDown, kUp, kBroadcast };

template <typename T>
inline uint64_t pack_value(T value) {
  static_assert(sizeof(T) <= 8, "at most 8 bytes cross a SIMD operation");
  uint64_t word = 0;
  memcpy(&word, &value, sizeof value);
  return word;
}
template <typename T>
inline T lane_value(const uint64_t* slots, uint lane) {
  sim::Quiet quiet;
  T value;
  memcpy(static_cast<void*>(&value), &slots[lane], sizeof value);
  return value;
}
inline uint n_lanes() { return static_cast<uint>(sim::group_size(sim::self().index / sim::kSimd)); }

template <typename T>
inline T lane_at(T value, uint source, Op op, int line) {
  const uint64_t* slots = sim::simd_exchange(pack_value(value), op, line);
  if (source >= n_lanes()) sim::fail("SIMD shuffle from lane %u of %u, line %d", source, n_lanes(), line);
  return lane_value<T>(slots, source);
}
// A butterfly, as hardware sums: the rounding does not depend on the lane.
template <typename T, typename F>
inline T reduce(T value, Op op, int line, F combine) {
  const uint64_t* slots = sim::simd_exchange(pack_value(value), op, line);
  const uint n = n_lanes();
  T all[sim::kSimd];
  for (uint i = 0; i < n; i++) all[i] = lane_value<T>(slots, i);
  for (uint step = 16; step; step /= 2)
    for (uint i = 0; i < step; i++)
      if (i + step < n) all[i] = combine(all[i], all[i + step]);
  return all[0];
}

#define SIM_LINE int line = __builtin_LINE()
#define SIM_REDUCE(T)                                                                                                \
  inline T simd_sum(T x, SIM_LINE) { return reduce(x, kSum, line, [](T a, T b) { return static_cast<T>(a + b); }); } \
  inline T simd_max(T x, SIM_LINE) { return reduce(x, kMax, line, [](T a, T b) { return a < b ? b : a; }); }         \
  inline T simd_min(T x, SIM_LINE) { return reduce(x, kMin, line, [](T a, T b) { return b < a ? b : a; }); }
SIM_REDUCE(float)
SIM_REDUCE(int)
SIM_REDUCE(uint)
inline bool simd_any(bool x, SIM_LINE) { return reduce(x, kAny, line, [](bool a, bool b) { return a || b; }); }
inline bool simd_all(bool x, SIM_LINE) { return reduce(x, kAll, line, [](bool a, bool b) { return a && b; }); }
template <typename T>
inline T simd_shuffle(T x, ushort from, SIM_LINE) {
  return lane_at(x, from, kShuffle, line);
}
template <typename T>
inline T simd_broadcast(T x, ushort from, SIM_LINE) {
  return lane_at(x, from, kBroadcast, line);
}
template <typename T>
inline T simd_shuffle_xor(T x, ushort mask, SIM_LINE) {
  return lane_at(x, sim::lane() ^ mask, kXor, line);
}
template <typename T>
inline T simd_shuffle_down(T x, ushort delta, SIM_LINE) {
  return lane_at(x, sim::lane() + delta < n_lanes() ? sim::lane() + delta : sim::lane(), kDown, line);
}
template <typename T>
inline T simd_shuffle_up(T x, ushort delta, SIM_LINE) {
  return lane_at(x, sim::lane() >= delta ? sim::lane() - delta : sim::lane(), kUp, line);
}
}  // namespace metal
using namespace metal;

// What MLX's own headers bring (mlx/backend/metal/kernels/utils.h).
template <typename U>
struct Limits {
  static constexpr float finite_min = -3.4028234663852886e38f;
};

// Attributes of a thread, by the names of the specification (5.2.3.6).
namespace sim {
inline uint3 position_in_threadgroup() {
  Quiet quiet;
  const uint i = self().index;
  return {i % machine.size.x, i / machine.size.x % machine.size.y, i / machine.size.x / machine.size.y};
}
inline uint3 as_uint3(Dim3 d) { return {d.x, d.y, d.z}; }
inline uint3 position_in_grid() {
  Quiet quiet;
  const uint3 p = position_in_threadgroup();
  const Dim3 g = machine.group_position, t = machine.threadgroup;
  return {g.x * t.x + p.x, g.y * t.y + p.y, g.z * t.z + p.z};
}
inline uint3 group_position() {
  Quiet quiet;
  return as_uint3(machine.group_position);
}
inline uint3 group_count() {
  Quiet quiet;
  return as_uint3(machine.n_groups);
}
inline uint3 group_dimensions() {
  Quiet quiet;
  return as_uint3(machine.size);
}
inline uint index_in_threadgroup() {
  Quiet quiet;
  return self().index;
}
inline uint simdgroup_index() { return index_in_threadgroup() / kSimd; }

// An argument of any pointer or reference type.
struct Pointer {
  void* at;
  template <typename T>
  operator T*() const {
    return static_cast<T*>(at);
  }
};
struct Reference {
  void* at;
  template <typename T>
  operator T&() const {
    return *static_cast<T*>(at);
  }
};
}  // namespace sim

// Address spaces mean nothing to a C++ compiler; tests/metal/addresses.py checks them with clang.
#define device
#define constant
#define thread
#define threadgroup
