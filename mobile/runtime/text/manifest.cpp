#include "manifest.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <set>

#include "fields.h"
#include "file.h"
#include "json.h"
#include "sha256.h"

namespace edgeinfer {

namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxManifestBytes = 1 << 20;
constexpr int64_t kSchemaVersion = 2, kDraftedSchema = 3;
constexpr size_t kMaxTaps = 8, kMaxDepths = 16;
constexpr const char* kManifestFile = "manifest.json";
constexpr const char* kKnownFiles[] = {"chat_template.jinja", kDraftTokensFile, kProgramFile, kTokenizerFile};
const std::vector<std::string> kDraftKinds = {"exit", "feature"};
const std::vector<std::string> kTargets = {"xnnpack"};
const std::vector<std::string> kPolicies = {"sinks-and-blocks"};

std::string quoted(std::string_view text, size_t limit) { return "'" + std::string(text.substr(0, limit)) + "'"; }

bool has_a_key_twice(Json value) {
  std::set<std::string_view> keys;
  bool found = false;
  for_each_member(value, [&](std::string_view key, Json inner) {
    found = found || !keys.insert(key).second || has_a_key_twice(inner);
  });
  if (value.is(JsonKind::array)) {
    for (Json item : value.items()) found = found || has_a_key_twice(item);
  }
  return found;
}

bool is_digest(std::string_view text) {
  const std::string_view hex = text.substr(std::min<size_t>(7, text.size()));
  return text.substr(0, 7) == "sha256:" && hex.size() == 64 &&
         hex.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string digest_field(Fields& fields, std::string_view key) {
  const std::string digest = fields.text(key);
  if (!is_digest(digest)) fields.refuse("not a digest: " + quoted(digest, 80));
  return digest;
}

int64_t count_field(Fields& fields, std::string_view key) {
  const int64_t value = fields.integer(key);
  if (value > INT32_MAX) fields.refuse("`" + std::string(key) + "` is " + std::to_string(value));
  return value;
}

int64_t positive_field(Fields& fields, std::string_view key) {
  const int64_t value = count_field(fields, key);
  if (value == 0) fields.refuse("`" + std::string(key) + "` is 0");
  return value;
}

std::string known_field(Fields& fields, std::string_view key, const std::vector<std::string>& known) {
  const std::string value = fields.text(key);
  if (std::find(known.begin(), known.end(), value) != known.end()) return value;
  std::string names;
  for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
  fields.refuse("`" + std::string(key) + "` is " + quoted(value, 40) + "; this version runs " + names);
}

std::map<std::string, std::string> texts_field(Fields fields) {
  std::map<std::string, std::string> found;
  for (auto& [name, text] : fields.all_texts()) found.emplace(name, text);
  return found;
}

Memory memory_field(Fields fields) {
  const Memory memory = {fields.integer("packed_bytes"), fields.integer("workspace_bytes"),
                         fields.integer("kv_bytes_per_position")};
  fields.done();
  return memory;
}

Method method_field(Fields fields) {
  Method method = {fields.texts("inputs"), fields.texts("outputs")};
  fields.done();
  return method;
}

BundleFile file_field(const std::string& name, Fields fields) {
  if (std::find(std::begin(kKnownFiles), std::end(kKnownFiles), name) == std::end(kKnownFiles)) {
    fields.refuse("`files` names " + quoted(name, 60) +
                  "; a bundle holds chat_template.jinja, draft_tokens.bin, model.pte, tokenizer.json");
  }
  BundleFile file = {fields.integer("n_bytes"), digest_field(fields, "sha256")};
  fields.done();
  return file;
}

Golden golden_field(Fields fields) {
  Golden golden = {fields.ids("prompt"), fields.ids("answer"), fields.numbers("logits"),
                   fields.numbers("second_logits")};
  fields.done();
  if (golden.answer.size() != golden.logits.size() || golden.answer.size() != golden.second_logits.size()) {
    fields.refuse("`golden` has ids and logits of different numbers");
  }
  return golden;
}

BundleDraft draft_field(Fields fields) {
  BundleDraft draft = {known_field(fields, "kind", kDraftKinds),
                       count_field(fields, "exit_layer"),
                       fields.ids("taps"),
                       positive_field(fields, "n_ranked"),
                       fields.text("base_model"),
                       fields.text("license"),
                       digest_field(fields, "source_sha256"),
                       fields.numbers("agreement")};
  fields.done();
  return draft;
}

bool has_rising_taps(const BundleDraft& draft, int64_t n_layers) {
  int32_t before = 0;
  for (int32_t tap : draft.taps) {
    if (tap <= before || tap > n_layers) return false;
    before = tap;
  }
  return !draft.taps.empty() && draft.taps.size() <= kMaxTaps;
}

void check_draft(const BundleDraft& draft, const Manifest& manifest, const Fields& fields) {
  const std::string n_layers = std::to_string(manifest.n_layers);
  const bool is_exit = draft.exit_layer > 0 && draft.exit_layer < manifest.n_layers && draft.taps.empty();
  if (draft.kind == "exit" && !is_exit) {
    fields.refuse("an exit draft needs an `exit_layer` from 1 to " + std::to_string(manifest.n_layers - 1) +
                  ", and no `taps`");
  }
  if (draft.kind == "feature" && (draft.exit_layer || !has_rising_taps(draft, manifest.n_layers))) {
    fields.refuse("a feature draft needs 1 to 8 rising `taps` from 1 to " + n_layers + ", and no `exit_layer`");
  }
  if (draft.n_ranked > manifest.n_vocab) {
    fields.refuse("`n_ranked` is " + std::to_string(draft.n_ranked) + "; there are " +
                  std::to_string(manifest.n_vocab) + " tokens");
  }
  const auto is_share = [](double share) { return share >= 0 && share <= 1; };
  if (draft.agreement.size() > kMaxDepths ||
      !std::all_of(draft.agreement.begin(), draft.agreement.end(), is_share)) {
    fields.refuse("`agreement` must hold at most 16 shares from 0 to 1");
  }
  if (manifest.exit_layer) {
    fields.refuse("`exit_layer` is " + std::to_string(manifest.exit_layer) + "; it is 0 in a bundle with a `draft`");
  }
  const auto tokens = manifest.files.find(kDraftTokensFile);
  if (tokens == manifest.files.end() || tokens->second.n_bytes != 4 * draft.n_ranked) {
    fields.refuse("`files` must name draft_tokens.bin with " + std::to_string(4 * draft.n_ranked) + " bytes");
  }
}

void check(const Manifest& manifest, const Fields& fields) {
  if (manifest.exit_layer >= manifest.n_layers) {
    fields.refuse("`exit_layer` is " + std::to_string(manifest.exit_layer) + "; there are " +
                  std::to_string(manifest.n_layers) + " layers");
  }
  for (int32_t token : manifest.stop_tokens) {
    if (token >= manifest.n_vocab) {
      fields.refuse("`stop_tokens` names " + std::to_string(token) + "; there are " +
                    std::to_string(manifest.n_vocab) + " tokens");
    }
  }
  if (manifest.draft) {
    check_draft(*manifest.draft, manifest, fields);
  } else if (manifest.files.count(kDraftTokensFile)) {
    fields.refuse("`files` names draft_tokens.bin, and there is no `draft`");
  }
}

Manifest manifest_of(Fields& fields, bool has_draft) {
  Manifest manifest;
  manifest.name = fields.text("name");
  manifest.base_model = fields.text("base_model");
  manifest.license = fields.text("license");
  manifest.source_sha256 = digest_field(fields, "source_sha256");
  manifest.tier = fields.text("tier");
  manifest.target = known_field(fields, "target", kTargets);
  manifest.policy = known_field(fields, "policy", kPolicies);
  manifest.kv_type = known_field(fields, "kv_type", kKvTypes);
  manifest.architecture = fields.text("architecture");
  manifest.n_layers = positive_field(fields, "n_layers");
  manifest.n_heads = positive_field(fields, "n_heads");
  manifest.n_kv_heads = positive_field(fields, "n_kv_heads");
  manifest.head_dim = positive_field(fields, "head_dim");
  manifest.hidden = positive_field(fields, "hidden");
  manifest.n_ffn = positive_field(fields, "n_ffn");
  manifest.n_vocab = positive_field(fields, "n_vocab");
  manifest.limit = positive_field(fields, "limit");
  manifest.exit_layer = count_field(fields, "exit_layer");
  manifest.exact_rows = count_field(fields, "exact_rows");
  manifest.memory = memory_field(fields.table("memory"));
  manifest.bos_text = fields.text("bos_text");
  manifest.eos_text = fields.text("eos_text");
  manifest.stop_tokens = fields.ids("stop_tokens");
  manifest.runtime = fields.text("runtime");
  for (auto& [name, method] : fields.named("methods")) manifest.methods.emplace(name, method_field(method));
  manifest.operators = texts_field(fields.table("operators"));
  manifest.chat = chat_pieces_of(fields.table("chat"));
  manifest.exporter = texts_field(fields.table("exporter"));
  for (auto& [name, file] : fields.named("files")) manifest.files.emplace(name, file_field(name, file));
  for (Fields& golden : fields.tables("golden")) manifest.golden.push_back(golden_field(golden));
  if (has_draft) manifest.draft = draft_field(fields.table("draft"));
  fields.done();
  check(manifest, fields);
  return manifest;
}

int64_t checked_schema(Fields& fields, const std::string& path) {
  const int64_t version = fields.integer("schema_version");
  const std::string cause = "is of schema " + std::to_string(version) + "; this version reads schemas " +
                            std::to_string(kSchemaVersion) + " and " + std::to_string(kDraftedSchema);
  if (version > kDraftedSchema) fail(kArtifactError, path + " " + cause, "update edgeinfer");
  if (version < kSchemaVersion) fields.refuse("it " + cause);
  return version;
}

void check_names_and_sizes(const Manifest& manifest) {
  const std::string& folder = manifest.folder;
  for (const char* needed : {kProgramFile, kTokenizerFile}) {
    if (!manifest.files.count(needed)) {
      fail(kArtifactError, folder + ": the manifest does not name " + needed, kExportAgain);
    }
  }
  std::set<std::string> strangers;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name != kManifestFile && !manifest.files.count(name)) strangers.insert(name);
  }
  if (!strangers.empty()) {
    fail(kArtifactError, folder + " holds " + quoted(*strangers.begin(), 60) + ", which its manifest does not name",
         kExportAgain);
  }
  for (const auto& [name, expected] : manifest.files) {
    const std::string path = manifest.path_of(name);
    if (!fs::is_regular_file(fs::symlink_status(path))) {
      fail(kArtifactError, path + " is missing, or is not a regular file", kExportAgain);
    }
    const uint64_t n_bytes = fs::file_size(path);
    if (n_bytes != static_cast<uint64_t>(expected.n_bytes)) {
      fail(kArtifactError,
           path + " has " + std::to_string(n_bytes) + " bytes; its manifest says " + std::to_string(expected.n_bytes),
           kExportAgain);
    }
  }
}

std::string digest_of_file(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  Sha256 state;
  std::vector<char> piece(1 << 20);
  while (const size_t n = file ? std::fread(piece.data(), 1, piece.size(), file.get()) : 0) {
    state.add({piece.data(), n});
  }
  return state.digest();
}

Manifest parse_whole(const std::string& text, const std::string& path) {
  const std::optional<JsonDocument> document = JsonDocument::parse(text);
  if (!document || !document->root().is(JsonKind::object) || has_a_key_twice(document->root())) {
    fail(kArtifactError, path + " is not JSON, or no object", kExportAgain);
  }
  Fields fields(document->root(), path);
  const int64_t version = checked_schema(fields, path);
  const std::string digest = digest_field(fields, "digest");
  if (seal_of(text, digest) != digest) fields.refuse("it was changed: its digest is another one");
  Manifest manifest = manifest_of(fields, version == kDraftedSchema);
  manifest.digest = digest;
  return manifest;
}

Manifest read_whole(std::string folder) {
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  if (fs::is_regular_file(folder)) {
    fail(kArtifactError, folder + " is a file; a bundle is a folder", "unpack an archive first");
  }
  const std::string path = folder + "/" + kManifestFile;
  if (fs::is_symlink(fs::symlink_status(path))) fail(kArtifactError, path + " is a link", kExportAgain);
  Manifest manifest = parse_whole(read_file(path, kMaxManifestBytes), path);
  manifest.folder = folder;
  check_names_and_sizes(manifest);
  return manifest;
}

}  // namespace

int64_t Manifest::file_bytes() const {
  int64_t total = 0;
  for (const auto& [name, file] : files) total += file.n_bytes;
  return total;
}

// The digits of the manifest's own digest are taken as 0.
std::string seal_of(std::string text, const std::string& digest) {
  const size_t at = text.find(digest);
  if (at != std::string::npos) text.replace(at, digest.size(), "sha256:" + std::string(64, '0'));
  Sha256 state;
  state.add(text);
  return state.digest();
}

Result<Manifest> parse_manifest(const std::string& text, const std::string& name) {
  try {
    return parse_whole(text, name);
  } catch (const Failure& failure) {
    return failure.error();
  }
}

Result<Manifest> read_manifest(const std::string& folder) {
  try {
    return read_whole(folder);
  } catch (const Failure& failure) {
    return failure.error();
  } catch (const fs::filesystem_error& error) {
    return Error{kArtifactError, folder + " cannot be read: " + error.code().message(), kExportAgain};
  }
}

std::vector<int32_t> ranked_tokens(const Manifest& manifest) {
  const std::string path = manifest.path_of(kDraftTokensFile);
  const size_t n = static_cast<size_t>(manifest.draft.value().n_ranked);
  const std::string bytes = read_file(path, 4 * n);
  std::vector<int32_t> ids(n);
  for (size_t i = 0; 4 * i + 3 < bytes.size(); ++i)
    for (size_t byte = 4; byte-- > 0;)
      ids[i] = static_cast<int32_t>(static_cast<uint32_t>(ids[i]) << 8 | static_cast<uint8_t>(bytes[4 * i + byte]));
  const std::set<int32_t> kinds(ids.begin(), ids.end());
  if (bytes.size() != 4 * n || kinds.size() != n || *kinds.begin() < 0 || *kinds.rbegin() >= manifest.n_vocab) {
    fail(kArtifactError, path + " must name each token once, from 0 to " + std::to_string(manifest.n_vocab - 1),
         kExportAgain);
  }
  return ids;
}

std::optional<Error> check_digests(const Manifest& manifest) {
  for (const auto& [name, expected] : manifest.files) {
    const std::string path = manifest.path_of(name), found = digest_of_file(path);
    if (found != expected.sha256) {
      return Error{kArtifactError, path + " was changed: " + found + ", not " + expected.sha256, kExportAgain};
    }
  }
  return std::nullopt;
}

}  // namespace edgeinfer
