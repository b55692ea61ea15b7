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

ThinkingCut cut_of(Fields fields) {
  using Strips = ThinkingCut::Strips;
  const std::string strips = fields.text("strips");
  if (strips != "nothing" && strips != "newlines" && strips != "space") {
    fields.refuse("`strips` is '" + strips.substr(0, 40) + "'; expected nothing, newlines, space");
  }
  ThinkingCut cut = {fields.text("closing"), strips == "nothing"    ? Strips::nothing
                                             : strips == "newlines" ? Strips::newlines
                                                                    : Strips::space};
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
  pieces.plain = lead_of(fields.table("plain"));
  if (std::optional<Fields> system = fields.nullable("system")) pieces.system = lead_of(*system);
  pieces.user = frame_of(fields.table("user"));
  pieces.assistant = frame_of(fields.table("assistant"));
  pieces.opening = fields.text("opening");
  if (std::optional<Fields> cut = fields.nullable("cut")) pieces.cut = cut_of(*cut);
  pieces.stops = fields.texts("stops");
  if (std::optional<Fields> begun = fields.nullable("begun")) pieces.begun = trace_of(*begun);
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
  if (!fields.has("traces")) fields.refuse("`traces` is missing");
  ChatPieces chat;
  chat.words = fields.texts("words");
  for (Fields& trace : fields.tables("traces")) chat.traces.push_back(trace_of(trace));
  chat.thinking = pieces_of(fields.table("thinking"));
  chat.no_thinking = pieces_of(fields.table("no_thinking"));
  fields.done();
  return chat;
}

}  // namespace edgeinfer
