// A warm server decodes and encodes small binary requests without the allocator.

#include <atomic>
#include <cstdlib>
#include <new>

#include "codec/codec_fixture.h"
#include "codec/proto_fixture.h"

namespace {

std::atomic<std::uint64_t> g_allocations{0};

void* counted(std::size_t bytes) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* block = std::malloc(bytes ? bytes : 1)) return block;
  std::abort();
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void operator delete(void* block) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t) noexcept { std::free(block); }

namespace servolley::codec {
namespace {

using namespace testing;

template <class Call>
std::uint64_t allocations_when_warm(Codec& codec, Call call) {
  for (int i = 0; i < 3; ++i) call();
  const std::uint64_t before = g_allocations.load();
  const std::uint64_t pool_before = codec.pool.stats().allocations;
  for (int i = 0; i < 100; ++i) call();
  CHECK(codec.pool.stats().allocations == pool_before);
  return g_allocations.load() - before;
}

TEST_CASE("the counter counts") {
  const std::uint64_t before = g_allocations.load();
  std::string text(1000, 'x');
  CHECK(text.size() == 1000);
  CHECK(g_allocations.load() > before);
}

TEST_CASE("a warm binary request and its answer do not allocate") {
  Codec codec(signature(DType::kFp32, {-1, 16}, true));
  const std::string json =
      R"({"id":"a-request-id-that-is-longer-than-a-short-string","inputs":[{"name":"x",)"
      R"("shape":[1,16],"datatype":"FP32","parameters":{"binary_data_size":64}}],)"
      R"("outputs":[{"name":"y","parameters":{"binary_data":true}}],)"
      R"("parameters":{"priority":1,"timeout":1000}})";
  const std::string body = json + std::string(64, '\0');
  Buffer owner = std::move(*codec.pool.allocate(64));
  const OutputView output{{DType::kFp32, {1, 16}, owner.data(), 64}, &owner};
  bool good = true;
  const std::uint64_t allocations = allocations_when_warm(codec, [&] {
    good &=
        decode_oip_json(bytes_of(body), json.size(), codec.decode_context(), codec.request).ok();
    codec.payload.clear();
    good &= encode_oip_json(codec.request, {&output, 1}, codec.encode_context(), codec.payload)
                .has_value();
  });
  CHECK(good);
  CHECK(allocations == 0);
}

TEST_CASE("warm JSON tensors of both dialects do not allocate outside of the pool") {
  Codec codec(signature(DType::kFp32, {-1, 4}, true));
  const std::string oip =
      R"({"inputs":[{"name":"x","shape":[2,4],"datatype":"FP32","data":[[1,2,3,4],[5,6,7,8]]}]})";
  const std::string tfs = R"({"instances":[[1,2,3,4],[5,6,7,8]]})";
  const std::string data(32, '\0');
  const OutputView output{view_of(DType::kFp32, {2, 4}, data), nullptr};
  bool good = true;
  CHECK(allocations_when_warm(codec, [&] {
          good &= codec.oip(oip).ok();
          codec.payload.clear();
          good &=
              encode_oip_json(codec.request, {&output, 1}, codec.encode_context(), codec.payload)
                  .has_value();
        }) == 0);
  CHECK(allocations_when_warm(codec, [&] {
          good &= codec.tfs(tfs).ok();
          codec.payload.clear();
          good &=
              encode_tfs_predict(codec.request, {&output, 1}, codec.encode_context(), codec.payload)
                  .ok();
        }) == 0);
  CHECK(good);
}

TEST_CASE("warm gRPC requests of both dialects and their answers do not allocate") {
  Codec codec(signature(DType::kFp32, {-1, 16}, true));
  const std::string infer =
      bytes(1, "m") + bytes(3, "a-request-id-that-is-longer-than-a-short-string") +
      parameter("priority", uint_param(1)) + parameter("timeout", int_param(1000)) +
      oip_input("x", "FP32", {1, 16}) + bytes(6, bytes(1, "y")) + raw_entry(std::string(64, '\0'));
  const std::string predict =
      model_spec() + tf_input("x", tf_tensor(1, {1, 16}, bytes(5, std::string(64, '\0'))));
  Buffer owner = std::move(*codec.pool.allocate(64));
  const OutputView output{{DType::kFp32, {1, 16}, owner.data(), 64}, &owner};
  bool good = true;
  // Misaligned in turn.
  std::string shifted;
  for (std::size_t shift = 0; shift < 4; ++shift) {
    shifted = std::string(shift, ' ') + infer;
    const auto message = bytes_of(shifted).subspan(shift);
    CHECK(allocations_when_warm(codec, [&] {
            good &= read_oip_head(message).has_value();
            good &= decode_oip_proto(message, codec.decode_context(), codec.request).ok();
            codec.payload.clear();
            good &= encode_oip_proto(codec.request, {&output, 1}, codec.encode_context(), false,
                                     codec.payload)
                        .ok();
          }) == 0);
    shifted = std::string(shift, ' ') + predict;
    const auto other = bytes_of(shifted).subspan(shift);
    CHECK(allocations_when_warm(codec, [&] {
            good &= read_tfs_head(other).has_value();
            good &= decode_tfs_proto(other, codec.decode_context(), codec.request).ok();
            codec.payload.clear();
            good &= encode_tfs_proto(codec.request, {&output, 1}, codec.encode_context(), false,
                                     codec.payload)
                        .ok();
          }) == 0);
  }
  CHECK(good);
}

}  // namespace
}  // namespace servolley::codec
