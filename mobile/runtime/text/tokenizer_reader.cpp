// Reads tokenizer.json. Every part is either taken as the `tokenizers` library means it, or refused by its name.
#include "../error.h"
#include "byte_alphabet.h"
#include "file.h"
#include "json.h"
#include "tokenizer.h"
#include "unicode.h"

namespace edgeinfer {

namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

std::string_view text_at(Json object, std::string_view key) {
  const std::optional<Json> found = object.find(key);
  return found && found->is(JsonKind::text) ? found->text() : std::string_view();
}

bool is_true_at(Json object, std::string_view key) {
  const std::optional<Json> found = object.find(key);
  return found && found->is_true();
}

bool is_null_at(Json object, std::string_view key) {
  const std::optional<Json> found = object.find(key);
  return !found || found->is(JsonKind::null);
}

}  // namespace

class TokenizerReader {
 public:
  TokenizerReader(Tokenizer& tokenizer, const std::string& name)
      : tokenizer_(tokenizer), rules_(tokenizer.rules_), name_(name) {}

  void read(Json root) {
    for (const char* key : {"truncation", "padding"}) {
      if (!is_null_at(root, key)) refuse("it sets", key);
    }
    const std::optional<Json> model = root.find("model");
    if (!model) broken("it has no model");
    if (!is_null_at(root, "normalizer")) normalizer(*root.find("normalizer"));
    if (!is_null_at(root, "pre_tokenizer")) splitting(*root.find("pre_tokenizer"));
    read_model(*model);
    if (const std::optional<Json> tokens = root.find("added_tokens")) added(*tokens);
  }

 private:
  [[noreturn]] void broken(const std::string& what) const { fail(kArtifactError, name_ + ": " + what, kExportAgain); }

  [[noreturn]] void refuse(const char* what, std::string_view kind) const {
    broken(std::string(what) + " `" + std::string(kind.substr(0, 60)) + "`, which is not read on a phone");
  }

  void normalizer(Json step) {
    has_normalizer_ = true;
    const std::string_view type = text_at(step, "type");
    if (type == "Sequence") {
      if (const std::optional<Json> steps = step.find("normalizers")) {
        for (Json inner : steps->items()) normalizer(inner);
      }
    } else if (type == "Prepend" && text_at(step, "prepend") == kSpaceMark) {
      rules_.lead = TokenizerRules::Lead::every_stretch;
    } else if (type == "Replace" && text_at(step, "content") == kSpaceMark && step.find("pattern") &&
               text_at(*step.find("pattern"), "String") == " ") {
      rules_.replaces_spaces = true;
    } else if (type == "NFC") {
      rules_.composes = true;
    } else {
      refuse("its normalizer is", type);
    }
  }

  void splitting(Json step) {
    const std::string_view type = text_at(step, "type");
    if (is_split_) refuse("after the last step that is known it splits with", type);
    if (type == "Sequence") {
      if (const std::optional<Json> steps = step.find("pretokenizers")) {
        for (Json inner : steps->items()) splitting(inner);
      }
    } else if (type == "Split") {
      pattern(step);
    } else if (type == "Digits" && is_true_at(step, "individual_digits")) {
      rules_.splits.push_back({SplitRule::Kind::unicode_digits});
    } else if (type == "ByteLevel" && !is_true_at(step, "add_prefix_space")) {
      is_split_ = rules_.is_byte_level = true;
      if (is_true_at(step, "use_regex")) rules_.splits.push_back({SplitRule::Kind::gpt2});
    } else if (type == "Metaspace" && text_at(step, "replacement") == kSpaceMark) {
      is_split_ = true;
      metaspace(step);
    } else {
      refuse("its pre-tokenizer is", type);
    }
  }

  void pattern(Json step) {
    const std::optional<Json> found = step.find("pattern");
    const std::string_view regex = found ? text_at(*found, "Regex") : "";
    const std::optional<SplitRule> rule = rule_of_pattern(regex);
    if (!rule) refuse("it splits by", regex);
    if (text_at(step, "behavior") != "Isolated" || is_true_at(step, "invert")) refuse("it splits as", "behavior");
    rules_.splits.push_back(*rule);
  }

  void metaspace(Json step) {
    using Lead = TokenizerRules::Lead;
    const std::string_view scheme = text_at(step, "prepend_scheme");
    rules_.replaces_spaces = true;
    rules_.splits_at_spaces = is_true_at(step, "split");
    rules_.lead = scheme == "always" ? Lead::bare_stretches : scheme == "first" ? Lead::first_stretch : Lead::nowhere;
  }

  void read_model(Json model) {
    if (text_at(model, "type") != "BPE") refuse("its model is", text_at(model, "type"));
    for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!is_null_at(model, key) && !text_at(model, key).empty()) refuse("its model has", key);
      if (!is_null_at(model, key) && !model.find(key)->is(JsonKind::text)) refuse("its model has", key);
    }
    rules_.has_byte_fallback = is_true_at(model, "byte_fallback");
    rules_.takes_whole_words = is_true_at(model, "ignore_merges");
    rules_.fuses_unknown = is_true_at(model, "fuse_unk");
    if (rules_.composes && rules_.replaces_spaces) refuse("beside `NFC` it has", "Replace");
    if (rules_.is_byte_level && (rules_.replaces_spaces || rules_.has_byte_fallback)) {
      refuse("beside `ByteLevel` it has", rules_.has_byte_fallback ? "byte_fallback" : "Replace");
    }
    if (rules_.lead != TokenizerRules::Lead::nowhere && !rules_.replaces_spaces) refuse("its normalizer is", "Prepend");
    if (const std::optional<Json> vocabulary = model.find("vocab")) read_vocabulary(*vocabulary);
    if (const std::optional<Json> pairs = model.find("merges")) read_merges(*pairs);
    if (is_null_at(model, "unk_token")) return;
    rules_.unknown = tokenizer_.vocabulary_.id_of(text_at(model, "unk_token"));
    if (rules_.unknown == kNoToken) broken("`unk_token` is not in the vocabulary");
  }

  void read_vocabulary(Json vocabulary) {
    for_each_member(vocabulary, [&](std::string_view text, Json id) {
      if (!tokenizer_.vocabulary_.add(text, id.integer().value_or(-1))) {
        broken("the token `" + std::string(text.substr(0, 40)) + "` has no id of its own");
      }
    });
    static const char kHex[] = "0123456789ABCDEF";
    for (uint32_t byte = 0; byte < 256; ++byte) {
      std::string name = {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
      if (rules_.is_byte_level) append_utf8(name = "", character_of_byte(byte));
      tokenizer_.byte_tokens_[byte] = tokenizer_.vocabulary_.id_of(name);
      if (rules_.has_byte_fallback && tokenizer_.byte_tokens_[byte] == kNoToken) broken("it has no token " + name);
    }
  }

  void read_merges(Json pairs) {
    uint32_t rank = 0;
    std::string both;
    for (Json pair : pairs.items()) {
      const Json::Items items = pair.items();
      auto at = items.begin();
      if (!pair.is(JsonKind::array) || pair.n_items() != 2) broken("merge " + std::to_string(rank) + " is not a pair");
      const std::string_view left = (*at).text();
      ++at;
      const std::string_view right = (*at).text();
      const Vocabulary& vocabulary = tokenizer_.vocabulary_;
      both.assign(left).append(right);
      const int32_t ids[] = {vocabulary.id_of(left), vocabulary.id_of(right), vocabulary.id_of(both)};
      if (ids[0] == kNoToken || ids[1] == kNoToken || ids[2] == kNoToken) {
        broken("merge " + std::to_string(rank) + " names a token that is not in the vocabulary");
      }
      tokenizer_.merges_.add(ids[0], ids[1], {rank++, ids[2]});
    }
  }

  void added(Json tokens) {
    for (Json token : tokens.items()) {
      const std::string_view text = text_at(token, "content");
      const int64_t id = token.find("id") ? token.find("id")->integer().value_or(-1) : -1;
      if (text.empty() || id < 0 || id >= Vocabulary::kMaxTokens) broken("an added token has no text or no id");
      for (const char* key : {"single_word", "lstrip", "rstrip"}) {
        if (is_true_at(token, key)) refuse("an added token has", key);
      }
      const bool is_normalized = is_true_at(token, "normalized");
      if (is_normalized && has_normalizer_) refuse("an added token has", "normalized");
      const int32_t known = tokenizer_.vocabulary_.id_of(text);
      const bool is_free = tokenizer_.vocabulary_.text_of(static_cast<int32_t>(id)).empty();
      if (known != id && (known != kNoToken || !is_free)) {
        broken("the added token `" + std::string(text.substr(0, 40)) + "` has the id of another one");
      }
      tokenizer_.added_.add({static_cast<int32_t>(id), std::string(text), is_true_at(token, "special"), is_normalized});
    }
  }

  Tokenizer& tokenizer_;
  TokenizerRules& rules_;
  const std::string name_;
  bool has_normalizer_ = false;
  bool is_split_ = false;  // by a step that must be the last
};

Result<Tokenizer> Tokenizer::parse(std::string json, const std::string& name) {
  try {
    const std::optional<JsonDocument> document = JsonDocument::parse(std::move(json));
    if (!document) fail(kArtifactError, name + " is not JSON", kExportAgain);
    Tokenizer tokenizer;
    TokenizerReader(tokenizer, name).read(document->root());
    return tokenizer;
  } catch (const Failure& failure) {
    return failure.error();
  }
}

Result<Tokenizer> Tokenizer::read(const std::string& path) {
  try {
    return parse(read_file(path, kMaxFileBytes), path);
  } catch (const Failure& failure) {
    return failure.error();
  }
}

}  // namespace edgeinfer
