// How a byte-level BPE cuts text into words before it merges. Words never merge across a cut.
#pragma once

#include <functional>
#include <optional>
#include <string_view>

namespace edgeinfer {

// One cut of a text into words. Every pattern here leaves no character outside a word.
struct SplitRule {
  enum class Kind {
    digits,          // each \p{N} alone, all else together
    unicode_digits,  // the same with the `Digits` pre-tokenizer's idea of a digit
    gpt2,
    gpt4,  // Llama 3, Qwen
    gpt4o  // words end where lower case turns to upper case; Mistral's Tekken
  };
  Kind kind;
  int max_digits = 1;            // of one word; gpt4 and gpt4o
  bool has_contractions = true;  // 's and the like end a word; gpt4o
};

// The rule of a regular expression, by its exact text; nothing for one that is not known here.
std::optional<SplitRule> rule_of_pattern(std::string_view pattern);

// Calls `visit` with each word of `text`, in order.
void split(std::string_view text, const SplitRule& rule, const std::function<void(std::string_view)>& visit);

}  // namespace edgeinfer
