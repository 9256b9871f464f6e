#include "engine/weighted_choice.h"

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <string>

namespace servolley::engine {
namespace {

WeightedChoice choice_of(const std::vector<std::uint32_t>& weights) {
  WeightedChoice choice;
  for (const std::uint32_t weight : weights) choice.add(weight);
  return choice;
}

TEST_CASE("the heavier ones are spread between the others") {
  WeightedChoice choice = choice_of({5, 1, 1});
  std::string chosen;
  for (int i = 0; i < 14; ++i) chosen += static_cast<char>('a' + choice.next());
  CHECK(chosen == "aabacaaaabacaa");
}

TEST_CASE("shares are exact over a period and never far off within it") {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::uint32_t> weights(1 + random() % 6);
    for (std::uint32_t& weight : weights) weight = static_cast<std::uint32_t>(random() % 50);
    weights[random() % weights.size()] += 1;
    const std::uint32_t total = std::accumulate(weights.begin(), weights.end(), 0U);
    WeightedChoice choice = choice_of(weights);
    std::vector<std::uint32_t> chosen(weights.size());
    for (std::uint32_t i = 1; i <= 3 * total; ++i) {
      ++chosen[choice.next()];
      for (std::size_t v = 0; v < weights.size(); ++v) {
        const double due = static_cast<double>(i) * weights[v] / total;
        REQUIRE(std::fabs(chosen[v] - due) < static_cast<double>(weights.size()));
      }
    }
    for (std::size_t v = 0; v < weights.size(); ++v) CHECK(chosen[v] == 3 * weights[v]);
  }
}

TEST_CASE("only the ratio of the weights counts; the largest weights do not overflow") {
  WeightedChoice small = choice_of({3, 2});
  WeightedChoice large = choice_of({3'000'000'000U, 2'000'000'000U});
  for (int i = 0; i < 1000; ++i) CHECK(small.next() == large.next());
}

TEST_CASE("without a weight there is nothing to choose from") {
  CHECK(choice_of({}).empty());
  CHECK(choice_of({0, 0}).empty());
  CHECK_FALSE(choice_of({0, 1}).empty());
}

}  // namespace
}  // namespace servolley::engine
