// Returns freed memory to the system.
#pragma once

namespace edgeinfer {

// The C library keeps freed memory for later allocations, and a phone charges it to the app.
void return_freed_memory();

}  // namespace edgeinfer
