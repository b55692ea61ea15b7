// The manifest of a bundle. edgeinfer/formats/manifest.py refuses an invalid one with the same cause; it also repeats
// the value that it received.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "../error.h"
#include "chat_pieces.h"

namespace edgeinfer {

struct BundleFile {
  int64_t n_bytes;
  std::string sha256;
};

struct Memory {
  int64_t packed_bytes;
  int64_t workspace_bytes;
  int64_t kv_bytes_per_position;
};

// A taught draft among the methods of the program. Its tokens are in kDraftTokensFile.
struct BundleDraft {
  std::string kind;  // of kDraftKinds
  int64_t exit_layer;
  std::vector<int32_t> taps;
  int64_t n_ranked;
  std::string base_model, license, source_sha256;
  std::vector<double> agreement;
};

struct Golden {
  std::vector<int32_t> prompt, answer;
  std::vector<double> logits, second_logits;
};

struct Method {
  std::vector<std::string> inputs, outputs;
};

struct Manifest {
  std::string folder;
  std::string digest;
  std::string name, base_model, license, source_sha256, tier, target, policy, kv_type, architecture;
  int64_t n_layers, n_heads, n_kv_heads, head_dim, hidden, n_ffn, n_vocab, limit;
  int64_t exit_layer, exact_rows;
  Memory memory;
  std::string bos_text, eos_text;
  std::vector<int32_t> stop_tokens;
  std::string runtime;
  std::map<std::string, Method> methods;
  std::map<std::string, std::string> operators, exporter;
  ChatPieces chat;
  std::map<std::string, BundleFile> files;
  std::vector<Golden> golden;
  std::optional<BundleDraft> draft;

  std::string path_of(const std::string& file) const { return folder + "/" + file; }
  int64_t file_bytes() const;
};

// In the order of ei_kv_type.
inline const std::vector<std::string> kKvTypes = {"f32", "f16", "q8_0"};
inline constexpr const char* kProgramFile = "model.pte";
inline constexpr const char* kTokenizerFile = "tokenizer.json";
inline constexpr const char* kDraftTokensFile = "draft_tokens.bin";

// Reads the text of a manifest, and looks at no other file. Errors call it `name`.
Result<Manifest> parse_manifest(const std::string& text, const std::string& name);
// The digest that a manifest's text should state. `digest` is the one that it does.
std::string seal_of(std::string text, const std::string& digest);
// Reads the manifest of the bundle in `folder`, and checks the names and sizes of its files.
Result<Manifest> read_manifest(const std::string& folder);
// The ids [n_ranked] among which the taught draft chooses. Throws Failure for ids that the model lacks.
std::vector<int32_t> ranked_tokens(const Manifest& manifest);
// The error for a file whose digest differs, if there is one. Reads every byte.
std::optional<Error> check_digests(const Manifest& manifest);

}  // namespace edgeinfer
