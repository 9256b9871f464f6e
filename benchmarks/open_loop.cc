// Sends one prepared HTTP/1.1 request over and over to a server on this machine, from one thread:
// in a closed loop, or at a constant rate that does not care how the server is doing. A latency
// counts from the moment a request was due, not from the moment a connection was free to send it,
// so that a server that stalls is charged with all that was due meanwhile.
//
//   open_loop PORT REQUEST_FILE CONNECTIONS REQUESTS_PER_SECOND     (0: a closed loop)
//
// Digits on stdin say under which number everything counts that is due from now on; 0: it does not
// count. The end of stdin ends the run, when all that was due has been answered; then a line of
// JSON for each number from 1 to 9.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <iterator>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Nanos = std::int64_t;

constexpr Nanos kSecond = 1'000'000'000;
constexpr Nanos kPatience = 10 * kSecond;      // without any answer
constexpr std::size_t kMostBacklog = 1 << 22;  // a server that cannot keep up is not a result

Nanos now() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

// Counts durations, each within 1 % of where it is kept.
class Durations {
 public:
  void add(Nanos duration) {
    ++counts_[slot(static_cast<std::uint64_t>(std::max<Nanos>(duration, 0)))];
    ++total_;
    longest_ = std::max(longest_, duration);
  }
  std::uint64_t total() const { return total_; }
  double longest_us() const { return static_cast<double>(longest_) / 1e3; }
  double quantile_us(double part) const {
    const auto rank = static_cast<std::uint64_t>(part * static_cast<double>(total_));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen > rank) return static_cast<double>(middle(i)) / 1e3;
    }
    return longest_us();
  }

 private:
  static constexpr int kBits = 7;
  static std::size_t slot(std::uint64_t value) {
    const int shift = std::max(0, static_cast<int>(std::bit_width(value)) - kBits - 1);
    return (static_cast<std::size_t>(shift) << kBits) + static_cast<std::size_t>(value >> shift);
  }
  static std::uint64_t middle(std::size_t slot) {
    if (slot < (std::size_t{2} << kBits)) return slot;
    const std::size_t shift = (slot >> kBits) - 1;
    return ((2 * (slot - (shift << kBits)) + 1) << shift) / 2;
  }

  std::array<std::uint64_t, std::size_t{65 - kBits} << kBits> counts_{};
  std::uint64_t total_ = 0;
  Nanos longest_ = 0;
};

struct Due {
  Nanos when;
  std::size_t number;  // under which it counts
};

// What counts under one number.
struct Count {
  Durations latencies;
  Durations lateness;  // from when a request was due and a connection free until it was sent
  std::uint64_t failed = 0;
  Nanos lasted = 0;
};

struct Connection {
  int fd = -1;
  Due due{};
  bool busy = false;
  Nanos idle_since = 0;
  std::string received;
};

// Whether `text` begins with a whole answer, and whether that says 200.
struct Answer {
  bool whole = false;
  bool good = false;
};

Answer read_answer(std::string_view text) {
  const std::size_t head = text.find("\r\n\r\n");
  if (head == std::string_view::npos) return {};
  constexpr std::string_view kLength = "\r\nContent-Length: ";
  const std::size_t at = text.substr(0, head).find(kLength);
  if (at == std::string_view::npos) throw std::runtime_error("an answer without Content-Length");
  std::size_t length = 0;
  const char* digits = text.data() + at + kLength.size();
  std::from_chars(digits, text.data() + text.size(), length);
  const bool whole = text.size() >= head + 4 + length;
  return {whole, whole && text.starts_with("HTTP/1.1 200 ")};
}

class Load {
 public:
  Load(std::uint16_t port, std::string request, std::size_t connections, double per_second)
      : port_(port), request_(std::move(request)), per_second_(per_second) {
    epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ < 0) fail("epoll_create1");
    watch(STDIN_FILENO, kCommands);
    connections_.resize(connections);
    for (std::size_t i = 0; i < connections; ++i) open(i);
  }

  void run() {
    began_ = last_answer_ = number_since_ = now();
    while (!ended_ || in_flight_ > 0 || !backlog_.empty()) {
      const Nanos time = now();
      if (in_flight_ > 0 && time - last_answer_ > kPatience) {
        throw std::runtime_error("the server has stopped answering");
      }
      if (!ended_) fill_backlog(time);
      while (!idle_.empty() && !backlog_.empty()) send_next();
      std::array<epoll_event, 64> events;
      const timespec wait = until_next(now());
      const int ready =
          ::epoll_pwait2(epoll_, events.data(), static_cast<int>(events.size()), &wait, nullptr);
      for (int i = 0; i < ready; ++i) {
        const std::uint64_t which = events[static_cast<std::size_t>(i)].data.u64;
        if (which == kCommands) {
          take_commands();
        } else {
          receive(which);
        }
      }
    }
  }

  void report() const {
    for (const Count& count : std::span(counts_).subspan(1)) {
      const Durations& latencies = count.latencies;
      std::printf(
          "{\"requests\": %llu, \"failed\": %llu, \"seconds\": %.6f, \"p50_us\": %.2f, "
          "\"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.2f, \"sent_late_p99_us\": %.2f}\n",
          static_cast<unsigned long long>(latencies.total()),
          static_cast<unsigned long long>(count.failed), static_cast<double>(count.lasted) / 1e9,
          latencies.quantile_us(0.5), latencies.quantile_us(0.99), latencies.quantile_us(0.999),
          latencies.longest_us(), count.lateness.quantile_us(0.99));
    }
  }

 private:
  static constexpr std::uint64_t kCommands = ~std::uint64_t{0};

  void watch(int fd, std::uint64_t which) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = which;
    if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) fail("epoll_ctl");
  }

  void open(std::size_t which) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket");
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port_);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) fail("connect");
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (::fcntl(fd, F_SETFL, O_NONBLOCK) != 0) fail("fcntl");
    Connection& connection = connections_[which];
    connection = {};
    connection.fd = fd;
    connection.idle_since = now();
    watch(fd, which);
    idle_.push_back(which);
  }

  void fill_backlog(Nanos time) {
    if (per_second_ == 0) {
      for (std::size_t i = backlog_.size(); i < idle_.size(); ++i)
        backlog_.push_back({time, number_});
      return;
    }
    for (;;) {
      const Nanos when = due(sent_);
      if (when > time) return;
      backlog_.push_back({when, number_});
      ++sent_;
      if (backlog_.size() > kMostBacklog) throw std::runtime_error("the server does not keep up");
    }
  }

  // How long there is nothing to do but to wait for an answer. Nobody shall find the core idle and
  // a request due: the timer is as exact as the system has them (see main).
  timespec until_next(Nanos time) const {
    if (per_second_ == 0 || ended_) return {1, 0};
    const Nanos wait = std::clamp<Nanos>(due(sent_) - time, 0, kSecond - 1);
    return {0, wait};
  }

  Nanos due(std::uint64_t number) const {
    return began_ + static_cast<Nanos>(static_cast<double>(number) / per_second_ * 1e9);
  }

  void send_next() {
    Connection& connection = connections_[idle_.front()];
    idle_.pop_front();
    connection.due = backlog_.front();
    backlog_.pop_front();
    connection.busy = true;
    connection.received.clear();
    ++in_flight_;
    const auto size = static_cast<ssize_t>(request_.size());
    // A connection that was closed meanwhile says so when its answer is read.
    const ssize_t sent = ::send(connection.fd, request_.data(), request_.size(), MSG_NOSIGNAL);
    if (sent >= 0 && sent != size) throw std::runtime_error("the request does not fit the socket");
    counts_[connection.due.number].lateness.add(
        now() - std::max(connection.due.when, connection.idle_since));
  }

  void receive(std::uint64_t which) {
    Connection& connection = connections_[which];
    std::array<char, 1 << 16> bytes;
    const ssize_t got = ::recv(connection.fd, bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
      ++counts_[connection.busy ? connection.due.number : number_].failed;
      if (connection.busy) {
        --in_flight_;
      } else {
        idle_.erase(std::find(idle_.begin(), idle_.end(), which));
      }
      ::close(connection.fd);
      open(which);
      return;
    }
    connection.received.append(bytes.data(), static_cast<std::size_t>(got));
    const Answer answer = read_answer(connection.received);
    if (!answer.whole) return;
    last_answer_ = now();
    Count& count = counts_[connection.due.number];
    if (!answer.good) ++count.failed;
    count.latencies.add(last_answer_ - connection.due.when);
    connection.busy = false;
    connection.idle_since = last_answer_;
    --in_flight_;
    idle_.push_back(which);
  }

  void take_commands() {
    std::array<char, 64> bytes;
    const ssize_t got = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    const auto count_under = [&](std::size_t number) {
      const Nanos time = now();
      counts_[number_].lasted += time - number_since_;
      number_ = number;
      number_since_ = time;
    };
    for (const char digit :
         std::string_view(bytes.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0)))) {
      if (digit >= '0' && digit <= '9') count_under(static_cast<std::size_t>(digit - '0'));
    }
    if (got > 0) return;
    count_under(0);
    ended_ = true;
    ::epoll_ctl(epoll_, EPOLL_CTL_DEL, STDIN_FILENO, nullptr);
  }

  const std::uint16_t port_;
  const std::string request_;
  const double per_second_;
  int epoll_ = -1;
  std::vector<Connection> connections_;
  std::deque<std::uint64_t> idle_;
  std::deque<Due> backlog_;
  Nanos began_ = 0;
  Nanos last_answer_ = 0;
  std::uint64_t sent_ = 0;
  std::uint64_t in_flight_ = 0;
  bool ended_ = false;
  std::size_t number_ = 0;
  Nanos number_since_ = 0;
  std::array<Count, 10> counts_;
};

std::string read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

int main(int count, char** arguments) try {
  ::prctl(PR_SET_TIMERSLACK, 1UL);
  if (count != 5) throw std::runtime_error("PORT REQUEST_FILE CONNECTIONS REQUESTS_PER_SECOND");
  // Too large for the stack, with its counts.
  const auto load = std::make_unique<Load>(static_cast<std::uint16_t>(std::stoul(arguments[1])),
                                           read_file(arguments[2]), std::stoul(arguments[3]),
                                           std::stod(arguments[4]));
  load->run();
  load->report();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "open_loop: %s\n", error.what());
  return 1;
}
