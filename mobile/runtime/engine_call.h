// Calls of engine/engine.h, with their errors as Failure.
#pragma once

#include "engine/engine.h"
#include "error.h"

namespace edgeinfer {

inline void check(ei_code code, const ei_error& error, const char* hint = "") {
  if (code != EI_OK) fail(code, error.message, hint);
}

template <class Function, class... Arguments>
void call(Function function, Arguments... arguments) {
  ei_error error{};
  check(function(arguments..., &error), error);
}

}  // namespace edgeinfer
