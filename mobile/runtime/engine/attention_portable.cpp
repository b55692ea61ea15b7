#define ATTEND_TILE attend_tile_portable
#include "attention_kernel.inc"

namespace edgeinfer {

AttendTile attend_tile() {
#if defined(__x86_64__)
  static const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (has_avx2) return attend_tile_avx2;
#endif
  return attend_tile_portable;
}

}  // namespace edgeinfer
