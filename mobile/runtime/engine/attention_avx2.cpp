// Compiled with -mavx2 -mfma -mf16c; called only where the processor has all of them.
#if defined(__x86_64__)
#define ATTEND_TILE attend_tile_avx2
#include "attention_kernel.inc"
#endif
