// The file in which XNNPACK keeps its packed weights, so that the next load maps them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace edgeinfer {

// XNNPACK packs again when it cannot use the file, because it was cut or belongs to another program. It writes through
// a memory map, and a full disk would end the process, so the file is written only if the disk has room for it.
class PackedWeights {
 public:
  // `key` names program, engine and processor. The file takes about `n_bytes`. Without a folder no file is kept.
  PackedWeights(const std::string& folder, const std::string& key, int64_t n_bytes);

  // The file; "": pack in memory.
  std::string path() const { return path_.string(); }
  // Why no file is kept although there is a folder, as a sentence; else "".
  const std::string& note() const { return note_; }
  // Call after the program was loaded: records that the file is whole.
  void loaded() const;

 private:
  std::string obstacle(const std::string& folder, int64_t n_bytes) const;
  bool is_whole() const;
  bool is_writable() const;

  std::filesystem::path path_;
  std::filesystem::path size_path_;  // holds the size of the whole file
  std::string note_;
};

}  // namespace edgeinfer
