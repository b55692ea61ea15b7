// The manifest of a bundle: edgeinfer/formats/manifest.py. What does not fit it is refused with the same cause there
// and here, but for the value that was received, which is not repeated here.
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

  std::string path_of(const std::string& file) const { return folder + "/" + file; }
  int64_t file_bytes() const;
};

inline const char* const kProgramFile = "model.pte";
inline const char* const kTokenizerFile = "tokenizer.json";

// Reads the text of a manifest; `name` stands for its file in errors. The files beside it are not looked at.
Result<Manifest> parse_manifest(const std::string& text, const std::string& name);
// What the digest of a manifest's text should be: `digest` is the one that it states.
std::string seal_of(std::string text, const std::string& digest);
// Reads the manifest of the bundle in `folder` and holds the files to it by name and size.
Result<Manifest> read_manifest(const std::string& folder);
// Nothing, or the file whose digest is another one. Reads every byte.
std::optional<Error> check_digests(const Manifest& manifest);

}  // namespace edgeinfer
