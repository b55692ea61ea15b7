// What the kernels for repacked matrices share.

#pragma once

#include <algorithm>
#include <cstring>

#include "kernels.h"

constexpr int64_t SIDE = 8;  // matrix rows side by side

struct Panel {  // rows of the matrix, and the inputs that they are multiplied with together
    int64_t row, n_rows, input;
};

inline int64_t load_8(const char *bytes) {
    int64_t value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

// Panels of `most_together` inputs, and of four for the rest, over a few rows of the matrix that stay in the cache
// meanwhile. Calls multiply(panel, whether it has `most_together` inputs).
template <class Multiply>
void for_each_panel(const RepackedProduct &product, int64_t most_together, const Multiply &multiply) {
    constexpr int64_t ROWS = 64;
    for (int64_t row = 0; row < product.n_rows; row += ROWS) {
        for (int64_t input = 0; input < product.n_inputs;) {
            const bool most = product.n_inputs - input >= most_together;
            multiply(Panel{row, std::min(ROWS, product.n_rows - row), input}, most);
            input += most ? most_together : 4;
        }
    }
}
