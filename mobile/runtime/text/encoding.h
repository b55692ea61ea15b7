// Turns rendered text into tokens. Only text that the template itself wrote becomes a control token.
// edgeinfer/chat/encoding.py.
#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "rendering.h"
#include "tokenizer.h"

namespace edgeinfer {

class Encoder {
 public:
  // `words` are ChatPieces::words. The tokenizer must outlive the encoder.
  Encoder(const Tokenizer& tokenizer, const std::vector<std::string>& words);

  // Where the contents of `rendered` are cut, in order: inside every control token that they spell.
  std::vector<size_t> cuts_of(const Rendered& rendered);

  // The tokens of `text[place]` after the text before it. Text around a cut is encoded without control tokens.
  std::vector<int32_t> encode(std::string_view text, const std::vector<size_t>& cuts, Range place) const;

  // The tokens of `text` after the text `after`. SentencePiece may put a space before a text; it is put only where
  // the whole text would have it.
  std::vector<int32_t> encode_after(std::string_view text, std::string_view after, bool allow_special) const;

 private:
  void learn_marks(std::string_view content);
  // The longest control token at `at` that no cut divides, in bytes; 0 for none.
  size_t control_at(std::string_view text, size_t at, const std::vector<size_t>& cuts) const;
  bool holds_a_word(std::string_view text) const;

  const Tokenizer& tokenizer_;
  std::set<std::string, std::less<>> words_;  // always parsed, and of more than one character
  std::vector<std::string> by_length_;        // they and the control tokens, the longest first
  std::array<bool, 256> begins_one_{};        // by the first byte
  bool adds_space_;
};

}  // namespace edgeinfer
