// A tokenizer from `tokenizer.json`: byte-level BPE, and SentencePiece BPE with byte fallback.
//
// It gives the tokens of the `tokenizers` library, version 0.23, with `add_special_tokens=False`. `edgeinfer export`
// writes the file in that library's own form, and refuses the kinds that are not read here.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "../error.h"
#include "added_tokens.h"
#include "splitter.h"
#include "vocabulary.h"

namespace edgeinfer {

// What tokenizer.json says, in addition to the tokens themselves.
struct TokenizerRules {
  // Where U+2581 is put before a text. A stretch is the text between two added tokens.
  enum class Lead { nowhere, first_stretch, bare_stretches, every_stretch };

  std::vector<SplitRule> splits;
  Lead lead = Lead::nowhere;
  bool composes = false;         // to NFC
  bool replaces_spaces = false;  // by U+2581
  bool splits_at_spaces = false;
  bool is_byte_level = false;
  bool has_byte_fallback = false;
  bool takes_whole_words = false;  // a word that is a token is not merged up to it
  bool fuses_unknown = false;
  int32_t unknown = kNoToken;
};

class Tokenizer {
 public:
  static constexpr uint64_t kMaxFileBytes = 64 << 20;

  static Result<Tokenizer> read(const std::string& path);
  // `name` stands for the file in errors.
  static Result<Tokenizer> parse(std::string json, const std::string& name);

  // The ids of `text`, which is UTF-8. Control tokens in it are text unless `allow_special`.
  std::vector<int32_t> encode(std::string_view text, bool allow_special) const;
  // The bytes of a token; none for a control token and for an id without a token.
  std::string piece(int32_t id) const;
  const AddedTokens& added() const { return added_; }

 private:
  friend class TokenizerReader;

  void encode_stretch(std::string_view text, bool is_first, std::vector<int32_t>& ids) const;
  void encode_words(std::string_view text, size_t n_splits, std::vector<int32_t>& ids) const;
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;
  std::vector<int32_t> characters(std::string_view word) const;

  TokenizerRules rules_;
  Vocabulary vocabulary_;
  Merges merges_;
  AddedTokens added_;
  std::array<int32_t, 256> byte_tokens_{};  // of a byte's character, or <0xNN> with byte fallback; kNoToken
};

}  // namespace edgeinfer
