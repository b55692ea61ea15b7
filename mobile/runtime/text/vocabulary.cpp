#include "vocabulary.h"

#include <functional>
#include <queue>
#include <utility>

namespace edgeinfer {

namespace {

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
uint64_t mixed(uint64_t bits) {
  bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9u;
  bits = (bits ^ bits >> 27) * 0x94D049BB133111EBu;
  return bits ^ bits >> 31;
}

}  // namespace

bool Vocabulary::add(std::string_view text, int64_t id) {
  if (id < 0 || id >= kMaxTokens || texts_.size() + text.size() >= UINT32_MAX) return false;
  if (2 * (n_tokens_ + 1) > table_.size()) grow();
  const size_t slot = slot_of(text);
  if (table_[slot] != kNoToken) return false;
  if (static_cast<size_t>(id) >= places_.size()) places_.resize(static_cast<size_t>(id) + 1);
  Place& place = places_[static_cast<size_t>(id)];
  if (place.at != UINT32_MAX) return false;
  place = {static_cast<uint32_t>(texts_.size()), static_cast<uint32_t>(text.size())};
  texts_.append(text);
  table_[slot] = static_cast<int32_t>(id);
  ++n_tokens_;
  return true;
}

int32_t Vocabulary::id_of(std::string_view text) const { return table_.empty() ? kNoToken : table_[slot_of(text)]; }

std::string_view Vocabulary::text_of(int32_t id) const {
  if (id < 0 || id >= size() || places_[static_cast<size_t>(id)].at == UINT32_MAX) return {};
  const Place& place = places_[static_cast<size_t>(id)];
  return std::string_view(texts_).substr(place.at, place.size);
}

void Vocabulary::grow() {
  const std::vector<int32_t> before = std::exchange(table_, {});
  table_.assign(before.empty() ? 1024 : 2 * before.size(), kNoToken);
  for (int32_t id : before) {
    if (id != kNoToken) table_[slot_of(text_of(id))] = id;
  }
}

size_t Vocabulary::slot_of(std::string_view text) const {
  const size_t mask = table_.size() - 1;
  size_t slot = std::hash<std::string_view>()(text) & mask;
  while (table_[slot] != kNoToken && text_of(table_[slot]) != text) slot = (slot + 1) & mask;
  return slot;
}

void Merges::add(int32_t left, int32_t right, Merge merge) {
  if (2 * (n_pairs_ + 1) > table_.size()) grow();
  Entry& entry = table_[slot_of(pair_of(left, right))];
  n_pairs_ += entry.pair == UINT64_MAX;
  entry = {pair_of(left, right), merge};
}

Merge Merges::find(int32_t left, int32_t right) const {
  return table_.empty() ? Merge() : table_[slot_of(pair_of(left, right))].merge;
}

void Merges::grow() {
  const std::vector<Entry> before = std::exchange(table_, {});
  table_.resize(before.empty() ? 1024 : 2 * before.size());
  for (const Entry& entry : before) {
    if (entry.pair != UINT64_MAX) table_[slot_of(entry.pair)] = entry;
  }
}

size_t Merges::slot_of(uint64_t pair) const {
  const size_t mask = table_.size() - 1;
  size_t slot = mixed(pair) & mask;
  while (table_[slot].pair != UINT64_MAX && table_[slot].pair != pair) slot = (slot + 1) & mask;
  return slot;
}

void merge_all(const Merges& merges, std::vector<int32_t>& tokens) {
  struct Symbol {
    int32_t token;
    size_t previous, next;
  };
  struct Candidate {
    uint32_t rank;
    size_t left;
    int32_t left_token, right_token;
    int32_t result;

    bool operator<(const Candidate& other) const {  // std::priority_queue gives the largest
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  const size_t n = tokens.size();
  std::vector<Symbol> symbols(n);
  std::priority_queue<Candidate> queue;
  const auto consider = [&](size_t left, size_t right) {
    const Merge merge = merges.find(symbols[left].token, symbols[right].token);
    if (merge.rank == UINT32_MAX) return;
    queue.push({merge.rank, left, symbols[left].token, symbols[right].token, merge.result});
  };
  for (size_t i = 0; i < n; ++i) symbols[i] = {tokens[i], i - 1, i + 1};
  for (size_t i = 0; i + 1 < n; ++i) consider(i, i + 1);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.left];
    if (left.token != best.left_token || left.next >= n || symbols[left.next].token != best.right_token) continue;
    symbols[left.next].token = kNoToken;
    left.token = best.result;
    left.next = symbols[left.next].next;
    if (left.next < n) {
      symbols[left.next].previous = best.left;
      consider(best.left, left.next);
    }
    if (left.previous < n) consider(left.previous, best.left);
  }
  tokens.clear();
  for (const Symbol& symbol : symbols) {
    if (symbol.token != kNoToken) tokens.push_back(symbol.token);
  }
}

}  // namespace edgeinfer
