#include "packed_weights.h"

#include <fstream>
#include <system_error>

namespace edgeinfer {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxPathBytes = 255;          // of an option of an ExecuTorch backend
constexpr int64_t kSpareBytes = 16 * 1000000;  // that stay free on the disk

std::string megabytes(int64_t n_bytes) { return std::to_string((n_bytes + 999999) / 1000000) + " MB"; }

}  // namespace

PackedWeights::PackedWeights(const std::string& folder, const std::string& key, int64_t n_bytes) {
  if (folder.empty()) return;
  path_ = fs::path(folder) / (key + ".packed");
  size_path_ = fs::path(folder) / (key + ".size");
  const std::string why = obstacle(folder, n_bytes);
  if (why.empty()) return;
  note_ = "weights are packed in memory: " + why;
  path_.clear();
}

void PackedWeights::loaded() const {
  if (path_.empty()) return;
  std::error_code error;
  const uintmax_t size = fs::file_size(path_, error);
  if (!error) std::ofstream(size_path_, std::ios::trunc) << size;
}

// Why the file cannot be kept; "" if it can.
std::string PackedWeights::obstacle(const std::string& folder, int64_t n_bytes) const {
  if (path_.string().size() > kMaxPathBytes) return "the path of the cache folder is longer than 200 bytes";
  std::error_code error;
  fs::create_directories(folder, error);
  if (!is_writable()) return folder + " cannot be written";
  if (is_whole()) return "";
  const fs::space_info space = fs::space(folder, error);
  const int64_t free = error ? 0 : static_cast<int64_t>(space.available), needed = n_bytes + kSpareBytes;
  return free < needed ? folder + " has " + megabytes(free) + " free of the " + megabytes(needed) + " needed" : "";
}

bool PackedWeights::is_whole() const {
  uintmax_t expected = 0;
  std::error_code error;
  return (std::ifstream(size_path_) >> expected) && fs::file_size(path_, error) == expected && !error;
}

// Writes a file to find out, because permissions do not tell everything.
bool PackedWeights::is_writable() const {
  fs::path probe = path_;
  probe += ".probe";
  const bool written = bool(std::ofstream(probe) << "1" << std::flush);
  std::error_code error;
  fs::remove(probe, error);
  return written;
}

}  // namespace edgeinfer
