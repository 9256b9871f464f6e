#pragma once

#include <protozero/pbf_writer.hpp>
#include <string>

#include "harness.h"

namespace servolley::engine {

// A PredictRequest with x = {value, 1, 2, 3} in each of `rows` rows.
inline std::string predict_request(float value, std::int64_t rows, const std::string& input = "x",
                                   const std::string& signature = "") {
  std::string shape;
  for (const std::int64_t size : {rows, std::int64_t{4}}) {
    protozero::pbf_writer dims(shape);
    protozero::pbf_writer dim(dims, 2);
    dim.add_int64(1, size);
  }
  std::string content;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float row[4] = {value, 1, 2, 3};
    content.append(reinterpret_cast<const char*>(row), sizeof row);
  }
  std::string out;
  protozero::pbf_writer request(out);
  {
    protozero::pbf_writer spec(request, 1);
    spec.add_string(1, "another");
    if (!signature.empty()) spec.add_string(3, signature);
  }
  protozero::pbf_writer entry(request, 2);
  entry.add_string(1, input);
  protozero::pbf_writer tensor(entry, 2);
  tensor.add_int32(1, 1);
  tensor.add_message(2, shape);
  tensor.add_bytes(4, content);
  return out;
}

inline std::span<const std::byte> bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline Status warm(Servable& servable, const std::string& request, int runs = 1) {
  return servable.warm_up_with(bytes_of(request), runs, 1 << 20);
}

}  // namespace servolley::engine
