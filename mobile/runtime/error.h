// Errors, as in edgeinfer/errors.py. Thrown inside the library, returned by the C interface.
#pragma once

#include <exception>
#include <new>
#include <string>
#include <utility>
#include <variant>

namespace edgeinfer {

// The exit codes of the errors of the same name in edgeinfer/errors.py.
constexpr int kUsageError = 2;     // an invalid value, prompt or call
constexpr int kBackendError = 3;   // the engine cannot run here
constexpr int kArtifactError = 4;  // a file of the bundle is missing, damaged, or of another version
constexpr int kEngineError = 70;   // the engine failed while loading or decoding

// `cause` is one line with values and units; `hint` says what to do about it, and may be empty.
struct Error {
  int code;
  std::string cause;
  std::string hint;
};

class Failure : public std::exception {
 public:
  explicit Failure(Error error) : error_(std::move(error)) {}
  const char* what() const noexcept override { return error_.cause.c_str(); }
  const Error& error() const { return error_; }

 private:
  Error error_;
};

[[noreturn]] inline void fail(int code, std::string cause, std::string hint = "") {
  throw Failure(Error{code, std::move(cause), std::move(hint)});
}

// The error that a catch block is handling.
inline Error current_error() {
  try {
    throw;
  } catch (const Failure& failure) {
    return failure.error();
  } catch (const std::bad_alloc&) {
    return {kEngineError, "there is not enough memory", ""};
  } catch (const std::exception& failure) {
    return {kEngineError, failure.what(), ""};
  } catch (...) {
    return {kEngineError, "an unknown failure", ""};
  }
}

// Runs a clean-up in a catch block. Its own failure must not hide the one that is being handled.
template <class Body>
void clean_up(const Body& body) noexcept {
  try {
    body();
  } catch (...) {
  }
}

// A value or an error.
template <class T>
class Result {
 public:
  Result(T value) : state_(std::move(value)) {}
  Result(Error error) : state_(std::move(error)) {}

  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return std::get<Error>(state_); }
  T& operator*() { return std::get<T>(state_); }
  const T& operator*() const { return std::get<T>(state_); }
  T* operator->() { return &std::get<T>(state_); }
  const T* operator->() const { return &std::get<T>(state_); }

  // The value. Throws Failure if there is none.
  T take() && {
    if (!ok()) throw Failure(error());
    return std::move(std::get<T>(state_));
  }

 private:
  std::variant<T, Error> state_;
};

}  // namespace edgeinfer
