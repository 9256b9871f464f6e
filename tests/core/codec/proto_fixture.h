#pragma once

#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>

#include "codec/codec_fixture.h"
#include "codec/oip_proto.h"
#include "codec/tfs_proto.h"

// Messages written and read field by field, without the code under test.
namespace servolley::codec::testing {

using protozero::pbf_reader;
using protozero::pbf_writer;

template <class Fill>
std::string proto(Fill fill) {
  std::string out;
  pbf_writer writer(out);
  fill(writer);
  return out;
}

// One varint field, one bytes field.
inline std::string varint(std::uint32_t number, std::uint64_t value) {
  return proto([&](pbf_writer& w) { w.add_uint64(number, value); });
}
inline std::string bytes(std::uint32_t number, const std::string& value) {
  return proto([&](pbf_writer& w) { w.add_bytes(number, value); });
}
template <class T>
std::string packed_varints(std::uint32_t number, const std::vector<T>& values) {
  std::vector<std::uint64_t> wide;
  for (const T v : values) {
    // Negative numbers are sent with 64 bits.
    wide.push_back(static_cast<std::uint64_t>(static_cast<std::int64_t>(v)));
  }
  return proto([&](pbf_writer& w) { w.add_packed_uint64(number, wide.begin(), wide.end()); });
}
template <class T>
std::string single_varints(std::uint32_t number, const std::vector<T>& values) {
  std::string out;
  for (const T v : values) {
    out += varint(number, static_cast<std::uint64_t>(static_cast<std::int64_t>(v)));
  }
  return out;
}

// --- Open Inference Protocol ---

inline std::string oip_input(const std::string& name, const std::string& dtype,
                             const std::vector<std::int64_t>& shape, const std::string& more = "") {
  return bytes(
      5, bytes(1, name) + bytes(2, dtype) + (shape.empty() ? "" : packed_varints(3, shape)) + more);
}
inline std::string contents(const std::string& fields) { return bytes(5, fields); }
inline std::string raw_entry(const std::string& data) { return bytes(7, data); }
// An entry of a parameter map; `value` is the field of the InferParameter.
inline std::string parameter(const std::string& key, const std::string& value,
                             std::uint32_t number = 4) {
  return bytes(number, bytes(1, key) + bytes(2, value));
}
inline std::string bool_param(bool v) { return varint(1, v); }
inline std::string int_param(std::int64_t v) { return varint(2, static_cast<std::uint64_t>(v)); }
inline std::string string_param(const std::string& v) { return bytes(3, v); }
inline std::string double_param(double v) {
  return proto([&](pbf_writer& w) { w.add_double(4, v); });
}
inline std::string uint_param(std::uint64_t v) { return varint(5, v); }

inline Status decode_oip(Codec& codec, const std::string& message) {
  codec.body = message;  // of which the inputs may be views
  return decode_oip_proto(bytes_of(codec.body), codec.decode_context(), codec.request);
}

struct OipAnswer {
  std::string model, version, id, parameters;
  struct Output {
    std::string name, datatype;
    std::vector<std::int64_t> shape;
    std::string parameters;  // the entries, back to back
  };
  std::vector<Output> outputs;
  std::vector<std::string> raw;
};

inline OipAnswer read_oip_answer(const std::string& message) {
  OipAnswer out;
  pbf_reader reader(message);
  while (reader.next()) {
    switch (reader.tag()) {
      case 1:
        out.model = reader.get_string();
        break;
      case 2:
        out.version = reader.get_string();
        break;
      case 3:
        out.id = reader.get_string();
        break;
      case 4:
        out.parameters += reader.get_string();
        break;
      case 5: {
        OipAnswer::Output output;
        pbf_reader inner = reader.get_message();
        while (inner.next()) {
          if (inner.tag() == 1) output.name = inner.get_string();
          if (inner.tag() == 2) output.datatype = inner.get_string();
          if (inner.tag() == 4) output.parameters += inner.get_string();
          if (inner.tag() == 3) {
            for (const std::int64_t dim : inner.get_packed_int64()) output.shape.push_back(dim);
          }
        }
        out.outputs.push_back(output);
        break;
      }
      case 6:
        out.raw.push_back(reader.get_string());
        break;
      default:
        FAIL("unexpected field");
    }
  }
  return out;
}

// --- TensorFlow Serving ---

inline std::string tf_shape(const std::vector<std::int64_t>& dims) {
  std::string out;
  for (const std::int64_t dim : dims) out += bytes(2, varint(1, static_cast<std::uint64_t>(dim)));
  return bytes(2, out);
}
inline std::string tf_tensor(int datatype, const std::vector<std::int64_t>& dims,
                             const std::string& values) {
  return varint(1, static_cast<std::uint64_t>(datatype)) + tf_shape(dims) + values;
}
inline std::string tf_input(const std::string& alias, const std::string& tensor) {
  return bytes(2, bytes(1, alias) + bytes(2, tensor));
}
inline std::string model_spec(const std::string& more = "") {
  return bytes(1, bytes(1, "m") + more);
}

inline Status decode_tfs(Codec& codec, const std::string& message) {
  codec.body = message;  // of which the inputs may be views
  return decode_tfs_proto(bytes_of(codec.body), codec.decode_context(), codec.request);
}

inline int tf_number(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return 10;
    case DType::kUint8:
      return 4;
    case DType::kUint16:
      return 17;
    case DType::kUint32:
      return 22;
    case DType::kUint64:
      return 23;
    case DType::kInt8:
      return 6;
    case DType::kInt16:
      return 5;
    case DType::kInt32:
      return 3;
    case DType::kInt64:
      return 9;
    case DType::kFp16:
      return 19;
    case DType::kBf16:
      return 14;
    case DType::kFp32:
      return 1;
    case DType::kFp64:
      return 2;
    case DType::kBytes:
      return 7;
  }
  return 0;
}

}  // namespace servolley::codec::testing
