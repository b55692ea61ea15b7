// Compiled with -mavx2 -mfma; called only where the processor has both.
#if defined(__x86_64__)
#define ATTEND_TILE attend_tile_avx2
#include "attention_kernel.inc"
#endif
