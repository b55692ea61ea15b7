// Manifests, tokenizers and chat pieces from strangers: none may crash or hang the reader.
//
// With libFuzzer: clang++ -fsanitize=fuzzer,address,undefined -DLIBFUZZER. Without it, `fuzz_text KIND FILE N SEED`
// reads N mutations of a file.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "../../mobile/runtime/text/encoding.h"
#include "../../mobile/runtime/text/fields.h"
#include "../../mobile/runtime/text/manifest.h"
#include "../../mobile/runtime/text/rendering.h"
#include "../../mobile/runtime/text/tokenizer.h"

using namespace edgeinfer;

namespace {

const char kText[] = "Hello wörld, it's 12345 <|im_end|> [i] \xF0\x9F\x91\x8D\xE2\x80\x8D  \n\n</think> x";

// The number of inputs that were taken, so that a run shows that mutations go deep.
size_t n_taken = 0;

void read_manifest_text(std::string text) {
  const size_t at = text.find("sha256:");
  if (at != std::string::npos && text.size() >= at + 71) {
    const std::string digest = text.substr(at, 71);
    text.replace(at, 71, seal_of(text, digest));
  }
  n_taken += parse_manifest(text, "manifest.json").ok();
}

void read_tokenizer(std::string text) {
  const Result<Tokenizer> tokenizer = Tokenizer::parse(std::move(text), "tokenizer.json");
  if (!tokenizer) return;
  ++n_taken;
  std::string bytes;
  for (bool special : {false, true}) {
    for (int32_t id : tokenizer->encode(kText, special)) bytes += tokenizer->piece(id);
  }
}

void read_chat(std::string text) {
  static const Tokenizer tokenizer = Tokenizer::parse(
                                         R"({"added_tokens": [{"id": 3, "content": "<|im_end|>", "special": true}],
          "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "[i]": 2}, "merges": []}})",
                                         "t")
                                         .take();
  const std::optional<JsonDocument> document = JsonDocument::parse(std::move(text));
  if (!document) return;
  try {
    const ChatPieces chat = chat_pieces_of(Fields(document->root(), "chat"));
    ++n_taken;
    for (const Pieces* pieces : {&chat.thinking, &chat.no_thinking}) {
      const Rendered rendered =
          render(*pieces,
                 {{Role::system, kText}, {Role::user, " a "}, {Role::assistant, kText}, {Role::user, "<|im_end|>"}}, 0);
      Encoder encoder(tokenizer, chat.words);
      encoder.encode(rendered.text, encoder.cuts_of(rendered), {0, rendered.text.size()});
    }
  } catch (const Failure&) {
  }
}

void read_one(char kind, std::string text) {
  if (kind == 'm') read_manifest_text(std::move(text));
  if (kind == 't') read_tokenizer(std::move(text));
  if (kind == 'c') read_chat(std::move(text));
}

}  // namespace

#ifdef LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size) read_one(static_cast<char>(data[0]), std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
  return 0;
}
#else

namespace {

using Random = std::mt19937_64;

size_t below(Random& random, size_t n) { return n ? random() % n : 0; }

void mutate(std::string& text, Random& random) {
  static const char* const kWords[] = {"-1",      "1e999", "null",       "true",
                                       "\"\"",    "{}",    "[]",         "[[[[",
                                       "\\ud800", "\xFF",  "4294967296", "9223372036854775808",
                                       "\\u0000", "0.5",   "<|im_end|>", "\xE2\x96\x81"};
  const size_t at = below(random, text.size() + 1);
  switch (below(random, 6)) {
    case 0:
      text.resize(at);
      break;
    case 1:
      if (at < text.size()) text[at] ^= static_cast<char>(1 << below(random, 8));
      break;
    case 2:
      text.erase(at, below(random, 9));
      break;
    case 3:
      text.insert(at, text.substr(below(random, text.size() + 1), below(random, 40)));
      break;
    case 4:
      text.insert(at, kWords[below(random, std::size(kWords))]);
      break;
    default: {  // another value after a colon
      const size_t colon = text.find(": ", at);
      if (colon == std::string::npos) return;
      const size_t end = text.find_first_of(",}\n", colon);
      text.replace(colon + 2, end == std::string::npos ? 0 : end - colon - 2, kWords[below(random, std::size(kWords))]);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return std::puts("fuzz_text m|t|c FILE N SEED"), 2;
  std::ifstream file(argv[2], std::ios::binary);
  const std::string whole(std::istreambuf_iterator<char>(file), {});
  Random random(std::strtoull(argv[4], nullptr, 10));
  const size_t n = std::strtoull(argv[3], nullptr, 10);
  for (size_t i = 0; i < n; ++i) {
    std::string text = whole;
    for (size_t left = 1 + below(random, 3); left > 0; --left) mutate(text, random);
    read_one(argv[1][0], std::move(text));
  }
  std::printf("%zu of %zu taken\n", n_taken, n);
}
#endif
