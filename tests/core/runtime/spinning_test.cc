#include <map>

#include "fixture.h"
#include "runtime/ort/ort_library.h"

namespace servolley::ort {
namespace {

using testing::library_path;
using testing::model_path;

using Settings = std::map<std::string, std::string>;

Settings settings;
decltype(abi::Functions::add_session_config) real_add = nullptr;

abi::Error* remember(abi::SessionOptions* options, const char* key, const char* value) {
  settings[key] = value;
  return real_add(options, key, value);
}

// What a session is told of spinning by a library that says it is of that version.
Settings told(const std::string& version, bool allow_spinning, int spin_us) {
  auto opened = open_table(library_path());
  REQUIRE(opened);
  abi::Functions functions = opened->functions;
  real_add = functions.add_session_config;
  functions.add_session_config = &remember;
  auto created = Library::create(functions, version, 0);
  REQUIRE(created);
  const std::shared_ptr<OrtLibrary> library = *created;
  Pool pool(cpu_device(), {});
  OrtOptions options;
  options.pool = &pool;
  options.allow_spinning = allow_spinning;
  options.spin_us = spin_us;
  settings.clear();
  REQUIRE(load_model(library, model_path("tiny"), options).has_value());
  return settings;
}

TEST_CASE("threads spin briefly within a run where the release can be told so, else not at all") {
  const Settings never = {{"session.intra_op.allow_spinning", "0"},
                          {"session.inter_op.allow_spinning", "0"}};
  const Settings always = {{"session.intra_op.allow_spinning", "1"},
                           {"session.inter_op.allow_spinning", "1"}};
  const Settings briefly = {{"session.intra_op.allow_spinning", "1"},
                            {"session.inter_op.allow_spinning", "0"},
                            {"session.intra_op.spin_duration_us", "70"},
                            {"session.force_spinning_stop", "1"}};
  CHECK(told("1.26.0", false, 70) == briefly);
  CHECK(told("2.0.0", false, 70) == briefly);
  CHECK(told("1.25.1", false, 70) == never);
  CHECK(told("1.9.0", false, 70) == never);
  CHECK(told("1.32.0", false, 0) == never);
  CHECK(told("1.32.0", true, 70) == always);
  CHECK(told("1.25.1", true, 70) == always);
}

}  // namespace
}  // namespace servolley::ort
