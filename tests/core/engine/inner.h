#pragma once

#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>

#include "engine/harness.h"
#include "engine/inner_session.h"

namespace servolley::engine {

// PredictRequest with one FP32 row {value, 1, 2, 3} for input x, as protobuf's own library writes
// it.
inline std::string predict(float value, const std::string& input = "x") {
  const auto message = [](auto fill) {
    std::string out;
    protozero::pbf_writer writer(out);
    fill(writer);
    return out;
  };
  const std::string spec = message([&](protozero::pbf_writer& w) { w.add_string(1, "whatever"); });
  const std::string shape = message([&](protozero::pbf_writer& w) {
    for (const std::int64_t dim : {1, 4}) {
      w.add_message(2, message([&](protozero::pbf_writer& d) { d.add_int64(1, dim); }));
    }
  });
  const std::string tensor = message([&](protozero::pbf_writer& w) {
    const float row[4] = {value, 1, 2, 3};
    w.add_int32(1, 1);
    w.add_message(2, shape);
    w.add_packed_float(5, row, row + 4);
  });
  return message([&](protozero::pbf_writer& w) {
    w.add_message(1, spec);
    w.add_message(2, message([&](protozero::pbf_writer& e) {
                    e.add_string(1, input);
                    e.add_message(2, tensor);
                  }));
  });
}

// The first value of output y of a PredictResponse.
inline float first_of(const std::string& response) {
  protozero::pbf_reader reader(response);
  REQUIRE(reader.next(1));
  protozero::pbf_reader entry = reader.get_message();
  REQUIRE(entry.next(1));
  CHECK(entry.get_string() == "y");
  REQUIRE(entry.next(2));
  protozero::pbf_reader tensor = entry.get_message();
  REQUIRE(tensor.next(5));
  const auto values = tensor.get_packed_float();
  REQUIRE(values.size() == 4);
  return *values.begin();
}

// What a call for the model gets, of the newest version where none is named.
inline Result<Lease> choose(Engine& engine, std::string_view model = "m",
                            std::optional<std::int64_t> version = std::nullopt,
                            Dialect dialect = Dialect::kTfsGrpc) {
  HotRoute route;
  route.model = model;
  route.version = version;
  route.dialect = dialect;
  return engine.choose(route);
}

// The process's own calls.
struct Inner {
  explicit Inner(Engine& engine) : calls(std::make_shared<InnerConnection>(engine)) {
    calls->opened(-1);
  }
  ~Inner() { calls->closed(); }

  // One call of one run.
  std::uint32_t ask(std::uint64_t exchange, const std::string& message,
                    Dialect dialect = Dialect::kTfsGrpc, std::uint64_t timeout_us = 0) {
    const auto lease = choose(calls->engine(), "m", std::nullopt, dialect);
    REQUIRE(lease);
    return calls->predict(exchange, message, *lease, timeout_us);
  }

  // Results as they come, until there are `count`.
  bool collect(Engine& engine, std::size_t count) {
    return pump(engine, [&] {
      for (InnerResult& result : calls->take_results()) results.push_back(std::move(result));
      return results.size() >= count;
    });
  }

  std::shared_ptr<InnerConnection> calls;
  std::vector<InnerResult> results;
};

}  // namespace servolley::engine
