// e^x and the natural logarithm with the same bits on every processor: edgeinfer/decode/arithmetic.py, operation by
// operation. Compile with -ffp-contract=off.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace edgeinfer {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2High = 2977044471.0 / 4294967296.0;  // 32 bits of ln 2: a product with an exponent is exact
constexpr double kLn2Low = 1.9082149292705877e-10;
constexpr double kRootHalf = 0.7071067811865476;
constexpr int kExpTerms = 13;
constexpr int kLogTerms = 10;
constexpr double kFactorials[] = {1,    1,     2,      6,       24,       120,       720,
                                  5040, 40320, 362880, 3628800, 39916800, 479001600, 6227020800};

// For |x| < 700, within 1 ulp.
inline double portable_exp(double x) {
  constexpr double kToInteger = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  const double n = (x * kLog2E + kToInteger) - kToInteger;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double total = 1 / kFactorials[kExpTerms];
  for (int k = kExpTerms - 1; k >= 0; --k) total = total * r + 1 / kFactorials[k];
  const int64_t bits = (static_cast<int64_t>(n) + 1023) << 52;
  double power_of_two;
  std::memcpy(&power_of_two, &bits, sizeof bits);
  return total * power_of_two;
}

// For normal x > 0, within 2 ulp.
inline double portable_log(double x) {
  int n;
  double m = std::frexp(x, &n);
  if (m < kRootHalf) {
    m = 2 * m;
    --n;
  }
  const double exponent = n, f = m - 1, s = f / (2 + f), z = s * s;
  double total = 1.0 / (2 * kLogTerms + 1);
  for (int k = kLogTerms - 1; k > 0; --k) total = total * z + 1.0 / (2 * k + 1);
  const double rest = 2 * s + 2 * s * (z * total);
  return exponent * kLn2High + (exponent * kLn2Low + rest);
}

}  // namespace edgeinfer
