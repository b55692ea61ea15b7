#include "model.h"

#include <algorithm>
#include <map>

#include "error.h"
#include "free_memory.h"
#include "session.h"
#include "sizes.h"
#include "text/file.h"
#include "text/sha256.h"

namespace edgeinfer {

namespace {

constexpr size_t kDigestName = sizeof "sha256:" - 1;

// What packed weights and costs depend on: the program, the engine and the processor.
std::string key_of(const Manifest& manifest) {
  Sha256 here;
  here.add(EDGEINFER_ENGINE_VERSION " " + processor());
  return manifest.files.at(kProgramFile).sha256.substr(kDigestName, 32) + "-" + here.digest().substr(kDigestName, 8);
}

CostFile cost_file(const Manifest& manifest, const ModelOptions& options, const Program& program) {
  const std::string& folder = options.cache_folder;
  const std::string key = key_of(manifest), n_threads = std::to_string(program.info().n_threads);
  return CostFile(folder.empty() ? "" : folder + "/" + key + ".costs",
                  key + " " + manifest.kv_type + " " + n_threads + " " + program.drafts_with());
}

// Control tokens have empty pieces. This maps those in the marks of traces to their text.
std::map<int32_t, std::string> silent_marks(const Tokenizer& tokenizer, const std::vector<TraceFormat>& traces) {
  std::string marks;
  for (const TraceFormat& trace : traces) {
    marks += trace.opening;
    for (const std::string& mark : trace.closings) marks += mark;
    for (const std::string& mark : trace.before_answer) marks += mark;
  }
  std::map<int32_t, std::string> texts;
  for (const AddedToken& token : tokenizer.added().all())
    if (token.is_control && marks.find(token.text) != std::string::npos) texts.emplace(token.id, token.text);
  return texts;
}

ei_kv_type kv_type_of(const Manifest& manifest) {
  return static_cast<ei_kv_type>(std::find(kKvTypes.begin(), kKvTypes.end(), manifest.kv_type) - kKvTypes.begin());
}

void check_shape(const Manifest& manifest, const ei_info& info) {
  const BundleDraft draft = manifest.draft.value_or(BundleDraft{});
  const struct {
    const char* name;
    int64_t declared, found;
  } fields[] = {
      {"n_layers", manifest.n_layers, info.n_layers},      {"n_kv_heads", manifest.n_kv_heads, info.n_kv_heads},
      {"head_dim", manifest.head_dim, info.head_dim},      {"hidden", manifest.hidden, info.hidden},
      {"n_vocab", manifest.n_vocab, info.n_vocab},         {"limit", manifest.limit, info.limit},
      {"exit_layer", manifest.exit_layer, info.exit_layer},
      {"draft_exit_layer", draft.exit_layer, info.draft_exit_layer},
      {"draft_n_taps", static_cast<int64_t>(draft.taps.size()), info.draft_n_taps},
      {"draft_n_ranked", draft.n_ranked, info.draft_n_ranked}};
  for (const auto& field : fields)
    if (field.declared != field.found)
      fail(kArtifactError,
           manifest.folder + ": the manifest says " + field.name + " " + std::to_string(field.declared) +
               ", the program " + std::to_string(field.found),
           kExportAgain);
}

}  // namespace

Model::Model(const std::string& folder, const ModelOptions& options)
    : options_(options),
      manifest_(read_manifest(folder).take()),
      policy_(make_policy(options.context, options.sink, manifest_.limit)),
      tokenizer_(Tokenizer::read(manifest_.path_of(kTokenizerFile)).take()),
      encoder_(tokenizer_, manifest_.chat.words),
      packed_weights_(options.cache_folder, key_of(manifest_), manifest_.memory.packed_bytes) {
  worker_.run_once([this] { load(); });
}

void Model::load() {
  const bool opens_draft = manifest_.draft && opens_taught_draft(options_.drafting);
  program_ = std::make_unique<Program>(manifest_.path_of(kProgramFile), options_.n_threads, packed_weights_.path(),
                                       kv_type_of(manifest_), opens_draft ? ranked_tokens(manifest_) : Tokens{});
  info_ = program_->info();
  check_shape(manifest_, info_);
  packed_weights_.loaded();
  costs_ = measure(*program_, manifest_.exact_rows, options_.drafting, cost_file(manifest_, options_, *program_));
  if (costs_ && options_.drafting == DraftMode::automatic)
    draft_left_out_ = why_hopeless(*costs_, program_->drafts_with(), agreement());
  if (!costs_ || !draft_left_out_.empty()) program_->leave_drafts_out();
  draft_ = manifest_.draft ? program_->drafts_with() : "";
}

std::vector<double> Model::agreement() const {
  return manifest_.draft ? manifest_.draft->agreement : std::vector<double>{};
}

std::string Model::note() const {
  if (draft_left_out_.empty()) return packed_weights_.note();
  const std::string left_out = "not drafting: " + draft_left_out_;
  return packed_weights_.note().empty() ? left_out : packed_weights_.note() + "; " + left_out;
}

AnswerText Model::text_of_answer(const std::vector<TraceFormat>& traces,
                                 const std::optional<TraceFormat>& inside) const {
  const auto bytes_of = [this, marks = silent_marks(tokenizer_, traces)](int32_t token) {
    const auto mark = marks.find(token);
    return mark == marks.end() ? tokenizer_.piece(token) : mark->second;
  };
  const auto encode_after = [this](const std::string& text, const std::string& after) {
    const std::string whole = after + text;
    return encoder_.encode(whole, {}, {after.size(), whole.size()});
  };
  return {bytes_of, encode_after, traces, inside};
}

std::unique_ptr<Decoder> Model::add(Session& session) {
  std::unique_ptr<Decoder> decoder;
  worker_.run_once([&] {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t n = sessions_.size();
    if (n >= static_cast<size_t>(options_.n_sessions))
      fail(kUsageError, std::to_string(n) + " of " + std::to_string(options_.n_sessions) + " sessions are open",
           "free one, or open the model with more n_sessions");
    decoder = std::make_unique<Decoder>(*program_, policy_,
                                        new_drafting(*program_, costs_.get(), options_.drafting, agreement()));
    sessions_.insert(&session);
  });
  return decoder;
}

void Model::remove(Session& session) {
  const std::lock_guard<std::mutex> lock(mutex_);
  sessions_.erase(&session);
}

void Model::trim() {
  worker_.run_once([this] { program_->trim(); });
  return_freed_memory();
}

void Model::close() {
  closing_ = true;
  worker_.stop();
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Session* session : sessions_) session->release();
  sessions_.clear();
  costs_.reset();
  program_.reset();
  return_freed_memory();
}

}  // namespace edgeinfer
