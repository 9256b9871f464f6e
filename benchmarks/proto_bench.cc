// What gRPC's messages cost: one request of 16 floats decoded and its answer encoded, as every
// small call has it, and a large tensor. The transport is not in it.

#include <benchmark/benchmark.h>

#include <cstring>
#include <protozero/pbf_writer.hpp>
#include <string>
#include <vector>

#include "codec/oip_proto.h"
#include "codec/tfs_proto.h"
#include "device/device.h"

namespace servolley::codec {
namespace {

using protozero::pbf_writer;

constexpr std::int64_t kTiny = 16;
constexpr std::int64_t kImage = 150'528;  // 224 * 224 * 3

Signature one_in_one_out(std::int64_t floats) {
  Signature signature;
  TensorSpec spec;
  spec.dtype = DType::kFp32;
  spec.shape = {-1, floats};
  spec.name.assign(1, 'x');
  signature.inputs.push_back(spec);
  spec.name.assign(1, 'y');
  signature.outputs.push_back(spec);
  signature.batched = true;
  return signature;
}

void add_input(pbf_writer& request, std::int64_t floats) {
  pbf_writer input(request, 5);
  const std::int64_t shape[] = {1, floats};
  input.add_string(1, "x");
  input.add_string(2, "FP32");
  input.add_packed_int64(3, shape, shape + 2);
}

// As tritonclient sends it: the tensor's bytes last.
std::string raw_infer(std::int64_t floats) {
  std::string out;
  pbf_writer request(out);
  request.add_string(1, "tiny");
  add_input(request, floats);
  pbf_writer(request, 6).add_string(1, "y");
  request.add_bytes(7, std::string(static_cast<std::size_t>(floats) * 4, '\1'));
  return out;
}

std::string predict(std::int64_t floats, bool tensor_content) {
  std::string out;
  pbf_writer request(out);
  {
    pbf_writer spec(request, 1);
    spec.add_string(1, "tiny");
    spec.add_string(3, "serving_default");
  }
  pbf_writer entry(request, 2);
  entry.add_string(1, "x");
  pbf_writer tensor(entry, 2);
  tensor.add_enum(1, 1);
  {
    pbf_writer shape(tensor, 2);
    pbf_writer(shape, 2).add_int64(1, 1);
    pbf_writer(shape, 2).add_int64(1, floats);
  }
  tensor.add_bytes(tensor_content ? 4 : 5, std::string(static_cast<std::size_t>(floats) * 4, '\1'));
  return out;
}

// A request whose last byte ends the tensor, placed so that the tensor is aligned or 1 byte off.
class Message {
 public:
  Message(const std::string& text, std::int64_t floats, bool aligned)
      : memory_(text.size() + 128), text_size_(text.size()) {
    const auto base = reinterpret_cast<std::uintptr_t>(memory_.data());
    const std::size_t tensor = text.size() - static_cast<std::size_t>(floats) * 4;
    start_ = (64 - (base + tensor) % 64) % 64 + (aligned ? 0 : 1);
    std::memcpy(memory_.data() + start_, text.data(), text.size());
  }
  std::span<const std::byte> span() const { return {memory_.data() + start_, text_size_}; }

 private:
  std::vector<std::byte> memory_;
  std::size_t text_size_;
  std::size_t start_ = 0;
};

enum class Dialect { kInfer, kPredict, kPredictContent };

void call(benchmark::State& state, Dialect dialect, std::int64_t floats, bool aligned) {
  const Signature signature = one_in_one_out(floats);
  Pool pool(cpu_device(), Pool::Options());
  const bool content = dialect == Dialect::kPredictContent;
  const Message message(dialect == Dialect::kInfer ? raw_infer(floats) : predict(floats, content),
                        floats, aligned);
  const auto tensor_bytes = static_cast<std::size_t>(floats) * 4;
  Buffer owner = std::move(*pool.allocate(tensor_bytes));
  std::memset(owner.data(), 0, tensor_bytes);
  const OutputView output{{DType::kFp32, {1, floats}, owner.data(), tensor_bytes}, &owner};
  const DecodeContext decode{signature, "tiny", pool, std::size_t{64} << 20};
  const EncodeContext encode{signature, "tiny", "1", pool};
  InferRequest request;
  Payload payload;
  for (auto _ : state) {
    bool good = true;
    payload.clear();
    if (dialect == Dialect::kInfer) {
      good &= read_oip_head(message.span()).has_value();
      good &= decode_oip_proto(message.span(), decode, request).ok();
      good &= encode_oip_proto(request, {&output, 1}, encode, false, payload).ok();
    } else {
      good &= read_tfs_head(message.span()).has_value();
      good &= decode_tfs_proto(message.span(), decode, request).ok();
      good &= encode_tfs_proto(request, {&output, 1}, encode, content, payload).ok();
    }
    if (!good) state.SkipWithError("the codec refused");
    benchmark::DoNotOptimize(payload.size());
  }
  state.SetItemsProcessed(state.iterations());
}

BENCHMARK_CAPTURE(call, proto_infer_tiny, Dialect::kInfer, kTiny, true);
BENCHMARK_CAPTURE(call, proto_infer_tiny_misaligned, Dialect::kInfer, kTiny, false);
BENCHMARK_CAPTURE(call, proto_predict_tiny, Dialect::kPredict, kTiny, true);
BENCHMARK_CAPTURE(call, proto_predict_tiny_misaligned, Dialect::kPredict, kTiny, false);
BENCHMARK_CAPTURE(call, proto_predict_tiny_content, Dialect::kPredictContent, kTiny, true);
BENCHMARK_CAPTURE(call, proto_infer_602k, Dialect::kInfer, kImage, true);
BENCHMARK_CAPTURE(call, proto_infer_602k_misaligned, Dialect::kInfer, kImage, false);
BENCHMARK_CAPTURE(call, proto_predict_602k, Dialect::kPredict, kImage, true);
BENCHMARK_CAPTURE(call, proto_predict_602k_misaligned, Dialect::kPredict, kImage, false);

}  // namespace
}  // namespace servolley::codec
