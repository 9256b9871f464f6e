// Calls as gRPC makes them: unary, streams of answers, streams both ways; what heads and ends
// carry.

#include <doctest/doctest.h>

#include <string>

#include "net/http2_link.h"

namespace servolley::net::http2_test {
namespace {

std::string pattern(std::size_t size, unsigned seed) {
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<char>((i * 2654435761u + seed) >> 11);
  }
  return bytes;
}

TEST_CASE("http2: a unary call") {
  Link link;
  link.echo();
  Fields fields = Client::head("/inference.GRPCInferenceService/ModelInfer");
  fields.emplace_back("grpc-timeout", "250m");
  fields.emplace_back("x-request-id", "7");
  fields.emplace_back("trace-bin", "AAEC");
  const std::int32_t id = link.open(fields);
  link.say(id, "question");
  link.half_close(id);
  link.run();
  const SeenStream& seen = link.server.calls.at(1);
  CHECK(seen.path == "/inference.GRPCInferenceService/ModelInfer");
  CHECK(seen.authority == "test:8001");
  CHECK(seen.timeout_us == 250'000);
  CHECK(seen.accepts_gzip);
  CHECK(seen.accepts_deflate);
  CHECK(seen.metadata ==
        Fields{{"user-agent", "test/1"}, {"x-request-id", "7"}, {"trace-bin", "AAEC"}});
  CHECK(seen.messages == std::vector<std::string>{"question"});
  CHECK(seen.half_closed);
  CHECK_FALSE(seen.cancelled);
  const ClientCall& call = link.calls.at(id);
  CHECK(call.headers == Fields{{":status", "200"}, {"content-type", "application/grpc"}});
  CHECK(call.messages() == std::vector<std::string>{"question"});
  CHECK(call.trailers == Fields{{"grpc-status", "0"}});
  CHECK(call.closed);
  CHECK(call.error == NGHTTP2_NO_ERROR);
  CHECK(link.connection->open_streams() == 0);
  CHECK(link.goaways.empty());
}

TEST_CASE("http2: messages of any size, in both directions") {
  Link link;
  link.echo();
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{4096}, std::size_t{4097}, std::size_t{16384},
        std::size_t{4} << 20, std::size_t{64} << 20}) {
    CAPTURE(size);
    const std::string message = pattern(size, static_cast<unsigned>(size));
    const std::int32_t id = link.unary("/s/m", message);
    link.run();
    const bool same = link.calls.at(id).messages() == std::vector<std::string>{message};
    CHECK(same);
    CHECK(link.calls.at(id).status() == "0");
    link.calls.erase(id);
    link.server.calls.clear();
  }
  CHECK(link.server.aligned);
  CHECK(link.server.owned);
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("http2: a large message is read where it stays") {
  Link link;
  link.server.record_messages = false;
  link.run();
  const std::string message = pattern(602112, 1);
  // As a client does that takes our SETTINGS_MAX_FRAME_SIZE at its word.
  const std::int32_t id = link.open(Client::head("/s/m"));
  link.run();
  std::string frame(9, '\0');
  const std::size_t size = message.size() + 5;
  frame[0] = static_cast<char>(size >> 16);
  frame[1] = static_cast<char>(size >> 8);
  frame[2] = static_cast<char>(size);
  frame[8] = static_cast<char>(id);
  bool same = false;
  link.server.message_hook = [&](std::uint32_t, GrpcMessage& m) {
    same = text_of(m.bytes) == message;
  };
  link.Host::feed(frame + with_prefix(message));
  CHECK(same);
  CHECK(link.direct_bytes > message.size() - link.scratch.size);
  CHECK(link.server.aligned);
}

TEST_CASE("http2: one question, many answers") {
  Link link;
  std::uint32_t asked = 0;
  link.server.half_close_hook = [&](std::uint32_t stream) { asked = stream; };
  const std::int32_t id = link.unary("/s/stream", "go");
  link.run();
  REQUIRE(asked == 1);
  std::vector<std::string> answers;
  for (unsigned i = 0; i < 50; ++i) {
    answers.push_back(pattern(i * 997, i));
    link.send(asked, answers.back());
    if (i % 7 == 0) link.run();
  }
  link.finish(asked);
  link.run();
  CHECK(link.calls.at(id).messages() == answers);
  CHECK(link.calls.at(id).status() == "0");
  CHECK(link.calls.at(id).closed);
}

TEST_CASE("http2: both talk at once") {
  Link link;
  link.echo();
  const std::int32_t id = link.open(Client::head("/s/bidi"));
  std::vector<std::string> said;
  for (unsigned i = 0; i < 40; ++i) {
    said.push_back(pattern(i % 5 == 0 ? 70'000 : i * 31, i));
    link.say(id, said.back());
    if (i % 3 == 0) {
      link.run();
      CHECK(link.calls[id].messages() == said);
    }
  }
  CHECK_FALSE(link.calls[id].closed);
  link.half_close(id);
  link.run();
  CHECK(link.calls[id].messages() == said);
  CHECK(link.calls[id].status() == "0");
  CHECK(link.server.calls[1].messages == said);
}

TEST_CASE("http2: an answer before the client has finished ends the stream") {
  Link link;
  link.server.message_hook = [&](std::uint32_t stream, GrpcMessage&) {
    link.send(stream, "enough");
    link.finish(stream);
  };
  const std::int32_t id = link.open(Client::head("/s/m"));
  link.say(id, "first");
  link.run();
  CHECK(link.calls.at(id).messages() == std::vector<std::string>{"enough"});
  CHECK(link.calls.at(id).status() == "0");
  CHECK(link.calls.at(id).closed);
  CHECK(link.connection->open_streams() == 0);
  CHECK(link.server.cancels.empty());
  link.say(id, "more");  // too late, and no harm
  const std::int32_t next = link.unary("/s/m", "again");
  link.run();
  CHECK(link.calls.at(next).status() == "0");
}

TEST_CASE("http2: errors are trailers only") {
  Link link;
  link.server.half_close_hook = [&](std::uint32_t stream) {
    const Header extra[] = {{"grpc-status-details-bin", "CAM"}, {"x-reason", "why"}};
    link.finish(stream, not_found("no 'caf\xc3\xa9' at 100%\n"), extra);
  };
  const std::int32_t id = link.unary("/s/m", "q");
  link.run();
  const ClientCall& call = link.calls.at(id);
  CHECK(call.headers_only);
  CHECK(call.headers == Fields{{":status", "200"},
                               {"content-type", "application/grpc"},
                               {"grpc-status", "5"},
                               {"grpc-message", "no 'caf%C3%A9' at 100%25%0A"},
                               {"grpc-status-details-bin", "CAM"},
                               {"x-reason", "why"}});
  CHECK(call.body.empty());
  CHECK(call.closed);
}

TEST_CASE("http2: an error behind messages") {
  Link link;
  link.server.half_close_hook = [&](std::uint32_t stream) {
    link.send(stream, "half");
    link.finish(stream, Status(Code::kDeadlineExceeded, "too late"));
  };
  const std::int32_t id = link.unary("/s/m", "q");
  link.run();
  CHECK(link.calls.at(id).messages() == std::vector<std::string>{"half"});
  CHECK(link.calls.at(id).trailers == Fields{{"grpc-status", "4"}, {"grpc-message", "too late"}});
}

TEST_CASE("http2: a long error text is cut at a character") {
  Link link;
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "\xc3\xa9";
  link.server.half_close_hook = [&](std::uint32_t stream) {
    link.finish(stream, internal_error(text));
  };
  const std::int32_t id = link.unary("/s/m", "q");
  link.run();
  const std::string message = link.calls.at(id).message();
  CHECK(message.size() <= 4096);
  CHECK(message.size() > 4000);
  CHECK(message.size() % 6 == 0);
}

TEST_CASE("http2: a refused call hears nothing more, and is not reported") {
  Link link;
  link.server.call_hook = [](std::uint32_t) {
    return Status(Code::kUnimplemented, "unknown method");
  };
  const std::int32_t id = link.unary("/s/none", "q");
  link.run();
  CHECK(link.calls.at(id).status() == "12");
  CHECK(link.calls.at(id).message() == "unknown method");
  CHECK(link.server.calls.at(1).messages.empty());
  CHECK_FALSE(link.server.calls.at(1).half_closed);
  CHECK(link.server.cancels.empty());
}

TEST_CASE("http2: codings are handed through both ways") {
  Link link;
  link.server.message_hook = [&](std::uint32_t stream, GrpcMessage& message) {
    link.send(stream, text_of(message.bytes), message.coding);
  };
  link.server.half_close_hook = [&](std::uint32_t stream) { link.finish(stream); };
  for (const auto& [name, coding] :
       {std::pair("gzip", MessageCoding::kGzip), std::pair("deflate", MessageCoding::kDeflate)}) {
    Fields fields = Client::head("/s/m");
    fields.emplace_back("grpc-encoding", name);
    const std::int32_t id = link.open(fields);
    link.Client::send(id, with_prefix("squeezed", true));
    link.Client::send(id, with_prefix("plain"));
    link.half_close(id);
    link.run();
    CHECK(link.server.calls.at(static_cast<std::uint32_t>(id)).codings ==
          std::vector<MessageCoding>{coding, MessageCoding::kIdentity});
    CHECK(field_of(link.calls.at(id).headers, "grpc-encoding") == name);
    CHECK(link.calls.at(id).body == with_prefix("squeezed", true) + with_prefix("plain"));
    CHECK(link.calls.at(id).status() == "0");
  }
}

TEST_CASE("http2: a coding that is announced before it is used") {
  Link link;
  link.server.call_hook = [&](std::uint32_t stream) {
    link.connection->announce_coding(stream, MessageCoding::kGzip);
    return Status();
  };
  link.server.message_hook = [&](std::uint32_t stream, GrpcMessage& message) {
    const std::string text = text_of(message.bytes);
    link.send(stream, text, text == "plain" ? MessageCoding::kIdentity : MessageCoding::kGzip);
    // Too late, and without effect.
    link.connection->announce_coding(stream, MessageCoding::kDeflate);
  };
  link.server.half_close_hook = [&](std::uint32_t stream) { link.finish(stream); };
  const std::int32_t id = link.open(Client::head("/s/m"));
  link.say(id, "plain");
  link.say(id, "squeezed");
  link.half_close(id);
  link.run();
  CHECK(field_of(link.calls.at(id).headers, "grpc-encoding") == "gzip");
  CHECK(link.calls.at(id).body == with_prefix("plain") + with_prefix("squeezed", true));
  CHECK(link.calls.at(id).status() == "0");
  // Of a call that ends without a message nothing is said.
  const std::int32_t none = link.open(Client::head("/s/m"));
  link.half_close(none);
  link.run();
  CHECK(link.calls.at(none).headers_only);
  CHECK(field_of(link.calls.at(none).headers, "grpc-encoding").empty());
}

TEST_CASE("http2: what is not gRPC gets the HTTP status") {
  Link link;
  const auto status_of = [&](const Fields& fields) {
    const std::int32_t id = link.open(fields);
    link.half_close(id);
    link.run();
    CHECK(link.calls.at(id).closed);
    return field_of(link.calls.at(id).headers, ":status");
  };
  const auto with_type = [](std::string_view type) {
    Fields fields = Client::head("/s/m");
    std::erase_if(fields, [](const auto& field) { return field.first == "content-type"; });
    if (!type.empty()) fields.emplace_back("content-type", type);
    return fields;
  };
  for (const char* type : {"", "application/json", "application/grpc-web", "application/grpc+json",
                           "application/grpcx", "text/application/grpc"}) {
    CAPTURE(type);
    CHECK(status_of(with_type(type)) == "415");
  }
  CHECK(link.server.calls.empty());
  Fields get = Client::head("/s/m");
  get[0].second = "GET";
  CHECK(status_of(get) == "405");
  CHECK(link.server.calls.empty());
  link.echo();
  for (const char* type : {"application/grpc", "application/grpc+proto", "Application/GRPC",
                           "application/grpc;charset=utf-8", "application/grpc+proto ; a=b"}) {
    CAPTURE(type);
    CHECK(status_of(with_type(type)) == "200");
  }
  Fields no_te = Client::head("/s/m");
  std::erase_if(no_te, [](const auto& field) { return field.first == "te"; });
  CHECK(status_of(no_te) == "200");
}

TEST_CASE("http2: grpc-timeout") {
  Link link;
  link.echo();
  const auto call = [&](std::string_view timeout) {
    Fields fields = Client::head("/s/m");
    fields.emplace_back("grpc-timeout", timeout);
    const std::int32_t id = link.open(fields);
    link.half_close(id);
    link.run();
    return id;
  };
  const std::pair<const char*, std::uint64_t> good[] = {{"1n", 0},
                                                        {"1500n", 1},
                                                        {"7u", 7},
                                                        {"0m", 0},
                                                        {"00000012m", 12000},
                                                        {"99999999n", 99'999},
                                                        {"3S", 3000000},
                                                        {"2M", 120'000'000},
                                                        {"1H", 3'600'000'000},
                                                        {"99999999H", 359'999'996'400'000'000u}};
  for (const auto& [timeout, us] : good) {
    CAPTURE(timeout);
    const std::int32_t id = call(timeout);
    CHECK(link.calls.at(id).status() == "0");
    CHECK(link.server.calls.at(static_cast<std::uint32_t>(id)).timeout_us == us);
  }
  for (const char* timeout :
       {"", "1", "m", "-1m", "+1m", "1.5S", "123456789m", "1s", "1 m", "1mm", "0x1m"}) {
    CAPTURE(timeout);
    const std::int32_t id = call(timeout);
    CHECK(link.calls.at(id).status() == "3");
    CHECK(link.server.calls.count(static_cast<std::uint32_t>(id)) == 0);
  }
}

TEST_CASE("http2: an unknown grpc-encoding") {
  Link link;
  Fields fields = Client::head("/s/m");
  fields.emplace_back("grpc-encoding", "snappy");
  const std::int32_t id = link.open(fields);
  link.Client::send(id, with_prefix("x", true));
  link.half_close(id);
  link.run();
  CHECK(link.calls.at(id).status() == "12");
  CHECK(field_of(link.calls.at(id).headers, "grpc-accept-encoding") == "identity,deflate,gzip");
  CHECK(link.server.calls.empty());
}

TEST_CASE("http2: answers from inside every callback") {
  Link link;
  link.server.call_hook = [&](std::uint32_t stream) {
    if (link.server.calls[stream].path == "/now") {
      link.send(stream, "at once");
      link.finish(stream);
    }
    return Status();
  };
  link.server.message_hook = [&](std::uint32_t stream, GrpcMessage&) {
    if (link.server.calls[stream].path != "/message") return;
    link.send(stream, "one");
    link.send(stream, "two");
    link.finish(stream);
    link.finish(stream, internal_error("twice"));
    link.send(stream, "three");
  };
  link.server.half_close_hook = [&](std::uint32_t stream) { link.finish(stream); };
  const std::int32_t now = link.unary("/now", "q");
  const std::int32_t message = link.unary("/message", "q");
  const std::int32_t close = link.unary("/close", "q");
  link.run();
  CHECK(link.calls.at(now).messages() == std::vector<std::string>{"at once"});
  CHECK(link.server.calls.at(1).messages.empty());
  CHECK(link.calls.at(message).messages() == std::vector<std::string>{"one", "two"});
  CHECK(link.calls.at(message).status() == "0");
  CHECK(link.calls.at(close).headers_only);
  CHECK(link.calls.at(close).status() == "0");
  CHECK(link.server.cancels.empty());
}

}  // namespace
}  // namespace servolley::net::http2_test
