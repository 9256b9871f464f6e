#include "runtime/ort/file_bytes.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace servolley::ort {
namespace {

// Well below a tenth of a millisecond's work; a multiple of every page size.
constexpr std::size_t kPieceBytes = std::size_t{64} << 10;

Status unreadable() { return invalid_argument("the model file cannot be read"); }

class Descriptor {
 public:
  explicit Descriptor(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace

FileBytes::FileBytes(FileBytes&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

FileBytes& FileBytes::operator=(FileBytes&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

FileBytes::~FileBytes() {
  for (std::size_t at = 0; at < bytes_; at += kPieceBytes) {
    ::munmap(data_ + at, std::min(kPieceBytes, bytes_ - at));
  }
}

Result<FileBytes> FileBytes::read(const std::string& path, std::size_t bytes) {
  const Descriptor file(path);
  if (file.get() < 0) return unreadable();
  FileBytes out;
  if (bytes == 0) return out;
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return Status(Code::kResourceExhausted, "no memory to read the model file");
  }
  out.data_ = static_cast<char*>(memory);
  out.bytes_ = bytes;
  std::size_t filled = 0;
  while (filled < bytes) {
    const ssize_t got =
        ::read(file.get(), out.data_ + filled, std::min(kPieceBytes, bytes - filled));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return unreadable();
    filled += static_cast<std::size_t>(got);
  }
  return out;
}

}  // namespace servolley::ort
