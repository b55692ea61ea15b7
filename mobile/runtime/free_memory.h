// What was freed, given back to the system.
#pragma once

namespace edgeinfer {

// The C library keeps freed memory for the next allocation; a phone counts it as the app's.
void return_freed_memory();

}  // namespace edgeinfer
