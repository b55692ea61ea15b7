// ExecuTorch's log of this thread, kept instead of printed: it holds the cause that an error number does not.
#pragma once

#include <string>

namespace edgeinfer::engine {

// Replaces ExecuTorch's printing. Safe to call again.
void capture_log();

// Forgets what was logged before.
void clear_log();

// The first error since then, "" where there was none.
std::string first_complaint();

}  // namespace edgeinfer::engine
