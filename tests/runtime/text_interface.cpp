// The text part of the phone runtime as C functions, for the tests. Results are written into buffers of the caller.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "../../mobile/runtime/history.h"
#include "../../mobile/runtime/text/encoding.h"
#include "../../mobile/runtime/text/fields.h"
#include "../../mobile/runtime/text/manifest.h"
#include "../../mobile/runtime/text/rendering.h"
#include "../../mobile/runtime/text/tokenizer.h"

using namespace edgeinfer;

namespace {

constexpr size_t kErrorBytes = 4096;

// "cause\nhint"
void write_error(const Error& error, char* out) {
  const std::string text = (error.cause + "\n" + error.hint).substr(0, kErrorBytes - 1);
  std::memcpy(out, text.c_str(), text.size() + 1);
}

std::vector<Message> messages_of(const char* json) {
  const std::optional<JsonDocument> document = JsonDocument::parse(json);
  std::vector<Message> messages;
  for (Json item : document->root().items()) {
    const std::string_view role = item.find("role")->text();
    messages.push_back({role == "system"      ? Role::system
                        : role == "assistant" ? Role::assistant
                                              : Role::user,
                        std::string(item.find("content")->text())});
  }
  return messages;
}

struct Chat {
  Chat(const Tokenizer& tokenizer, ChatPieces chat)
      : tokenizer(tokenizer), pieces(std::move(chat)), encoder(tokenizer, pieces.words) {
    forget();
  }

  void forget() { history = std::make_unique<History>(Encoder(tokenizer, pieces.words)); }

  const Tokenizer& tokenizer;
  ChatPieces pieces;
  Encoder encoder;
  Rendered rendered;
  std::unique_ptr<History> history;
};

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

// What bundle.check_bundle and check_files do; 0 where the bundle is whole.
int text_check_bundle(const char* folder, int with_digests, char* error) {
  const Result<Manifest> manifest = read_manifest(folder);
  if (!manifest) return write_error(manifest.error(), error), manifest.error().code;
  const std::optional<Error> changed = with_digests ? check_digests(*manifest) : std::nullopt;
  if (changed) write_error(*changed, error);
  return changed ? changed->code : 0;
}

// The tokenizer must outlive the chat.
void* text_chat_open(const void* tokenizer, const char* json, char* error) {
  try {
    const std::optional<JsonDocument> document = JsonDocument::parse(json);
    if (!document) fail(kArtifactError, "no JSON");
    return new Chat(*static_cast<const Tokenizer*>(tokenizer), chat_pieces_of(Fields(document->root(), "chat")));
  } catch (const Failure& failure) {
    return write_error(failure.error(), error), nullptr;
  }
}

void text_chat_close(void* chat) { delete static_cast<Chat*>(chat); }

// The bytes of the conversation in `messages`, a JSON array; -1 where it is refused.
int64_t text_chat_render(void* chat, const char* messages, int thinking, int64_t now, char* error) {
  Chat& own = *static_cast<Chat*>(chat);
  try {
    own.rendered = render(thinking ? own.pieces.thinking : own.pieces.no_thinking, messages_of(messages), now);
    return static_cast<int64_t>(own.rendered.text.size());
  } catch (const Failure& failure) {
    return write_error(failure.error(), error), -1;
  }
}

// Of the conversation that was rendered last: its text, and its tokens, encoded in one piece.
const char* text_chat_text(const void* chat) { return static_cast<const Chat*>(chat)->rendered.text.data(); }

size_t text_chat_tokens(void* chat, int32_t* ids, size_t room) {
  Chat& own = *static_cast<Chat*>(chat);
  const std::vector<size_t> cuts = own.encoder.cuts_of(own.rendered);
  const auto found = own.encoder.encode(own.rendered.text, cuts, {0, own.rendered.text.size()});
  std::copy_n(found.begin(), std::min(room, found.size()), ids);
  return found.size();
}

// Where messages end, then where the first question begins and where the last message ends.
size_t text_chat_places(const void* chat, int64_t* places, size_t room) {
  const Rendered& rendered = static_cast<const Chat*>(chat)->rendered;
  std::vector<int64_t> found = rendered.ends;
  found.push_back(static_cast<int64_t>(rendered.lead));
  found.push_back(static_cast<int64_t>(rendered.last));
  std::copy_n(found.begin(), std::min(room, found.size()), places);
  return found.size();
}

// The next prompt of one conversation: its tokens, its starts and how many they are, and `n_system`.
size_t text_chat_prompt(void* chat, const char* messages, int thinking, int64_t now, int64_t* out, size_t room) {
  Chat& own = *static_cast<Chat*>(chat);
  const Pieces& pieces = thinking ? own.pieces.thinking : own.pieces.no_thinking;
  const Prompt prompt = own.history->prompt(render(pieces, messages_of(messages), now));
  std::vector<int64_t> found(prompt.tokens.begin(), prompt.tokens.end());
  found.insert(found.end(), prompt.starts.begin(), prompt.starts.end());
  found.push_back(static_cast<int64_t>(prompt.starts.size()));
  found.push_back(prompt.n_system);
  std::copy_n(found.begin(), std::min(room, found.size()), out);
  return found.size();
}

// The next prompt is that of another conversation.
void text_chat_forget(void* chat) { static_cast<Chat*>(chat)->forget(); }

void text_chat_answered(void* chat, const int32_t* tokens, size_t n, const char* text) {
  static_cast<Chat*>(chat)->history->answered({tokens, tokens + n}, text);
}
}
