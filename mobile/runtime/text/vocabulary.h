// The tokens of a model by text, and the pairs that merge.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace edgeinfer {

constexpr int32_t kNoToken = -1;

// Texts and ids of at most `kMaxTokens` tokens, in one block of memory. Ids need not be dense.
class Vocabulary {
 public:
  static constexpr int32_t kMaxTokens = 1 << 22;

  // False when the text or the id is taken, or the id is too large.
  bool add(std::string_view text, int64_t id);
  int32_t id_of(std::string_view text) const;                            // kNoToken
  std::string_view text_of(int32_t id) const;                            // "" for an id without a text
  int32_t size() const { return static_cast<int32_t>(places_.size()); }  // the largest id + 1

 private:
  struct Place {
    uint32_t at = UINT32_MAX;  // in `texts_`
    uint32_t size = 0;
  };

  void grow();
  size_t slot_of(std::string_view text) const;

  std::string texts_;
  std::vector<Place> places_;   // by id
  std::vector<int32_t> table_;  // ids by hash of their text; kNoToken: free
  size_t n_tokens_ = 0;
};

struct Merge {
  uint32_t rank = UINT32_MAX;  // lower ranks merge first
  int32_t result = kNoToken;
};

class Merges {
 public:
  // A pair that comes again keeps its last rank, as in the `tokenizers` library.
  void add(int32_t left, int32_t right, Merge merge);
  Merge find(int32_t left, int32_t right) const;  // rank UINT32_MAX: they do not merge

 private:
  struct Entry {
    uint64_t pair = UINT64_MAX;
    Merge merge;
  };

  void grow();
  size_t slot_of(uint64_t pair) const;

  std::vector<Entry> table_;
  size_t n_pairs_ = 0;
};

// Merges neighbors in `tokens`, the lowest rank first and of equal ranks the leftmost, until none merges.
void merge_all(const Merges& merges, std::vector<int32_t>& tokens);

}  // namespace edgeinfer
