#include "base/status.h"

#include <array>

namespace servolley {
namespace {

struct CodeRow {
  std::string_view name;
  int grpc;
  int http;
};

// Indexed by Code. HTTP column: TensorFlow Serving's table, which agrees with the Open Inference
// Protocol wherever both speak, except CANCELLED and UNKNOWN (400 in Triton; 499 and 500 say more).
constexpr std::array<CodeRow, 23> kCodes = {{
    {"OK", 0, 200},
    {"CANCELLED", 1, 499},
    {"UNKNOWN", 2, 500},
    {"INVALID_ARGUMENT", 3, 400},
    {"DEADLINE_EXCEEDED", 4, 504},
    {"NOT_FOUND", 5, 404},
    {"ALREADY_EXISTS", 6, 409},
    {"PERMISSION_DENIED", 7, 403},
    {"RESOURCE_EXHAUSTED", 8, 429},
    {"FAILED_PRECONDITION", 9, 400},
    {"ABORTED", 10, 409},
    {"OUT_OF_RANGE", 11, 400},
    {"UNIMPLEMENTED", 12, 501},
    {"INTERNAL", 13, 500},
    {"UNAVAILABLE", 14, 503},
    {"DATA_LOSS", 15, 500},
    {"UNAUTHENTICATED", 16, 401},
    {"RESOURCE_EXHAUSTED", 8, 413},
    {"UNIMPLEMENTED", 12, 415},
    {"UNIMPLEMENTED", 12, 405},
    {"DEADLINE_EXCEEDED", 4, 408},
    {"RESOURCE_EXHAUSTED", 8, 431},
    {"INVALID_ARGUMENT", 3, 414},
}};

const CodeRow& row(Code code) { return kCodes[static_cast<std::size_t>(code)]; }

}  // namespace

int grpc_code(Code code) { return row(code).grpc; }
int http_status(Code code) { return row(code).http; }
std::string_view code_name(Code code) { return row(code).name; }

}  // namespace servolley
