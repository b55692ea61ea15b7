// SHA-256 (FIPS 180-4).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace edgeinfer {

class Sha256 {
 public:
  void add(std::string_view bytes);
  // "sha256:" and 64 hex digits. Call once.
  std::string digest();

 private:
  void take_block(const unsigned char* block);

  std::array<uint32_t, 8> state_ = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                                    0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};
  std::array<unsigned char, 64> block_{};
  uint64_t n_bytes_ = 0;
};

}  // namespace edgeinfer
