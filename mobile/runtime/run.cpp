// edgeinfer-run: answers from a bundle at the command line.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "edgeinfer.h"

namespace {

constexpr char kUsage[] =
    "usage: edgeinfer-run FOLDER --tokens 1,2,3 [--max-tokens N] [--temp T] [--seed S] [--context N] [--sink N]\n"
    "                     [--threads N] [--draft auto|off|lookup|early-exit]\n";

struct Arguments {
  const char* folder = nullptr;
  std::vector<int32_t> tokens;
  edgeinfer_options open = edgeinfer_default_options();
  edgeinfer_answer_options answer = edgeinfer_default_answer_options();
};

std::vector<int32_t> numbers(const char* text) {
  std::vector<int32_t> values;
  while (*text) {
    char* end;
    values.push_back(static_cast<int32_t>(std::strtol(text, &end, 10)));
    if (end == text) return {};
    text = *end == ',' ? end + 1 : end;
  }
  return values;
}

// -1 where there is none of this name.
int32_t drafting_of(const std::string& name) {
  if (name == "auto") return EDGEINFER_DRAFT_AUTO;
  if (name == "off") return EDGEINFER_DRAFT_NEVER;
  if (name == "lookup") return EDGEINFER_DRAFT_LOOKUP;
  return name == "early-exit" ? EDGEINFER_DRAFT_EXIT : -1;
}

bool parse(int argc, char** argv, Arguments& to) {
  for (int at = 1; at < argc; ++at) {
    const std::string name = argv[at];
    if (name.compare(0, 2, "--") != 0) {
      if (to.folder) return false;
      to.folder = argv[at];
      continue;
    }
    if (++at == argc) return false;
    const char* value = argv[at];
    if (name == "--tokens")
      to.tokens = numbers(value);
    else if (name == "--max-tokens")
      to.answer.max_tokens = std::atoi(value);
    else if (name == "--temp")
      to.answer.temperature = std::strtod(value, nullptr);
    else if (name == "--seed")
      to.answer.seed = std::atoll(value);
    else if (name == "--context")
      to.open.context = std::atoll(value);
    else if (name == "--sink")
      to.open.sink = std::atoll(value);
    else if (name == "--draft")
      to.open.drafting = drafting_of(value);
    else if (name == "--threads")
      to.open.n_threads = std::atoi(value);
    else
      return false;
  }
  return to.folder != nullptr;
}

int32_t print_tokens(const edgeinfer_piece* piece, void*) {
  for (size_t index = 0; index < piece->n_tokens; ++index) std::printf("%d ", piece->tokens[index]);
  std::fflush(stdout);
  return 0;
}

int failed(edgeinfer_code code, const edgeinfer_error& error) {
  std::fprintf(stderr, "error: %s\n", error.cause);
  if (error.hint[0]) std::fprintf(stderr, "hint: %s\n", error.hint);
  return code;
}

int run(const Arguments& arguments) {
  edgeinfer_error error;
  edgeinfer_model* model = nullptr;
  edgeinfer_session* session = nullptr;
  edgeinfer_code code = edgeinfer_open(arguments.folder, &arguments.open, &model, &error);
  if (code) return failed(code, error);
  code = edgeinfer_session_new(model, nullptr, &session, &error);
  if (!code)
    code = edgeinfer_generate(session, arguments.tokens.data(), arguments.tokens.size(), &arguments.answer,
                              print_tokens, nullptr, nullptr, &error);
  edgeinfer_session_free(session);
  edgeinfer_close(model);
  if (code) return failed(code, error);
  std::printf("\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  if (!parse(argc, argv, arguments)) {
    std::fputs(kUsage, stderr);
    return EDGEINFER_USAGE_ERROR;
  }
  return run(arguments);
}
