#include <doctest/doctest.h>

#include "harness.h"

namespace servolley::engine {
namespace {

void ask(Engine& engine, Client& client, const std::string& model = "m", float value = 1) {
  client.send(infer_row(value, model));
  engine.tick();
  Answer answer;
  REQUIRE(client.read(answer));
}

struct Rig {
  Rig() { serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), inline_options()); }
  static ServableOptions inline_options() { return with(Execution::kInline); }
  Engine engine{{}};
};

TEST_CASE("every rate-th request is traced, until as many were as are wanted") {
  Rig rig;
  Client client(rig.engine);
  ask(rig.engine, client);
  CHECK(rig.engine.tracer().take().empty());

  rig.engine.tracer().set_rule("", {.rate = 3, .remaining = 2});
  for (int i = 0; i < 8; ++i) ask(rig.engine, client);
  CHECK(rig.engine.tracer().take().size() == 2);
  CHECK(rig.engine.tracer().rule("m").remaining == 0);
  CHECK_FALSE(rig.engine.tracer().on());

  rig.engine.tracer().set_rule("", {.rate = 1, .remaining = -1});
  for (int i = 0; i < 5; ++i) ask(rig.engine, client);
  CHECK(rig.engine.tracer().take().size() == 5);
  CHECK(rig.engine.tracer().on());
}

TEST_CASE("a model's own rule stands before the general one") {
  Rig rig;
  serve(rig.engine, unary_signature(DType::kFp32), doubling(rig.engine.pool()),
        Rig::inline_options(), "quiet");
  Client client(rig.engine);
  rig.engine.tracer().set_rule("", {.rate = 1, .remaining = -1});
  rig.engine.tracer().set_rule("quiet", {.rate = 0, .remaining = -1});
  ask(rig.engine, client, "quiet");
  ask(rig.engine, client, "m");
  auto traces = rig.engine.tracer().take();
  REQUIRE(traces.size() == 1);
  CHECK(traces[0].model == "m");

  rig.engine.tracer().remove_rule("quiet");
  ask(rig.engine, client, "quiet");
  CHECK(rig.engine.tracer().take().size() == 1);
}

TEST_CASE("a trace has every stage that its request reached, in the order of time") {
  Rig rig;
  Client client(rig.engine);
  rig.engine.tracer().set_rule("", {.rate = 1, .remaining = -1});
  ask(rig.engine, client);
  ask(rig.engine, client, "m", -1);  // fails in the model
  client.send(post("/v2/models/m/infer", R"({"id":"call 7","inputs":[]})"));
  Answer refused;
  REQUIRE(client.read(refused));
  CHECK(refused.status == 400);

  const auto traces = rig.engine.tracer().take();
  REQUIRE(traces.size() == 3);
  const Trace& good = traces[0];
  CHECK(good.id == 1);
  CHECK(good.code == Code::kOk);
  CHECK(good.version == 1);
  CHECK(good.rows == 1);
  CHECK(good.batch_rows == 1);
  CHECK(good.received != TimePoint());
  CHECK(good.admitted >= good.received);
  CHECK(good.taken >= good.admitted);
  CHECK(good.inputs_ready >= good.taken);
  CHECK(good.run_end >= good.inputs_ready);
  CHECK(good.answering >= good.run_end);
  CHECK(good.answered >= good.answering);

  CHECK(traces[1].code == Code::kInternal);
  CHECK(traces[1].taken == TimePoint());
  CHECK(traces[2].code == Code::kInvalidArgument);
  CHECK(traces[2].request_id == "call 7");
  CHECK(traces[2].admitted == TimePoint());
  CHECK(traces[2].answered >= traces[2].received);
}

TEST_CASE("what nobody takes is dropped at a limit, and counted") {
  Rig rig;
  Client client(rig.engine);
  rig.engine.tracer().set_rule("", {.rate = 1, .remaining = -1});
  for (std::size_t i = 0; i < Tracer::kKept + 5; ++i) ask(rig.engine, client);
  CHECK(rig.engine.tracer().dropped() == 5);
  CHECK(rig.engine.tracer().take().size() == Tracer::kKept);
  ask(rig.engine, client);
  CHECK(rig.engine.tracer().take().size() == 1);
}

}  // namespace
}  // namespace servolley::engine
