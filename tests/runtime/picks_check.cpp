// The sampler on cases from standard input, for comparing processors. Numbers are in the machine's own format:
//   n_rows, then for each its size and float32 logits
//   n_cases, then for each: 6 float64 and 2 int64 settings, the seed, the biases, its row, index and context
//   n, then float64 numbers
// Prints a pick for each case, then the bits of exp and log of each number.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "arithmetic.h"
#include "sampler.h"

using namespace edgeinfer;

namespace {

template <class T>
std::vector<T> read(int64_t n) {
  std::vector<T> out(static_cast<size_t>(n));
  if (std::fread(out.data(), sizeof(T), out.size(), stdin) != out.size()) std::exit(1);
  return out;
}

int64_t read_number() { return read<int64_t>(1)[0]; }

Sampling read_sampling() {
  const auto numbers = read<double>(6);
  Sampling how;
  how.temperature = numbers[0];
  how.top_p = numbers[1];
  how.min_p = numbers[2];
  how.repeat_penalty = numbers[3];
  how.presence_penalty = numbers[4];
  how.frequency_penalty = numbers[5];
  how.top_k = read_number();
  how.repeat_last_n = read_number();
  how.seed = static_cast<uint64_t>(read_number());
  for (int64_t n = read_number(); n > 0; --n) {
    const int32_t token = static_cast<int32_t>(read_number());
    how.logit_bias.emplace_back(token, read<double>(1)[0]);
  }
  return how;
}

uint64_t bits(double value) {
  uint64_t out;
  std::memcpy(&out, &value, sizeof out);
  return out;
}

}  // namespace

int main() {
  std::vector<std::vector<float>> rows;
  for (int64_t n = read_number(); n > 0; --n) rows.push_back(read<float>(read_number()));
  for (int64_t n = read_number(); n > 0; --n) {
    Sampler sampler(read_sampling());
    const std::vector<float>& row = rows[static_cast<size_t>(read_number())];
    const int64_t index = read_number();
    const Tokens context = read<int32_t>(read_number());
    std::printf("%d\n", sampler.pick(row.data(), static_cast<int64_t>(row.size()), index, context));
  }
  for (const double x : read<double>(read_number()))
    std::printf("%" PRIx64 " %" PRIx64 "\n", bits(portable_exp((x - 0.5) * 1300)), bits(portable_log(x)));
}
