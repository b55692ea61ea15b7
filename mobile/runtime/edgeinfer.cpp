// The C interface. Arguments are checked here, and no exception passes.
#include "edgeinfer.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "error.h"
#include "model.h"
#include "session.h"
#include "sizes.h"

struct edgeinfer_model {
  std::shared_ptr<edgeinfer::Model> model;
};

// A running call shares the session, so that another thread may free the handle.
struct edgeinfer_session {
  std::shared_ptr<edgeinfer::Session> session;
};

namespace edgeinfer {
namespace {

static_assert(int{EDGEINFER_USAGE_ERROR} == kUsageError && int{EDGEINFER_BACKEND_ERROR} == kBackendError &&
              int{EDGEINFER_ARTIFACT_ERROR} == kArtifactError && int{EDGEINFER_ENGINE_ERROR} == kEngineError);
static_assert(int{EDGEINFER_DRAFT_AUTO} == int(DraftMode::automatic) &&
              int{EDGEINFER_DRAFT_NEVER} == int(DraftMode::never) &&
              int{EDGEINFER_DRAFT_LOOKUP} == int(DraftMode::lookup) &&
              int{EDGEINFER_DRAFT_EXIT} == int(DraftMode::early_exit) &&
              int{EDGEINFER_DRAFT_TAUGHT} == int(DraftMode::taught));
static_assert(int{EDGEINFER_STOP} == int(Finish::stop) && int{EDGEINFER_LENGTH} == int(Finish::length) &&
              int{EDGEINFER_CANCELED} == int(Finish::canceled));

// Copies a text as one line, cut between two characters if it is too long.
void copy_line(std::string text, char* to, size_t size) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  size_t n = std::min(text.size(), size - 1);
  while (n < text.size() && n > 0 && (text[n] & 0xC0) == 0x80) --n;
  std::snprintf(to, size, "%s", text.substr(0, n).c_str());
}

template <class Body>
edgeinfer_code guarded(edgeinfer_error* error, const Body& body) {
  Error caught;
  try {
    body();
    return EDGEINFER_OK;
  } catch (...) {
    caught = current_error();
  }
  if (error) {
    copy_line(caught.cause, error->cause, sizeof error->cause);
    copy_line(caught.hint, error->hint, sizeof error->hint);
  }
  return static_cast<edgeinfer_code>(caught.code);
}

// The caller's struct, if it is of this version.
template <class T>
T& checked(T* of_caller, const char* name) {
  if (!of_caller) fail(kUsageError, std::string(name) + " is NULL");
  if (of_caller->size != sizeof(T) || of_caller->version != EDGEINFER_VERSION)
    fail(kUsageError, std::string(name) + " is not of version " + std::to_string(EDGEINFER_VERSION) + " of edgeinfer.h",
         "set its size and version, or compile again");
  return *of_caller;
}

template <class T>
T* needed(T* pointer, const char* name) {
  if (!pointer) fail(kUsageError, std::string(name) + " is NULL");
  return pointer;
}

ModelOptions options_of(const edgeinfer_options* of_caller) {
  if (!of_caller) return {};
  const edgeinfer_options& given = checked(of_caller, "options");
  ModelOptions options;
  options.n_threads = given.n_threads;
  options.context = given.context;
  options.sink = given.sink;
  options.n_sessions = given.n_sessions;
  if (given.n_sessions < 1)
    fail(kUsageError, "n_sessions must be at least 1; received " + std::to_string(given.n_sessions));
  if (given.drafting < EDGEINFER_DRAFT_AUTO || given.drafting > EDGEINFER_DRAFT_TAUGHT)
    fail(kUsageError, "drafting must be one of edgeinfer_drafting; received " + std::to_string(given.drafting));
  options.drafting = static_cast<DraftMode>(given.drafting);
  if (given.cache_folder) options.cache_folder = given.cache_folder;
  return options;
}

AnswerOptions options_of(const edgeinfer_answer_options* of_caller) {
  if (!of_caller) return {};
  const edgeinfer_answer_options& given = checked(of_caller, "options");
  AnswerOptions options;
  options.sampling.temperature = given.temperature;
  options.sampling.top_k = given.top_k;
  options.sampling.top_p = given.top_p;
  options.sampling.min_p = given.min_p;
  options.sampling.repeat_penalty = given.repeat_penalty;
  options.sampling.repeat_last_n = given.repeat_last_n;
  options.sampling.presence_penalty = given.presence_penalty;
  options.sampling.frequency_penalty = given.frequency_penalty;
  options.sampling.seed = static_cast<uint64_t>(given.seed);
  options.max_tokens = given.max_tokens;
  options.thinking = given.thinking != 0;
  if (given.think_budget >= 0) options.think_budget = given.think_budget;
  options.batch = std::chrono::milliseconds(given.batch_ms);
  for (size_t index = 0; index < given.n_stops; ++index)
    options.stops.emplace_back(needed(needed(given.stops, "stops")[index], "a stop string"));
  return options;
}

Reader reader_of(edgeinfer_callback callback, void* user) {
  if (!callback) return nullptr;
  return [callback, user](const Piece& piece) {
    const edgeinfer_piece given{piece.text.c_str(), piece.text.size(), piece.thinking, piece.tokens.data(),
                                piece.tokens.size()};
    return callback(&given, user) == 0;
  };
}

void fill(const AnswerStats& stats, edgeinfer_stats* of_caller) {
  if (!of_caller) return;
  edgeinfer_stats& to = *of_caller;
  to.finish = static_cast<int32_t>(stats.finish);
  to.prompt = stats.prompt;
  to.reused = stats.reused;
  to.prefilled = stats.prefilled;
  to.reprefilled = stats.reprefilled;
  to.kept = stats.kept;
  to.evicted = stats.evicted;
  to.reanchored = stats.reanchored;
  to.emitted = stats.emitted;
  to.rounds = to.drafted = to.accepted = 0;
  for (const auto& [name, arm] : stats.arms) {
    to.rounds += arm.rounds;
    to.drafted += arm.drafted;
    to.accepted += arm.accepted;
  }
  to.prefill_s = stats.prefill_s;
  to.first_token_s = stats.first_token_s;
  to.decode_s = stats.decode_s;
}

void fill(const Manifest& manifest, const ModelOptions& options, edgeinfer_memory& to) {
  const WindowPolicy policy = make_policy(options.context, options.sink, manifest.limit);
  to.file_bytes = manifest.file_bytes();
  to.packed_bytes = manifest.memory.packed_bytes;
  to.session_bytes = session_bytes(manifest, policy, opens_taught_draft(options.drafting));
  to.workspace_bytes = workspace_bytes(manifest);
  to.total_bytes = to.packed_bytes + to.workspace_bytes + options.n_sessions * to.session_bytes;
  to.dirty_bytes = to.total_bytes - (options.cache_folder.empty() ? 0 : to.packed_bytes);
}

}  // namespace
}  // namespace edgeinfer

using edgeinfer::checked;
using edgeinfer::copy_line;
using edgeinfer::fill;
using edgeinfer::guarded;
using edgeinfer::needed;

edgeinfer_code edgeinfer_estimate(const char* folder, const edgeinfer_options* options, edgeinfer_memory* memory,
                                  edgeinfer_error* error) {
  return guarded(error, [&] {
    edgeinfer_memory& to = checked(memory, "memory");
    fill(edgeinfer::read_manifest(needed(folder, "folder")).take(), edgeinfer::options_of(options), to);
  });
}

edgeinfer_code edgeinfer_open(const char* folder, const edgeinfer_options* options, edgeinfer_model** model,
                              edgeinfer_error* error) {
  return guarded(error, [&] {
    needed(model, "model");
    auto opened = std::make_shared<edgeinfer::Model>(needed(folder, "folder"), edgeinfer::options_of(options));
    *model = new edgeinfer_model{std::move(opened)};
  });
}

edgeinfer_code edgeinfer_describe(const edgeinfer_model* model, edgeinfer_info* info, edgeinfer_error* error) {
  return guarded(error, [&] {
    const edgeinfer::Model& of = *needed(model, "model")->model;
    edgeinfer_info& to = checked(info, "info");
    copy_line(of.manifest().name, to.name, sizeof to.name);
    copy_line(of.manifest().license, to.license, sizeof to.license);
    copy_line(of.note(), to.note, sizeof to.note);
    copy_line(of.draft(), to.draft, sizeof to.draft);
    to.n_vocab = of.info().n_vocab;
    to.limit = of.info().limit;
    to.window = of.policy().window;
    to.sink = of.policy().sink;
    to.exit_layer = of.info().exit_layer;
    to.exact_rows = of.manifest().exact_rows;
    to.n_threads = of.info().n_threads;
  });
}

void edgeinfer_trim_memory(edgeinfer_model* model) {
  (void)guarded(nullptr, [&] { needed(model, "model")->model->trim(); });
}

void edgeinfer_close(edgeinfer_model* model) {
  if (!model) return;
  (void)guarded(nullptr, [&] {
    std::shared_ptr<edgeinfer::Model> closing = std::move(model->model);
    delete model;
    if (closing->worker().is_this_thread())
      std::thread([closing] { closing->close(); }).detach();  // in a callback: after it
    else
      closing->close();
  });
}

edgeinfer_code edgeinfer_session_new(edgeinfer_model* model, const char* system, edgeinfer_session** session,
                                     edgeinfer_error* error) {
  return guarded(error, [&] {
    needed(session, "session");
    auto opened = std::make_shared<edgeinfer::Session>(needed(model, "model")->model, system ? system : "");
    *session = new edgeinfer_session{std::move(opened)};
  });
}

void edgeinfer_session_free(edgeinfer_session* session) {
  if (!session) return;
  (void)guarded(nullptr, [&] {
    std::shared_ptr<edgeinfer::Session> freed = std::move(session->session);
    delete session;
    freed->cancel();
  });
}

edgeinfer_code edgeinfer_chat(edgeinfer_session* session, const char* text, const edgeinfer_answer_options* options,
                              edgeinfer_callback callback, void* user, edgeinfer_stats* stats, edgeinfer_error* error) {
  return guarded(error, [&] {
    const std::shared_ptr<edgeinfer::Session> held = needed(session, "session")->session;
    if (stats) checked(stats, "stats");
    const edgeinfer::AnswerOptions how = edgeinfer::options_of(options);
    fill(held->chat(needed(text, "text"), how, edgeinfer::reader_of(callback, user)), stats);
  });
}

edgeinfer_code edgeinfer_generate(edgeinfer_session* session, const int32_t* prompt, size_t n,
                                  const edgeinfer_answer_options* options, edgeinfer_callback callback, void* user,
                                  edgeinfer_stats* stats, edgeinfer_error* error) {
  return guarded(error, [&] {
    const std::shared_ptr<edgeinfer::Session> held = needed(session, "session")->session;
    if (stats) checked(stats, "stats");
    if (n) needed(prompt, "prompt");
    const edgeinfer::AnswerOptions how = edgeinfer::options_of(options);
    fill(held->generate({prompt, prompt + n}, how, edgeinfer::reader_of(callback, user)), stats);
  });
}

void edgeinfer_cancel(edgeinfer_session* session) {
  (void)guarded(nullptr, [&] { needed(session, "session")->session->cancel(); });
}

size_t edgeinfer_n_messages(const edgeinfer_session* session) {
  size_t n = 0;
  (void)guarded(nullptr, [&] { n = needed(session, "session")->session->n_messages(); });
  return n;
}

edgeinfer_code edgeinfer_rewind(edgeinfer_session* session, size_t n, edgeinfer_error* error) {
  return guarded(error, [&] { needed(session, "session")->session->rewind(n); });
}
