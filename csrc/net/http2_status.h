#pragma once

// How gRPC spells a call's end: grpc-status, grpc-message.

#include <string>
#include <string_view>

#include "base/status.h"

namespace servolley::net {

// "0" to "16", of static storage.
std::string_view grpc_status_text(Code code);

// Appends `message`, UTF-8, percent-encoded as grpc-message; cut where the peer would not take the
// header any more.
void append_grpc_message(std::string_view message, std::string& out);

}  // namespace servolley::net
