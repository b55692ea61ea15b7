#include "file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "../error.h"

namespace edgeinfer {

std::string read_file(const std::string& path, uint64_t max_bytes) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  const auto unreadable = [&] {
    fail(kArtifactError, path + " cannot be read: " + std::strerror(errno), kExportAgain);
  };
  if (!file) unreadable();
  std::string data;
  char piece[1 << 16];
  while (const size_t n = std::fread(piece, 1, sizeof piece, file.get())) {
    data.append(piece, n);
    if (data.size() > max_bytes) {
      fail(kArtifactError, path + " has more than " + std::to_string(max_bytes) + " bytes", kExportAgain);
    }
  }
  if (std::ferror(file.get())) unreadable();
  return data;
}

}  // namespace edgeinfer
