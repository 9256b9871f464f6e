#pragma once

#include <map>

#include "harness.h"

namespace servolley::engine {

// A version of m whose y is `factor` times x.
inline std::shared_ptr<Servable> version(Engine& engine, std::int64_t number, Body body,
                                         ServableOptions options = with(Execution::kInline),
                                         Signature signature = unary_signature(DType::kFp32)) {
  auto runner = std::make_shared<FakeRunner>(std::move(signature), std::move(body));
  auto servable = engine.create_servable("m", number, runner, std::move(options));
  REQUIRE(servable.has_value());
  return *servable;
}

// y = factor * x for FP32.
inline Body times(Pool& pool, float factor) {
  return [&pool, factor](std::span<const TensorView> inputs, std::int64_t,
                         std::span<OutputTensor> outputs) {
    SERVOLLEY_TRY(copy_through(pool, inputs, outputs));
    auto* values = reinterpret_cast<float*>(outputs[0].owner.data());
    for (std::size_t i = 0; i < inputs[0].bytes / sizeof(float); ++i) values[i] *= factor;
    return Status();
  };
}

inline ModelRoutes routes_to(const std::vector<std::shared_ptr<Servable>>& servables) {
  ModelRoutes routes;
  for (const auto& servable : servables) routes.versions[servable->version()] = servable;
  routes.default_version = servables.front();
  return routes;
}

// The first value of an answer to infer_row(1).
inline float ask(Engine& engine, Client& client, const std::string& request = infer_row(1)) {
  client.send(request);
  Answer answer;
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  REQUIRE(answer.status == 200);
  return first_value(answer);
}

}  // namespace servolley::engine
