#include "rendering.h"

#include <algorithm>
#include <cstdio>
#include <optional>

#include "../error.h"
#include "unicode.h"

namespace edgeinfer {

namespace {

constexpr std::string_view kDateStart = "\xEF\xB7\x92", kDateEnd = "\xEF\xB7\x93";  // U+FDD2, U+FDD3
constexpr const char* kMonths[] = {"January", "February", "March",     "April",   "May",      "June",
                                   "July",    "August",   "September", "October", "November", "December"};
constexpr const char* kDays[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};

std::string padded(int number) {
  char digits[16];
  std::snprintf(digits, sizeof digits, "%02d", number);
  return digits;
}

// English, whatever the locale: as Python's `strftime` in the "C" locale.
std::string date_part(char directive, const std::tm& date) {
  switch (directive) {
    case 'd':
      return padded(date.tm_mday);
    case 'm':
      return padded(date.tm_mon + 1);
    case 'y':
      return padded(date.tm_year % 100);
    case 'Y':
      return std::to_string(date.tm_year + 1900);
    case 'H':
      return padded(date.tm_hour);
    case 'M':
      return padded(date.tm_min);
    case 'B':
      return kMonths[date.tm_mon];
    case 'b':
      return std::string(kMonths[date.tm_mon], 3);
    case 'A':
      return kDays[date.tm_wday];
    case 'a':
      return std::string(kDays[date.tm_wday], 3);
    default:
      return {'%', directive};
  }
}

std::string formatted(std::string_view form, const std::tm& date) {
  std::string text;
  for (size_t at = 0; at < form.size(); ++at) {
    if (form[at] == '%' && at + 1 < form.size()) {
      text += date_part(form[++at], date);
    } else {
      text += form[at];
    }
  }
  return text;
}

std::string dated(std::string_view piece, std::time_t now) {
  std::string text;
  while (true) {
    const size_t start = piece.find(kDateStart);
    const size_t end = start == std::string_view::npos ? start : piece.find(kDateEnd, start);
    if (end == std::string_view::npos) return text.append(piece);
    std::tm date{};
    localtime_r(&now, &date);
    const size_t form = start + kDateStart.size();
    text.append(piece.substr(0, start)).append(formatted(piece.substr(form, end - form), date));
    piece.remove_prefix(end + kDateEnd.size());
  }
}

std::string_view without_start(std::string_view text, Strips strips) {
  if (strips == Strips::newlines) text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  if (strips == Strips::space) {
    const std::string_view bare = stripped(text);
    text.remove_prefix(bare.empty() ? text.size() : static_cast<size_t>(bare.data() - text.data()));
  }
  return text;
}

// A message that begins with a trace, in its parts: split_trace of edgeinfer/chat/reasoning.py.
struct SplitTrace {
  std::string_view opening, thought, closing, answer;
};

std::optional<SplitTrace> split_trace(std::string_view content, const std::vector<TraceFormat>& formats) {
  const std::string_view words = without_start(content, Strips::space);
  for (const TraceFormat& known : formats) {
    if (words.substr(0, known.opening.size()) != known.opening) continue;
    for (const std::string& closing : known.closings) {
      const size_t at = words.find(closing, known.opening.size());
      if (at == std::string_view::npos) continue;
      return SplitTrace{words.substr(0, known.opening.size()),
                        words.substr(known.opening.size(), at - known.opening.size()), words.substr(at, closing.size()),
                        words.substr(at + closing.size())};
    }
  }
  return std::nullopt;
}

// What the template shows of a message: reasoning that it keeps, and the rest.
struct Shown {
  std::optional<SplitTrace> kept;
  std::string_view content;
};

Shown shown(const Pieces& pieces, const Message& message) {
  Shown result = {std::nullopt, message.content};
  const bool is_stripped =
      std::find(pieces.stripped.begin(), pieces.stripped.end(), message.role) != pieces.stripped.end();
  if (message.role == Role::assistant) {
    if (const auto trace = split_trace(message.content, pieces.traces)) {
      result.content = trace->answer;
      if (pieces.earlier_trace) {
        result.content = without_start(result.content, *pieces.earlier_trace);
      } else {
        result.kept = trace;
      }
    }
    const size_t at = pieces.cut ? result.content.rfind(pieces.cut->closing) : std::string_view::npos;
    if (at != std::string_view::npos) {
      const std::string_view rest = result.content.substr(at + pieces.cut->closing.size());
      result = {std::nullopt, without_start(rest, pieces.cut->strips)};
    }
  }
  if (is_stripped && !result.kept) result.content = stripped(result.content);
  if (is_stripped && result.kept) {  // only the end is bare: a mark comes first
    const std::string_view bare = stripped(result.content);
    const size_t end = bare.empty() ? 0 : static_cast<size_t>(bare.data() + bare.size() - result.content.data());
    result.content = result.content.substr(0, end);
  }
  return result;
}

void check_turns(const std::vector<Message>& messages, size_t first) {
  bool fits = messages.size() > first && messages.back().role == Role::user;
  for (size_t i = first; fits && i < messages.size(); ++i) {
    fits = messages[i].role == ((i - first) % 2 ? Role::assistant : Role::user);
  }
  if (!fits) fail(kUsageError, "questions and answers must alternate, and a question come last");
}

class Writer {
 public:
  Writer(const Pieces& pieces, std::time_t now) : pieces_(pieces), now_(now) {}

  void add_piece(const std::string& piece) { rendered_.text += dated(piece, now_); }

  Range add_content(std::string_view content) {
    const size_t begin = rendered_.text.size();
    rendered_.text += content;
    rendered_.contents.push_back({begin, rendered_.text.size()});
    return rendered_.contents.back();
  }

  // Message `index`, whose frame opens with `before`.
  Range add_message(size_t index, const Message& message, const std::string& before) {
    const Frame& frame = message.role == Role::user ? pieces_.user : pieces_.assistant;
    const size_t begin = rendered_.text.size();
    add_piece(before);
    const Shown said = shown(pieces_, message);
    const size_t start = rendered_.text.size();
    if (said.kept) {
      rendered_.text += said.kept->opening;
      add_content(said.kept->thought);
      rendered_.text += said.kept->closing;
    }
    const Range place = {start, add_content(said.content).end};
    add_piece(frame.after);
    const bool is_whole = said.kept || said.content == message.content || said.content == stripped(message.content);
    const bool is_framed = is_whole && before == frame.before;
    rendered_.last = is_framed ? rendered_.text.size() : place.end;
    if (is_framed) {
      rendered_.ends[index] = static_cast<int64_t>(begin);
      rendered_.ends[index + 1] = static_cast<int64_t>(rendered_.text.size());
    }
    return {is_framed ? begin : place.begin, place.end};
  }

  Rendered& rendered() { return rendered_; }

 private:
  const Pieces& pieces_;
  const std::time_t now_;
  Rendered rendered_;
};

}  // namespace

Rendered render(const Pieces& pieces, const std::vector<Message>& messages, std::time_t now) {
  const size_t first = !messages.empty() && messages[0].role == Role::system ? 1 : 0;
  check_turns(messages, first);
  const bool is_folded = first && !pieces.system;  // into the first question
  const Lead& lead = first && pieces.system ? *pieces.system : pieces.plain;
  Writer writer(pieces, now);
  writer.rendered().ends.assign(messages.size() + 1, -1);
  writer.add_piece(lead.before);
  if (first && !is_folded) writer.add_content(shown(pieces, messages[0]).content);
  writer.add_piece(lead.after);
  Message question = messages[first];
  const std::string rule = is_folded ? messages[0].content + "\n\n" : "";
  question.content.insert(0, rule);
  const Range place = writer.add_message(first, question, lead.question);
  writer.rendered().lead = place.begin;
  if (is_folded) {
    const std::string_view text = writer.rendered().text;
    size_t at = text.find(rule);
    std::string_view found = rule;
    if (at == std::string_view::npos) at = text.find(found = stripped(rule));
    writer.rendered().lead = at + found.size();
  }
  for (size_t i = first + 1; i < messages.size(); ++i) {
    writer.add_message(i, messages[i], messages[i].role == Role::user ? pieces.user.before : pieces.assistant.before);
  }
  writer.add_piece(pieces.opening);
  return std::move(writer.rendered());
}

}  // namespace edgeinfer
