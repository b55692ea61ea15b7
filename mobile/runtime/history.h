// The tokens of a conversation. Answers stay the tokens that the model emitted. edgeinfer/chat/prompt.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "protocols.h"
#include "text/encoding.h"
#include "text/rendering.h"

namespace edgeinfer {

// The tokens of an answer may differ from those that its text encodes to. Encoding the text again would change the
// past, and the cache would have to be filled again from there.
class History {
 public:
  explicit History(Encoder encoder) : encoder_(std::move(encoder)) {}

  // The prompt of the whole conversation. Its tokens agree with those of the last one as far as the texts do.
  Prompt prompt(const Rendered& rendered);

  // The model continued with `tokens`, whose text is `text`. Neither holds the token that ended the turn.
  void answered(const Tokens& tokens, const std::string& text);

 private:
  // A place at which text and tokens are known to agree.
  struct Mark {
    size_t n_bytes;
    size_t n_tokens;
  };

  void set(const Rendered& rendered);
  size_t n_same(const std::string& text, const std::vector<size_t>& cuts) const;
  const Mark* mark_at(int64_t n_bytes) const;

  Encoder encoder_;
  std::string text_;
  std::vector<size_t> cuts_;  // see Encoder::cuts_of
  Tokens tokens_;
  std::vector<Mark> marks_{{0, 0}};
};

}  // namespace edgeinfer
