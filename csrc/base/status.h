#pragma once

// base [layer 0]: words that every room uses - status, clock, histogram. Includes only the standard
// library.

#include <cassert>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace servolley {

// The one error vocabulary. The first seventeen are gRPC's canonical codes with their numbers; the
// rest refine one of them for HTTP, where a more exact status exists (see http_status and
// grpc_code).
enum class Code : std::uint8_t {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
  kTooLarge = 17,          // a size limit of ours: HTTP 413, gRPC RESOURCE_EXHAUSTED
  kUnsupportedMedia = 18,  // an encoding that we do not read: HTTP 415, gRPC UNIMPLEMENTED
  kMethodNotAllowed = 19,  // a known path with the wrong verb: HTTP 405, gRPC UNIMPLEMENTED
  kRequestTimeout = 20,    // the peer was too slow to send: HTTP 408, gRPC DEADLINE_EXCEEDED
  kHeadersTooLarge = 21,   // HTTP 431, gRPC RESOURCE_EXHAUSTED
  kUriTooLong = 22,        // HTTP 414, gRPC INVALID_ARGUMENT
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

// The canonical gRPC code number (0..16) of a code.
int grpc_code(Code code);
// The HTTP status of a code, the same for every dialect.
int http_status(Code code);
// The canonical name in capitals ("INVALID_ARGUMENT"), as TensorFlow Serving prints and labels it.
std::string_view code_name(Code code);

inline Status invalid_argument(std::string message) {
  return {Code::kInvalidArgument, std::move(message)};
}
inline Status not_found(std::string message) { return {Code::kNotFound, std::move(message)}; }
inline Status internal_error(std::string message) { return {Code::kInternal, std::move(message)}; }
inline Status too_large(std::string message) { return {Code::kTooLarge, std::move(message)}; }
inline Status unavailable(std::string message) { return {Code::kUnavailable, std::move(message)}; }

// A value or the status that says why there is none. Member names follow std::expected.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit by design
  Result(Status error) : state_(std::in_place_index<1>, std::move(error)) {  // NOLINT
    assert(!std::get<1>(state_).ok());
  }

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  const Status& error() const& { return std::get<1>(state_); }
  Status&& error() && { return std::get<1>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace servolley

// Returns the status of `expr` from the enclosing function unless it is OK.
#define SERVOLLEY_TRY(expr)                                         \
  do {                                                              \
    if (auto servolley_status_ = (expr); !servolley_status_.ok()) { \
      return servolley_status_;                                     \
    }                                                               \
  } while (false)
