// Unicode's form NFC: letters and their marks as one character where there is one.
#pragma once

#include <string>
#include <string_view>

namespace edgeinfer {

// `text`, which is UTF-8, in NFC by the Unicode that the `tokenizers` library has.
std::string composed(std::string_view text);

}  // namespace edgeinfer
