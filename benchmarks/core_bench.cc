// Micro-benchmarks of the core. MB/s is text per second on one core (bytes_per_second in the
// table counts 2^20); run with --benchmark_min_time=1 on a quiet machine.

#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "codec/oip_json.h"
#include "codec/tfs_json.h"

namespace servolley::codec {
namespace {

constexpr std::size_t kFloats = 150'528;  // 224 * 224 * 3
const Shape kImage{1, 224, 224, 3};
const Shape kFlat{1, 150'528};

Signature one_in_one_out(DType dtype, const Shape& shape) {
  Signature signature;
  TensorSpec spec;
  spec.dtype = dtype;
  spec.shape = shape;
  spec.shape[0] = -1;
  spec.name.assign(1, 'x');
  signature.inputs.push_back(spec);
  spec.name.assign(1, 'y');
  signature.outputs.push_back(spec);
  signature.batched = true;
  return signature;
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

enum class Form { kInt, kShort, kMixed, kNine, kPython };

// One number as clients write it: a pixel, one decimal, one to four decimals, 9 digits, or an FP32
// value as Python prints it after widening (16 to 17 digits).
std::string number(Form form, std::mt19937& random) {
  char text[40];
  const double unit = std::uniform_real_distribution<double>(0, 1)(random);
  switch (form) {
    case Form::kInt:
      std::snprintf(text, sizeof text, "%d", static_cast<int>(unit * 256));
      break;
    case Form::kShort:
      std::snprintf(text, sizeof text, "%.1f", unit);
      break;
    case Form::kMixed:
      std::snprintf(text, sizeof text, "%.*f", 1 + static_cast<int>(random() % 4), unit);
      break;
    case Form::kNine:
      std::snprintf(text, sizeof text, "%.9f", unit);
      break;
    case Form::kPython:
      std::snprintf(text, sizeof text, "%.17g", static_cast<double>(static_cast<float>(unit)));
      break;
  }
  return text;
}

std::string nested(const Shape& shape, std::size_t dim, Form form, std::mt19937& random) {
  if (dim == shape.rank()) return number(form, random);
  std::string out = "[";
  for (std::int64_t i = 0; i < shape[dim]; ++i) {
    if (i) out += ',';
    out += nested(shape, dim + 1, form, random);
  }
  out += ']';
  return out;
}

void count(benchmark::State& state, std::size_t bytes) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * bytes));
  state.counters["MB/s"] = benchmark::Counter(static_cast<double>(bytes) * 1e-6,
                                              benchmark::Counter::kIsIterationInvariantRate);
}

constexpr std::size_t kLimit = std::size_t{256} << 20;

void parse_oip(benchmark::State& state, const Shape& shape, Form form, DType dtype) {
  std::mt19937 random(1);
  const Signature signature = one_in_one_out(dtype, shape);
  std::string body = R"({"inputs":[{"name":"x","shape":)";
  body += shape.to_string();
  body += R"(,"datatype":")";
  body += oip_name(dtype);
  body += R"(","data":)";
  body += nested(shape, 0, form, random);
  body += "}]}";
  Pool pool(cpu_device(), {});
  InferRequest request;
  for (auto _ : state) {
    const Status status =
        decode_oip_json(bytes_of(body), std::nullopt, {signature, "m", pool, kLimit}, request);
    if (!status.ok()) return state.SkipWithError(status.message().c_str());
  }
  count(state, body.size());
}

void parse_tfs(benchmark::State& state, const Shape& shape, Form form) {
  std::mt19937 random(1);
  const Signature signature = one_in_one_out(DType::kFp32, shape);
  std::string body = R"({"instances":)";
  body += nested(shape, 0, form, random);
  body += '}';
  Pool pool(cpu_device(), {});
  InferRequest request;
  for (auto _ : state) {
    const Status status =
        decode_tfs_predict(bytes_of(body), {signature, "m", pool, kLimit}, request);
    if (!status.ok()) return state.SkipWithError(status.message().c_str());
  }
  count(state, body.size());
}

template <class T>
void write_json(benchmark::State& state, DType dtype, const Shape& shape, bool tfs, int decimals) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> unit(decimals < 0 ? -1 : 0, decimals == 0 ? 256 : 1);
  std::vector<T> values(kFloats);
  for (T& value : values) {
    double v = unit(random);
    if (decimals > 0) {
      char text[32];
      std::snprintf(text, sizeof text, "%.*f", decimals, v);
      v = std::strtod(text, nullptr);
    }
    value = static_cast<T>(v);
  }
  const Signature signature = one_in_one_out(dtype, shape);
  Pool pool(cpu_device(), {});
  InferRequest request;
  request.outputs.push_back({.index = 0, .form = OutputForm::kJson, .classification = 0});
  Payload payload;
  const OutputView output{
      {dtype, shape, reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T)},
      nullptr};
  const EncodeContext context{signature, "m", "1", pool};
  std::size_t bytes = 0;
  for (auto _ : state) {
    payload.clear();
    if (tfs) {
      const Status status = encode_tfs_predict(request, {&output, 1}, context, payload);
      if (!status.ok()) return state.SkipWithError(status.message().c_str());
    } else {
      const auto info = encode_oip_json(request, {&output, 1}, context, payload);
      if (!info) return state.SkipWithError(info.error().message().c_str());
    }
    bytes = payload.size();
  }
  count(state, bytes);
}

constexpr auto write_float = write_json<float>;
constexpr auto write_double = write_json<double>;
constexpr auto write_int64 = write_json<std::int64_t>;

// FP32 [1,16] in and out as the stock client sends it.
void tiny_binary(benchmark::State& state, bool decode, bool encode) {
  const Signature signature = one_in_one_out(DType::kFp32, {-1, 16});
  const std::string json(R"({"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32",)"
                         R"("parameters":{"binary_data_size":64}}],)"
                         R"("outputs":[{"name":"y","parameters":{"binary_data":true}}]})");
  std::string body = json;
  body.append(64, '\1');
  Pool pool(cpu_device(), {});
  const DecodeContext decode_context{signature, "tiny", pool, kLimit};
  const EncodeContext encode_context{signature, "tiny", "1", pool};
  auto owner = pool.allocate(64);
  const OutputView output{{DType::kFp32, {1, 16}, owner->data(), 64}, &*owner};
  InferRequest request;
  Payload payload;
  if (!decode_oip_json(bytes_of(body), json.size(), decode_context, request).ok()) {
    return state.SkipWithError("the request was refused");
  }
  for (auto _ : state) {
    if (decode) {
      benchmark::DoNotOptimize(
          decode_oip_json(bytes_of(body), json.size(), decode_context, request).ok());
    }
    if (encode) {
      payload.clear();
      benchmark::DoNotOptimize(
          encode_oip_json(request, {&output, 1}, encode_context, payload).has_value());
    }
  }
}

BENCHMARK_CAPTURE(tiny_binary, decode_and_encode, true, true);
BENCHMARK_CAPTURE(tiny_binary, decode, true, false);
BENCHMARK_CAPTURE(tiny_binary, encode, false, true);

BENCHMARK_CAPTURE(parse_oip, fp32_flat_int, kFlat, Form::kInt, DType::kFp32);
BENCHMARK_CAPTURE(parse_oip, fp32_flat_short, kFlat, Form::kShort, DType::kFp32);
BENCHMARK_CAPTURE(parse_oip, fp32_flat_mixed, kFlat, Form::kMixed, DType::kFp32);
BENCHMARK_CAPTURE(parse_oip, fp32_flat_9_digits, kFlat, Form::kNine, DType::kFp32);
BENCHMARK_CAPTURE(parse_oip, fp32_flat_17_digits, kFlat, Form::kPython, DType::kFp32);
BENCHMARK_CAPTURE(parse_oip, fp32_nested_int, kImage, Form::kInt, DType::kFp32);
BENCHMARK_CAPTURE(parse_oip, fp32_nested_short, kImage, Form::kShort, DType::kFp32);
BENCHMARK_CAPTURE(parse_oip, fp32_nested_9_digits, kImage, Form::kNine, DType::kFp32);
BENCHMARK_CAPTURE(parse_oip, fp32_nested_17_digits, kImage, Form::kPython, DType::kFp32);
BENCHMARK_CAPTURE(parse_oip, fp64_flat_17_digits, kFlat, Form::kPython, DType::kFp64);
BENCHMARK_CAPTURE(parse_oip, uint8_nested, kImage, Form::kInt, DType::kUint8);
BENCHMARK_CAPTURE(parse_tfs, fp32_flat_short, kFlat, Form::kShort);
BENCHMARK_CAPTURE(parse_tfs, fp32_flat_9_digits, kFlat, Form::kNine);
BENCHMARK_CAPTURE(parse_tfs, fp32_nested_int, kImage, Form::kInt);
BENCHMARK_CAPTURE(parse_tfs, fp32_nested_short, kImage, Form::kShort);
BENCHMARK_CAPTURE(parse_tfs, fp32_nested_9_digits, kImage, Form::kNine);
BENCHMARK_CAPTURE(parse_tfs, fp32_nested_17_digits, kImage, Form::kPython);

BENCHMARK_CAPTURE(write_float, oip_fp32_random, DType::kFp32, kFlat, false, -1);
BENCHMARK_CAPTURE(write_float, oip_fp32_3_decimals, DType::kFp32, kFlat, false, 3);
BENCHMARK_CAPTURE(write_float, tfs_fp32_random, DType::kFp32, kImage, true, -1);
BENCHMARK_CAPTURE(write_float, tfs_fp32_3_decimals, DType::kFp32, kImage, true, 3);
BENCHMARK_CAPTURE(write_double, oip_fp64_random, DType::kFp64, kFlat, false, -1);
BENCHMARK_CAPTURE(write_double, tfs_fp64_random, DType::kFp64, kImage, true, -1);
BENCHMARK_CAPTURE(write_int64, oip_int64_pixels, DType::kInt64, kFlat, false, 0);

}  // namespace
}  // namespace servolley::codec

BENCHMARK_MAIN();
