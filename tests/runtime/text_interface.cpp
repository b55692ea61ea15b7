// The text part of the phone runtime as C functions, for the tests. Results are written into buffers of the caller.
#include <algorithm>
#include <cstring>
#include <string>

#include "../../mobile/runtime/text/tokenizer.h"

using namespace edgeinfer;

namespace {

constexpr size_t kErrorBytes = 4096;

// "cause\nhint"
void write_error(const Error& error, char* out) {
  const std::string text = (error.cause + "\n" + error.hint).substr(0, kErrorBytes - 1);
  std::memcpy(out, text.c_str(), text.size() + 1);
}

}  // namespace

extern "C" {

void* text_tokenizer_open(const char* path, char* error) {
  Result<Tokenizer> read = Tokenizer::read(path);
  if (!read) return write_error(read.error(), error), nullptr;
  return new Tokenizer(std::move(*read));
}

void text_tokenizer_close(void* tokenizer) { delete static_cast<Tokenizer*>(tokenizer); }

// The number of ids, of which at most `room` are written.
size_t text_encode(const void* tokenizer, const char* text, size_t n, int special, int32_t* ids, size_t room) {
  const auto found = static_cast<const Tokenizer*>(tokenizer)->encode({text, n}, special != 0);
  std::copy_n(found.begin(), std::min(room, found.size()), ids);
  return found.size();
}

size_t text_piece(const void* tokenizer, int32_t id, char* bytes, size_t room) {
  const std::string found = static_cast<const Tokenizer*>(tokenizer)->piece(id);
  std::copy_n(found.begin(), std::min(room, found.size()), bytes);
  return found.size();
}
}
