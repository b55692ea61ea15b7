// Writes a conversation as the text that its model reads, from the pieces of a chat template.
// edgeinfer/formats/chat_pieces.py, and the places of messages of edgeinfer/chat/rendering.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

#include "chat_pieces.h"

namespace edgeinfer {

struct Message {
  Role role;
  std::string content;

  bool operator==(const Message& other) const { return role == other.role && content == other.content; }
};

struct Range {
  size_t begin, end;  // bytes
};

struct Rendered {
  std::string text;
  std::vector<Range> contents;  // what messages wrote, in order: no control tokens are in them
  std::vector<int64_t> ends;    // [n] is where the first n messages end; -1 where a message is not framed
  size_t lead = 0;              // where the first question begins, after the system prompt
  size_t last = 0;              // where the last message ends; what follows opens the answer

  std::string opening() const { return text.substr(last); }
};

// `messages`: a system prompt or none, then questions and answers in turn, the last one a question. Throws Failure with
// kUsageError for others. Dates in the pieces are those of `now`, local time.
Rendered render(const Pieces& pieces, const std::vector<Message>& messages, std::time_t now);

}  // namespace edgeinfer
