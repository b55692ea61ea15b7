// Files from strangers: read whole, up to a limit.
#pragma once

#include <cstdint>
#include <string>

namespace edgeinfer {

inline const char* const kExportAgain = "export the model again";

// Throws Failure with kArtifactError if the file cannot be read, or has more than `max_bytes` bytes.
std::string read_file(const std::string& path, uint64_t max_bytes);

}  // namespace edgeinfer
