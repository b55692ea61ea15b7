// Answers prompts greedily with an exported program, for comparing processors:
//   processor_check PROGRAM PROMPTS N_TOKENS KV_TYPE LOGITS
// PROMPTS has a line of token ids for each prompt. Prints for each a line of N_TOKENS ids, with the lead of each, then
// the largest n for which 1 to n rows equal single rows bit for bit. LOGITS receives the row after each prompt,
// float32.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "engine.h"

namespace {

using Ids = std::vector<int64_t>;
using Logits = std::vector<float>;

constexpr ei_policy kPolicy{128, 16, 32, 512};  // small, so that a block ends within an answer
constexpr int64_t kMaxRows = 16;

void check(ei_code code, const ei_error& error) {
  if (code == EI_OK) return;
  std::fprintf(stderr, "%s\n", error.message);
  std::exit(1);
}

struct Conversation {
  const ei_info& info;
  ei_cache* cache = nullptr;
  int64_t length = 0;

  Conversation(ei_model* model, const ei_info& info) : info(info) {
    ei_error error;
    check(ei_cache_new(model, &kPolicy, &cache, &error), error);
  }
  ~Conversation() { ei_cache_free(cache); }

  // The rows after the last `n_rows` of `ids`.
  Logits run(const Ids& ids, int64_t n_rows) {
    Logits logits(static_cast<size_t>(n_rows * info.n_vocab));
    ei_error error;
    const int64_t n = static_cast<int64_t>(ids.size());
    check(ei_forward(cache, ids.data(), n, length, n_rows, logits.data(), &error), error);
    length += n;
    return logits;
  }

  int64_t room() const {
    return length < kPolicy.window ? kPolicy.window - length : kPolicy.block - length % kPolicy.block;
  }

  Logits prefill(const Ids& ids) {
    for (size_t at = 0;;) {
      const size_t n = std::min<size_t>({ids.size() - at, static_cast<size_t>(room()), 128});
      const Logits row = run(Ids(ids.begin() + at, ids.begin() + at + n), 1);
      if ((at += n) == ids.size()) return row;
    }
  }
};

int64_t argmax(const Logits& row) { return std::max_element(row.begin(), row.end()) - row.begin(); }

// How far the best logit is above the next.
double lead(Logits row, int64_t best) {
  const double highest = row[best];
  row[best] = row[best ? 0 : 1];
  return highest - *std::max_element(row.begin(), row.end());
}

int64_t exact_rows(ei_model* model, const ei_info& info, const Ids& ids) {
  Conversation one(model, info);
  std::vector<Logits> single;
  for (const int64_t id : ids) single.push_back(one.run({id}, 1));
  for (int64_t n = 2; n <= kMaxRows; ++n) {
    Conversation several(model, info);
    const Logits rows = several.run(Ids(ids.begin(), ids.begin() + n), n);
    for (int64_t row = 0; row < n; ++row)
      if (std::memcmp(&rows[row * info.n_vocab], single[row].data(), info.n_vocab * sizeof(float))) return n - 1;
  }
  return kMaxRows;
}

}  // namespace

int main(int, char** arguments) {
  ei_options options{sizeof options, 1, nullptr, std::atoi(arguments[4])};
  ei_model* model;
  ei_error error;
  check(ei_open(arguments[1], &options, &model, &error), error);
  ei_info info;
  ei_describe(model, &info);
  std::ifstream prompts(arguments[2]);
  std::ofstream out(arguments[5], std::ios::binary);
  Ids first;
  for (std::string line; std::getline(prompts, line);) {
    std::istringstream words(line);
    Ids ids;
    for (int64_t id; words >> id;) ids.push_back(id);
    Conversation conversation(model, info);
    Logits row = conversation.prefill(ids);
    out.write(reinterpret_cast<const char*>(row.data()), static_cast<std::streamsize>(row.size() * sizeof(float)));
    for (int i = 0; i < std::atoi(arguments[3]); ++i) {
      const int64_t best = argmax(row);
      std::printf("%lld:%g ", static_cast<long long>(best), lead(row, best));
      row = conversation.run({best}, 1);
    }
    std::printf("\n");
    first.insert(first.end(), ids.begin(), ids.end());
  }
  first.resize(kMaxRows);
  std::printf("%lld\n", static_cast<long long>(exact_rows(model, info, first)));
  ei_close(model);
}
