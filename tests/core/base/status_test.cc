#include "base/status.h"

#include <doctest/doctest.h>

#include <memory>
#include <set>
#include <string>

using namespace servolley;

TEST_CASE("every code maps to a gRPC code, an HTTP status and a name") {
  const struct {
    Code code;
    int grpc;
    int http;
    const char* name;
  } rows[] = {
      {Code::kOk, 0, 200, "OK"},
      {Code::kCancelled, 1, 499, "CANCELLED"},
      {Code::kUnknown, 2, 500, "UNKNOWN"},
      {Code::kInvalidArgument, 3, 400, "INVALID_ARGUMENT"},
      {Code::kDeadlineExceeded, 4, 504, "DEADLINE_EXCEEDED"},
      {Code::kNotFound, 5, 404, "NOT_FOUND"},
      {Code::kAlreadyExists, 6, 409, "ALREADY_EXISTS"},
      {Code::kPermissionDenied, 7, 403, "PERMISSION_DENIED"},
      {Code::kResourceExhausted, 8, 429, "RESOURCE_EXHAUSTED"},
      {Code::kFailedPrecondition, 9, 400, "FAILED_PRECONDITION"},
      {Code::kAborted, 10, 409, "ABORTED"},
      {Code::kOutOfRange, 11, 400, "OUT_OF_RANGE"},
      {Code::kUnimplemented, 12, 501, "UNIMPLEMENTED"},
      {Code::kInternal, 13, 500, "INTERNAL"},
      {Code::kUnavailable, 14, 503, "UNAVAILABLE"},
      {Code::kDataLoss, 15, 500, "DATA_LOSS"},
      {Code::kUnauthenticated, 16, 401, "UNAUTHENTICATED"},
      {Code::kTooLarge, 8, 413, "RESOURCE_EXHAUSTED"},
      {Code::kUnsupportedMedia, 12, 415, "UNIMPLEMENTED"},
      {Code::kMethodNotAllowed, 12, 405, "UNIMPLEMENTED"},
      {Code::kRequestTimeout, 4, 408, "DEADLINE_EXCEEDED"},
      {Code::kHeadersTooLarge, 8, 431, "RESOURCE_EXHAUSTED"},
      {Code::kUriTooLong, 3, 414, "INVALID_ARGUMENT"},
  };
  std::set<Code> seen;
  for (const auto& row : rows) {
    CAPTURE(std::string(row.name));
    CHECK(grpc_code(row.code) == row.grpc);
    CHECK(http_status(row.code) == row.http);
    CHECK(code_name(row.code) == row.name);
    // The canonical codes carry gRPC's numbers.
    if (static_cast<int>(row.code) <= 16) CHECK(static_cast<int>(row.code) == row.grpc);
    seen.insert(row.code);
  }
  CHECK(seen.size() == static_cast<std::size_t>(Code::kUriTooLong) + 1);
}

TEST_CASE("a result is a value or an error, also for values that only move") {
  Result<std::unique_ptr<int>> value = std::make_unique<int>(7);
  REQUIRE(value);
  CHECK(**value == 7);
  const std::unique_ptr<int> taken = *std::move(value);
  CHECK(*taken == 7);
  const Result<std::unique_ptr<int>> error = not_found("no such thing");
  CHECK_FALSE(error);
  CHECK_FALSE(error.has_value());
  CHECK(error.error().code() == Code::kNotFound);
  CHECK(error.error().message() == "no such thing");
  Result<std::string> text = std::string("abc");
  CHECK(text->size() == 3);
}

TEST_CASE("TRY returns the first error and goes on otherwise") {
  int reached = 0;
  const auto steps = [&](const Status& second) -> Status {
    SERVOLLEY_TRY(Status());
    ++reached;
    SERVOLLEY_TRY(second);
    ++reached;
    return {};
  };
  CHECK(steps({}).ok());
  CHECK(reached == 2);
  CHECK(steps(unavailable("later")).code() == Code::kUnavailable);
  CHECK(reached == 3);
}
