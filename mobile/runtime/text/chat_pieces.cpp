#include "chat_pieces.h"

#include "fields.h"

namespace edgeinfer {

namespace {

Lead lead_of(Fields fields) {
  Lead lead = {fields.text("before"), fields.text("after"), fields.text("question")};
  fields.done();
  return lead;
}

Frame frame_of(Fields fields) {
  Frame frame = {fields.text("before"), fields.text("after")};
  fields.done();
  return frame;
}

TraceFormat trace_of(Fields fields) {
  TraceFormat trace = {fields.text("opening"), fields.texts("closings"), fields.texts("before_answer")};
  fields.done();
  if (trace.closings.empty()) fields.refuse("`closings` is empty");
  return trace;
}

std::optional<Strips> strips_of(const std::string& name) {
  if (name == "nothing") return Strips::nothing;
  if (name == "newlines") return Strips::newlines;
  if (name == "space") return Strips::space;
  return std::nullopt;
}

ThinkingCut cut_of(Fields fields) {
  const std::string name = fields.text("strips");
  const std::optional<Strips> strips = strips_of(name);
  if (!strips) fields.refuse("`strips` is '" + name.substr(0, 40) + "'; expected nothing, newlines, space");
  ThinkingCut cut = {fields.text("closing"), *strips};
  fields.done();
  return cut;
}

Role role_of(const std::string& name, const Fields& fields) {
  if (name == "system") return Role::system;
  if (name == "user") return Role::user;
  if (name == "assistant") return Role::assistant;
  fields.refuse("`stripped` names '" + name.substr(0, 40) + "', which is no role");
}

Pieces pieces_of(Fields fields) {
  Pieces pieces;
  for (const std::string& name : fields.texts("stripped")) pieces.stripped.push_back(role_of(name, fields));
  const std::string earlier_trace = fields.text("earlier_trace");
  pieces.earlier_trace = strips_of(earlier_trace);
  if (!pieces.earlier_trace && earlier_trace != "kept") {
    fields.refuse("`earlier_trace` is '" + earlier_trace.substr(0, 40) + "'; expected kept, nothing, newlines, space");
  }
  if (!fields.has("traces")) fields.refuse("`traces` is missing");
  pieces.plain = lead_of(fields.table("plain"));
  if (std::optional<Fields> system = fields.nullable("system")) pieces.system = lead_of(*system);
  pieces.user = frame_of(fields.table("user"));
  pieces.assistant = frame_of(fields.table("assistant"));
  pieces.opening = fields.text("opening");
  if (std::optional<Fields> cut = fields.nullable("cut")) pieces.cut = cut_of(*cut);
  for (Fields& trace : fields.tables("traces")) pieces.traces.push_back(trace_of(trace));
  if (std::optional<Fields> begun = fields.nullable("begun")) pieces.begun = trace_of(*begun);
  pieces.stops = fields.texts("stops");
  pieces.stop_tokens = fields.ids("stop_tokens");
  fields.done();
  return pieces;
}

}  // namespace

std::string TraceFormat::ending() const {
  const std::string& closing = closings.front();
  const bool is_tag = closing.find("<|") == std::string::npos;
  return is_tag ? "\n" + closing + "\n\n" : closing;
}

ChatPieces chat_pieces_of(Fields fields) {
  ChatPieces chat;
  chat.words = fields.texts("words");
  chat.thinking = pieces_of(fields.table("thinking"));
  chat.no_thinking = pieces_of(fields.table("no_thinking"));
  fields.done();
  return chat;
}

}  // namespace edgeinfer
