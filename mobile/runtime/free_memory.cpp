#include "free_memory.h"

#if defined(__APPLE__)
#include <malloc/malloc.h>
#elif defined(__linux__)
#include <malloc.h>
#endif

namespace edgeinfer {

void return_freed_memory() {
#if defined(__APPLE__)
  malloc_zone_pressure_relief(nullptr, 0);
#elif defined(__ANDROID__) && defined(M_PURGE)
  mallopt(M_PURGE, 0);
#elif defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace edgeinfer
