// What a chat template writes around messages: edgeinfer/formats/chat_pieces.py, where the meaning of each field is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace edgeinfer {

// How a model marks its reasoning.
struct TraceFormat {
  std::string opening;
  std::vector<std::string> closings;       // any of them ends it; the first is written to end one early
  std::vector<std::string> before_answer;  // marks that may stand before the answer and are no part of it

  // What is written to end a trace early.
  std::string ending() const;
};

struct Frame {
  std::string before, after;
};

struct Lead {
  std::string before, after, question;
};

enum class Strips { nothing, newlines, space };

struct ThinkingCut {
  std::string closing;
  Strips strips = Strips::nothing;
};

enum class Role { system, user, assistant };

struct Pieces {
  Lead plain;
  std::optional<Lead> system;
  Frame user, assistant;
  std::string opening;
  std::vector<Role> stripped;
  std::optional<Strips> earlier_trace;  // nothing: reasoning that an earlier answer begins with is kept
  std::optional<ThinkingCut> cut;
  std::vector<TraceFormat> traces;
  std::optional<TraceFormat> begun;
  std::vector<std::string> stops;
  std::vector<int32_t> stop_tokens;
};

struct ChatPieces {
  std::vector<std::string> words;
  Pieces thinking, no_thinking;
};

class Fields;

// Throws Failure for invalid fields.
ChatPieces chat_pieces_of(Fields fields);

}  // namespace edgeinfer
