#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "codec/infer.h"
#include "codec/oip_json.h"
#include "codec/tfs_json.h"

namespace servolley::codec::testing {

inline constexpr std::size_t kLimit = std::size_t{64} << 20;

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline TensorSpec spec(std::string name, DType dtype, Shape shape) {
  TensorSpec s;
  s.name = std::move(name);
  s.dtype = dtype;
  s.shape = shape;
  return s;
}

// Model "m" with one input "x" and one output "y".
inline Signature signature(DType dtype, Shape shape, bool batched = false) {
  Signature s;
  s.inputs.push_back(spec("x", dtype, shape));
  s.outputs.push_back(spec("y", dtype, shape));
  s.batched = batched;
  return s;
}

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

inline std::string packed(const std::vector<std::string>& elements) {
  std::string out;
  for (const std::string& e : elements) {
    const auto length = static_cast<std::uint32_t>(e.size());
    out.append(reinterpret_cast<const char*>(&length), sizeof length);
    out += e;
  }
  return out;
}

inline std::string data_of(const TensorView& view) {
  return {reinterpret_cast<const char*>(view.data), view.bytes};
}

inline std::string text_of(const Payload& payload) {
  std::string out;
  for (const Segment& s : payload.segments()) {
    out.append(reinterpret_cast<const char*>(s.data), s.size);
  }
  return out;
}

inline TensorView view_of(DType dtype, Shape shape, const std::string& data) {
  return {dtype, shape, reinterpret_cast<const std::byte*>(data.data()), data.size()};
}

// A pool, a signature and the calls under test.
class Codec {
 public:
  explicit Codec(Signature s, std::size_t limit = kLimit)
      : signature(std::move(s)), pool(cpu_device(), Pool::Options()), limit_(limit) {}

  Status oip(std::string_view text, std::optional<std::uint64_t> json_length = std::nullopt) {
    return decode_oip_json(bytes_of(text), json_length, decode_context(), request);
  }
  // JSON with binary tensor data behind it.
  Status oip_binary(const std::string& json, const std::string& binary) {
    body = json + binary;
    return oip(body, json.size());
  }
  Status tfs(std::string_view text) {
    return decode_tfs_predict(bytes_of(text), decode_context(), request);
  }
  DecodeContext decode_context() { return {signature, "m", pool, limit_, shared_memory}; }
  EncodeContext encode_context() { return {signature, "m", "3", pool}; }

  Signature signature;
  Pool pool;
  InferRequest request;
  Payload payload;
  std::string body;
  bool shared_memory = false;

 private:
  std::size_t limit_;
};

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace servolley::codec::testing
