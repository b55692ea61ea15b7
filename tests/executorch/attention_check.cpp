// Every query of a tile against the same query alone (equal bits) and against attention in float64 (close).
// Prints the first difference and exits with 1.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "attention.h"

using edgeinfer::AttendTile;
using edgeinfer::AttentionTile;
using Floats = std::vector<float>;

namespace {

constexpr double kTolerance = 2e-5;  // of values of standard deviation 1

struct Problem {
  int head_dim;
  Floats queries, keys, values;
  std::vector<int> n_keys;

  Problem(int head_dim, int n_queries, int n_first, std::mt19937& random) : head_dim(head_dim) {
    const int n_slots = n_first + n_queries;
    std::normal_distribution<float> normal;
    for (Floats* part : {&keys, &values}) {
      part->resize(static_cast<size_t>(n_slots) * head_dim);
      for (float& value : *part) value = normal(random);
    }
    queries.resize(static_cast<size_t>(n_queries) * head_dim);
    for (float& value : queries) value = normal(random);
    for (int i = 0; i < n_queries; ++i) n_keys.push_back(n_first + i);
  }

  Floats attend(AttendTile tile, int first, int n) const {
    std::vector<int32_t> slots;
    for (int slot = 0; slot < n_keys[first + n - 1]; ++slot) slots.push_back(slot);
    while (slots.size() % edgeinfer::kLanes) slots.push_back(slots.back());
    Floats out(static_cast<size_t>(n) * head_dim), scores(n * slots.size());
    std::vector<float*> rows;
    for (int i = 0; i < n; ++i) rows.push_back(&out[static_cast<size_t>(i) * head_dim]);
    tile({&queries[static_cast<size_t>(first) * head_dim], &n_keys[first], n, slots.data(),
          static_cast<int>(slots.size()), keys.data(), values.data(), head_dim, head_dim, scores.data(),
          static_cast<int64_t>(slots.size()), rows.data()});
    return out;
  }

  std::vector<double> expected(int query) const {
    std::vector<double> weights, out(head_dim);
    double highest = -1e300, total = 0;
    for (int key = 0; key < n_keys[query]; ++key) {
      double score = 0;
      for (int d = 0; d < head_dim; ++d) score += double{queries[query * head_dim + d]} * keys[key * head_dim + d];
      weights.push_back(score);
      highest = std::fmax(highest, score);
    }
    for (double& weight : weights) total += weight = std::exp(weight - highest);
    for (int key = 0; key < n_keys[query]; ++key)
      for (int d = 0; d < head_dim; ++d) out[d] += weights[key] / total * values[key * head_dim + d];
    return out;
  }
};

bool check(const char* name, AttendTile tile, int head_dim, int n_queries, int n_first) {
  std::mt19937 random(1);
  const Problem problem(head_dim, n_queries, n_first, random);
  const Floats together = problem.attend(tile, 0, n_queries);
  for (int query = 0; query < n_queries; ++query) {
    const float* got = &together[static_cast<size_t>(query) * head_dim];
    const Floats alone = problem.attend(tile, query, 1);
    const bool equal = std::memcmp(alone.data(), got, head_dim * sizeof(float)) == 0;
    double worst = 0;
    const std::vector<double> expected = problem.expected(query);
    for (int d = 0; d < head_dim; ++d) worst = std::fmax(worst, std::fabs(expected[d] - got[d]));
    if (equal && worst < kTolerance) continue;
    std::printf("%s: query %d of %d, head_dim %d, %d keys: %s; off by %.1e\n", name, query, n_queries, head_dim,
                problem.n_keys[query], equal ? "as alone" : "not as alone", worst);
    return false;
  }
  return true;
}

}  // namespace

int main() {
  bool good = true;
  for (const int head_dim : {8, 24, 32, 64, 80, 128})
    for (const int n_queries : {1, 2, 3, 5, 6, 7, 12})
      for (const int n_first : {1, 5, 8, 37, 200}) {
        good = good && check("portable", edgeinfer::attend_tile_portable, head_dim, n_queries, n_first);
        good = good && check("fastest here", edgeinfer::attend_tile(), head_dim, n_queries, n_first);
      }
  return good ? 0 : 1;
}
