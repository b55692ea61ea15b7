#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define ATTEND_TILE attend_tile_portable
#include "attention_kernel.inc"

namespace edgeinfer::engine {
namespace {

#if defined(__x86_64__)
// Clang 14 does not know "f16c" in __builtin_cpu_supports.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

}  // namespace

AttendTile attend_tile() {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (has_avx2) return attend_tile_avx2;
#endif
  return attend_tile_portable;
}

}  // namespace edgeinfer::engine
