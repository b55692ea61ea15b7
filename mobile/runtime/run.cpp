// edgeinfer-run: answers from a bundle at the command line.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "edgeinfer.h"

namespace {

constexpr char kUsage[] =
    "usage: edgeinfer-run FOLDER MESSAGE... [options]    a conversation: each message is answered in turn\n"
    "       edgeinfer-run FOLDER --tokens 1,2,3          what follows these tokens, as tokens\n"
    "       edgeinfer-run FOLDER --tokens -              the same for each line of standard input, in one "
    "conversation\n"
    "       edgeinfer-run FOLDER --memory                what the bundle needs, in bytes; loads nothing\n"
    "options: --system TEXT --context N --sink N --threads N --cache FOLDER --draft auto|off|lookup|early-exit|taught\n"
    "         --temp T --top-k N --top-p P --min-p P --repeat-penalty R --seed S --max-tokens N --stop TEXT\n"
    "         --no-thinking --print-tokens --stats\n";

struct Arguments {
  std::string folder;
  std::vector<std::string> messages;
  std::vector<int32_t> tokens;
  bool reads_tokens = false;  // from standard input
  std::vector<std::string> stops;
  std::map<std::string, std::string> values;  // of all other options
  std::set<std::string> given;                // options without a value

  const char* text(const char* name) const {
    const auto found = values.find(name);
    return found == values.end() ? nullptr : found->second.c_str();
  }
  template <class T>
  void set(const char* name, T& to) const {
    if (text(name)) to = static_cast<T>(std::strtod(text(name), nullptr));
  }
};

// The model and the session of the command, freed at its end.
struct Opened {
  edgeinfer_model* model = nullptr;
  edgeinfer_session* session = nullptr;
  std::string draft;  // the taught draft that it uses
  double open_s = 0;

  Opened() = default;
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  ~Opened() {
    edgeinfer_session_free(session);
    edgeinfer_close(model);
  }
};

bool is_number(const std::string& text) {
  char* end;
  std::strtod(text.c_str(), &end);
  return !text.empty() && *end == 0;
}

bool parse_tokens(const std::string& text, std::vector<int32_t>& to) {
  size_t at = 0;
  while (at < text.size()) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string word = text.substr(at, comma - at);
    if (!is_number(word)) return false;
    to.push_back(static_cast<int32_t>(std::atoll(word.c_str())));
    at = comma + 1;
  }
  return true;
}

bool parse(int argc, char** argv, Arguments& to) {
  static const char* const kFlags[] = {"--memory", "--no-thinking", "--print-tokens", "--stats"};
  static const char* const kTexts[] = {"--system", "--cache", "--draft"};
  static const char* const kNumbers[] = {"--context", "--sink",  "--threads",        "--temp", "--top-k",
                                         "--top-p",   "--min-p", "--repeat-penalty", "--seed", "--max-tokens"};
  const auto has = [](const auto& names, const std::string& name) {
    for (const char* known : names)
      if (name == known) return true;
    return false;
  };
  for (int at = 1; at < argc; ++at) {
    const std::string name = argv[at];
    if (name.compare(0, 2, "--") != 0) {
      (to.folder.empty() ? to.folder : to.messages.emplace_back()) = name;
    } else if (has(kFlags, name)) {
      to.given.insert(name);
    } else if (++at == argc) {
      return false;
    } else if (name == "--tokens") {
      to.reads_tokens = std::strcmp(argv[at], "-") == 0;
      if (!to.reads_tokens && !parse_tokens(argv[at], to.tokens)) return false;
    } else if (name == "--stop") {
      to.stops.emplace_back(argv[at]);
    } else if (has(kTexts, name) || (has(kNumbers, name) && is_number(argv[at]))) {
      to.values[name] = argv[at];
    } else {
      return false;
    }
  }
  const bool has_tokens = to.reads_tokens || !to.tokens.empty();
  return !to.folder.empty() && (to.given.count("--memory") || to.messages.empty() == has_tokens);
}

bool open_options(const Arguments& arguments, edgeinfer_options& options) {
  static const std::map<std::string, int32_t> kDrafting = {{"auto", EDGEINFER_DRAFT_AUTO},
                                                           {"off", EDGEINFER_DRAFT_NEVER},
                                                           {"lookup", EDGEINFER_DRAFT_LOOKUP},
                                                           {"early-exit", EDGEINFER_DRAFT_EXIT},
                                                           {"taught", EDGEINFER_DRAFT_TAUGHT}};
  arguments.set("--context", options.context);
  arguments.set("--sink", options.sink);
  arguments.set("--threads", options.n_threads);
  options.cache_folder = arguments.text("--cache");
  const char* draft = arguments.text("--draft");
  const auto drafting = kDrafting.find(draft ? draft : "auto");
  if (drafting == kDrafting.end()) return false;
  options.drafting = drafting->second;
  return true;
}

edgeinfer_answer_options answer_options(const Arguments& arguments, const std::vector<const char*>& stops) {
  edgeinfer_answer_options options = edgeinfer_default_answer_options();
  arguments.set("--temp", options.temperature);
  arguments.set("--top-k", options.top_k);
  arguments.set("--top-p", options.top_p);
  arguments.set("--min-p", options.min_p);
  arguments.set("--repeat-penalty", options.repeat_penalty);
  arguments.set("--max-tokens", options.max_tokens);
  if (arguments.text("--seed")) options.seed = std::atoll(arguments.text("--seed"));
  options.thinking = !arguments.given.count("--no-thinking");
  options.stops = stops.data();
  options.n_stops = stops.size();
  return options;
}

int32_t print_text(const edgeinfer_piece* piece, void*) {
  if (!piece->thinking) std::fwrite(piece->text, 1, piece->n_bytes, stdout);
  return std::fflush(stdout);
}

int32_t print_tokens(const edgeinfer_piece* piece, void*) {
  for (size_t index = 0; index < piece->n_tokens; ++index) std::printf("%d ", piece->tokens[index]);
  return std::fflush(stdout);
}

void print_stats(const edgeinfer_stats& stats, const Opened& opened) {
  std::fprintf(stderr,
               "{\"open_s\": %.4f, \"first_token_s\": %.4f, \"prefill_s\": %.4f, \"decode_s\": %.4f, \"prompt\": %lld, "
               "\"reused\": %lld, \"prefilled\": %lld, \"reprefilled\": %lld, \"kept\": %lld, \"evicted\": %lld, "
               "\"reanchored\": %lld, \"emitted\": %lld, \"rounds\": %lld, \"drafted\": %lld, \"accepted\": %lld, "
               "\"draft\": \"%s\"}\n",
               opened.open_s, stats.first_token_s, stats.prefill_s, stats.decode_s, (long long)stats.prompt,
               (long long)stats.reused, (long long)stats.prefilled, (long long)stats.reprefilled, (long long)stats.kept,
               (long long)stats.evicted, (long long)stats.reanchored, (long long)stats.emitted, (long long)stats.rounds,
               (long long)stats.drafted, (long long)stats.accepted, opened.draft.c_str());
}

edgeinfer_code print_memory(const Arguments& arguments, const edgeinfer_options& options, edgeinfer_error& error) {
  edgeinfer_memory memory = edgeinfer_empty_memory();
  const edgeinfer_code code = edgeinfer_estimate(arguments.folder.c_str(), &options, &memory, &error);
  if (!code)
    std::printf(
        "{\"file\": %lld, \"packed\": %lld, \"session\": %lld, \"workspace\": %lld, \"total\": %lld, "
        "\"dirty\": %lld}\n",
        (long long)memory.file_bytes, (long long)memory.packed_bytes, (long long)memory.session_bytes,
        (long long)memory.workspace_bytes, (long long)memory.total_bytes, (long long)memory.dirty_bytes);
  return code;
}

edgeinfer_code open(const Arguments& arguments, const edgeinfer_options& options, Opened& opened,
                    edgeinfer_error& error) {
  const auto began = std::chrono::steady_clock::now();
  edgeinfer_code code = edgeinfer_open(arguments.folder.c_str(), &options, &opened.model, &error);
  if (!code) code = edgeinfer_session_new(opened.model, arguments.text("--system"), &opened.session, &error);
  opened.open_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  edgeinfer_info info = edgeinfer_empty_info();
  if (!code) code = edgeinfer_describe(opened.model, &info, &error);
  opened.draft = info.draft;
  if (!code && info.note[0]) std::fprintf(stderr, "note: %s\n", info.note);
  return code;
}

// Asks for the answers, and prints them.
class Conversation {
 public:
  Conversation(const Arguments& arguments, const Opened& opened, edgeinfer_error& error)
      : arguments_(arguments), opened_(opened), error_(error) {
    for (const std::string& stop : arguments.stops) stops_.push_back(stop.c_str());
    options_ = answer_options(arguments, stops_);
  }
  Conversation(const Conversation&) = delete;
  Conversation& operator=(const Conversation&) = delete;

  edgeinfer_code answer_all() {
    if (arguments_.reads_tokens) return answer_lines();
    if (!arguments_.tokens.empty()) return generate(arguments_.tokens);
    edgeinfer_code code = EDGEINFER_OK;
    for (size_t turn = 0; !code && turn < arguments_.messages.size(); ++turn) code = chat(arguments_.messages[turn]);
    return code;
  }

 private:
  edgeinfer_code answer_lines() {
    edgeinfer_code code = EDGEINFER_OK;
    for (std::string line; !code && std::getline(std::cin, line);) {
      std::vector<int32_t> tokens;
      if (parse_tokens(line, tokens)) {
        code = generate(tokens);
      } else {
        error_ = {"a line of standard input is not token ids with commas between them", ""};
        code = EDGEINFER_USAGE_ERROR;
      }
    }
    return code;
  }

  edgeinfer_code chat(const std::string& message) {
    edgeinfer_stats stats = edgeinfer_empty_stats();
    const edgeinfer_callback print = arguments_.given.count("--print-tokens") ? print_tokens : print_text;
    return ended(edgeinfer_chat(opened_.session, message.c_str(), &options_, print, nullptr, &stats, &error_), stats);
  }

  edgeinfer_code generate(const std::vector<int32_t>& tokens) {
    edgeinfer_stats stats = edgeinfer_empty_stats();
    return ended(edgeinfer_generate(opened_.session, tokens.data(), tokens.size(), &options_, print_tokens, nullptr,
                                    &stats, &error_),
                 stats);
  }

  edgeinfer_code ended(edgeinfer_code code, const edgeinfer_stats& stats) const {
    if (code) return code;
    std::printf("\n");
    std::fflush(stdout);
    if (arguments_.given.count("--stats")) print_stats(stats, opened_);
    return EDGEINFER_OK;
  }

  const Arguments& arguments_;
  const Opened& opened_;
  edgeinfer_error& error_;
  std::vector<const char*> stops_;
  edgeinfer_answer_options options_;
};

int failed(edgeinfer_code code, const edgeinfer_error& error) {
  std::fprintf(stderr, "error: %s\n", error.cause);
  if (error.hint[0]) std::fprintf(stderr, "hint: %s\n", error.hint);
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  edgeinfer_options options = edgeinfer_default_options();
  if (!parse(argc, argv, arguments) || !open_options(arguments, options)) {
    std::fputs(kUsage, stderr);
    return EDGEINFER_USAGE_ERROR;
  }
  edgeinfer_error error;
  edgeinfer_code code;
  if (arguments.given.count("--memory")) {
    code = print_memory(arguments, options, error);
  } else {
    Opened opened;
    code = open(arguments, options, opened, error);
    if (!code) code = Conversation(arguments, opened, error).answer_all();
  }
  return code ? failed(code, error) : 0;
}
