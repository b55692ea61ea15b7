// Every query of a tile against the same query alone (equal bits) and against attention in float64 (close).
// Prints the first difference and exits with 1.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "attention.h"

namespace engine = edgeinfer::engine;
using engine::AttendTile;
using engine::AttentionTile;
using engine::KvType;
using Floats = std::vector<float>;

namespace {

constexpr double kTolerance = 2e-5;  // of values of standard deviation 1
constexpr const char* kNames[] = {"f32", "f16", "q8"};
constexpr double kRounding[] = {0, 0x1p-11, 1 / 254.0 + 1e-6};  // f16: of the value; q8: of the row's largest value

// Rows as the engine keeps them, and what they stand for.
struct Kept {
  std::vector<char> rows;
  Floats values;

  Kept(KvType type, int head_dim, const Floats& from) : values(from.size()) {
    const int64_t n = static_cast<int64_t>(from.size()) / head_dim, size = engine::row_bytes(type, head_dim);
    rows.resize(static_cast<size_t>(n * size));
    for (int64_t row = 0; row < n; ++row) {
      engine::store_row(type, &from[row * head_dim], head_dim, &rows[row * size]);
      for (int d = 0; d < head_dim; ++d) values[row * head_dim + d] = value(type, &rows[row * size], head_dim, d);
    }
  }

  static float value(KvType type, const char* row, int head_dim, int d) {
    float out;
    if (type == KvType::q8) {
      std::memcpy(&out, row + head_dim, sizeof out);
      return out * static_cast<int8_t>(row[d]);
    }
    if (type == KvType::f32) {
      std::memcpy(&out, row + 4 * d, sizeof out);
      return out;
    }
    uint16_t half;
    std::memcpy(&half, row + 2 * d, sizeof half);
    out = std::ldexp(static_cast<float>(1024 | (half & 1023)), (half >> 10 & 31) - 25);
    if (!(half >> 10 & 31)) out = 0;
    return half >> 15 ? -out : out;
  }
};

bool check_rounding(KvType type) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  Floats values(4096);
  for (float& value : values) value = normal(random) * std::exp(4 * normal(random));
  values[0] = 1e6f, values[8] = 0, values[9] = 1e-6f, values[10] = 65504, values[11] = -1e6f;
  const Kept kept(type, 8, values);
  for (size_t i = 0; i < values.size(); ++i) {
    float largest = 0;
    for (size_t j = i / 8 * 8; j < i / 8 * 8 + 8; ++j) largest = std::fmax(largest, std::fabs(values[j]));
    const double wanted = type == KvType::f16 ? std::fmin(std::fmax(values[i], -65504.0f), 65504.0f) : values[i];
    const double scale = type == KvType::f16 ? std::fabs(wanted) : largest;
    const double least = type == KvType::f16 ? 0x1p-14 : 0;
    if (std::fabs(kept.values[i] - wanted) <= scale * kRounding[static_cast<int>(type)] + least) continue;
    std::printf("%s: %g is kept as %g; off by more than its rounding\n", kNames[static_cast<int>(type)], values[i],
                kept.values[i]);
    return false;
  }
  return true;
}

struct Problem {
  KvType type;
  int head_dim;
  Floats queries;
  std::vector<int> n_keys;
  Kept keys, values;

  Problem(KvType type, int head_dim, int n_queries, int n_first, std::mt19937& random)
      : type(type),
        head_dim(head_dim),
        queries(normals(n_queries * head_dim, random)),
        keys(type, head_dim, normals((n_first + n_queries) * head_dim, random)),
        values(type, head_dim, normals((n_first + n_queries) * head_dim, random)) {
    for (int i = 0; i < n_queries; ++i) n_keys.push_back(n_first + i);
  }

  static Floats normals(int n, std::mt19937& random) {
    std::normal_distribution<float> normal;
    Floats out(static_cast<size_t>(n));
    for (float& value : out) value = normal(random);
    return out;
  }

  Floats attend(AttendTile tile, int first, int n) const {
    std::vector<int32_t> slots;
    for (int slot = 0; slot < n_keys[first + n - 1]; ++slot) slots.push_back(slot);
    while (slots.size() % edgeinfer::kLanes) slots.push_back(slots.back());
    Floats out(static_cast<size_t>(n) * head_dim), scores(n * slots.size());
    std::vector<float*> rows;
    for (int i = 0; i < n; ++i) rows.push_back(&out[static_cast<size_t>(i) * head_dim]);
    tile({&queries[static_cast<size_t>(first) * head_dim], &n_keys[first], n, slots.data(),
          static_cast<int>(slots.size()), type, keys.rows.data(), values.rows.data(), head_dim, scores.data(),
          static_cast<int64_t>(slots.size()), rows.data()});
    return out;
  }

  std::vector<double> expected(int query) const {
    std::vector<double> weights, out(head_dim);
    double highest = -1e300, total = 0;
    for (int key = 0; key < n_keys[query]; ++key) {
      double score = 0;
      for (int d = 0; d < head_dim; ++d)
        score += double{queries[query * head_dim + d]} * keys.values[key * head_dim + d];
      weights.push_back(score);
      highest = std::fmax(highest, score);
    }
    for (double& weight : weights) total += weight = std::exp(weight - highest);
    for (int key = 0; key < n_keys[query]; ++key)
      for (int d = 0; d < head_dim; ++d) out[d] += weights[key] / total * values.values[key * head_dim + d];
    return out;
  }
};

bool check(const char* name, AttendTile tile, KvType type, int head_dim, int n_queries, int n_first) {
  std::mt19937 random(1);
  const Problem problem(type, head_dim, n_queries, n_first, random);
  const Floats together = problem.attend(tile, 0, n_queries);
  for (int query = 0; query < n_queries; ++query) {
    const float* got = &together[static_cast<size_t>(query) * head_dim];
    const Floats alone = problem.attend(tile, query, 1);
    const bool equal = std::memcmp(alone.data(), got, head_dim * sizeof(float)) == 0;
    double worst = 0;
    const std::vector<double> expected = problem.expected(query);
    for (int d = 0; d < head_dim; ++d) worst = std::fmax(worst, std::fabs(expected[d] - got[d]));
    if (equal && worst < kTolerance) continue;
    std::printf("%s, %s: query %d of %d, head_dim %d, %d keys: %s; off by %.1e\n", name,
                kNames[static_cast<int>(type)], query, n_queries, head_dim, problem.n_keys[query],
                equal ? "as alone" : "not as alone", worst);
    return false;
  }
  return true;
}

}  // namespace

int main() {
  bool good = true;
  for (const KvType type : {KvType::f32, KvType::f16, KvType::q8}) {
    good = good && check_rounding(type);
    for (const int head_dim : {8, 24, 32, 64, 80, 128})
      for (const int n_queries : {1, 2, 3, 5, 6, 7, 12})
        for (const int n_first : {1, 5, 8, 37, 200}) {
          good = good && check("portable", engine::attend_tile_portable, type, head_dim, n_queries, n_first);
          good = good && check("fastest here", engine::attend_tile(), type, head_dim, n_queries, n_first);
        }
  }
  return good ? 0 : 1;
}
