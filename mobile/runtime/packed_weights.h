// The file in which XNNPACK keeps its packed weights, so that the next load maps them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace edgeinfer {

// XNNPACK packs again what it cannot use: a file of another program, or one that was cut. It writes through a map, so
// that a full disk would end the process: a file is only written where there is room for it.
class PackedWeights {
 public:
  // `key` names program, engine and processor; the file takes about `n_bytes`. An empty folder: none is kept.
  PackedWeights(const std::string& folder, const std::string& key, int64_t n_bytes);

  // Where to keep them; "" for memory.
  std::string path() const { return path_.string(); }
  // Why they are not kept although a folder was given, in a sentence; else "".
  const std::string& note() const { return note_; }
  // The program was loaded with them: the file is whole.
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
