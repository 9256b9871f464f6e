#include "shm/system_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace servolley::shm {
namespace {

constexpr std::size_t kLongestKey = 254;  // NAME_MAX without the slash
// glibc keeps POSIX semaphores beside the shared memory objects; Triton keeps its models' memory
// there. Neither is a client's tensor, and writing over them takes control of other processes.
constexpr std::string_view kSemaphores = "sem.";
constexpr std::string_view kTritonInternal = "triton_python_backend_shm_region_";

// "/name", as shm_open() wants it.
Result<std::string> object_name(std::string_view key) {
  if (key.starts_with('/')) key.remove_prefix(1);
  const bool named = !key.empty() && key != "." && key != ".." &&
                     key.find('/') == std::string_view::npos &&
                     key.find('\0') == std::string_view::npos && key.size() <= kLongestKey;
  if (!named || key.starts_with(kSemaphores) || key.starts_with(kTritonInternal)) {
    return invalid_argument("the key is not the name of a shared memory object of a client");
  }
  std::string name = "/";
  return name += key;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

Status cannot_open(int error) {
  if (error == EMFILE || error == ENFILE || error == ENOMEM) {
    return {Code::kResourceExhausted, "no descriptor is left for another shared memory region"};
  }
  return invalid_argument(error == ENOENT ? "there is no shared memory object with this key"
                                          : "the shared memory object cannot be opened");
}

// The object's size; nothing if it is none.
bool object_size(int fd, std::uint64_t& bytes) {
  struct stat about {};
  if (::fstat(fd, &about) != 0 || !S_ISREG(about.st_mode) || about.st_size < 0) return false;
  bytes = static_cast<std::uint64_t>(about.st_size);
  return true;
}

bool lies_in(std::uint64_t offset, std::uint64_t bytes, std::uint64_t whole) {
  return offset <= whole && bytes <= whole - offset;
}

}  // namespace

SystemRegion::SystemRegion(std::string_view name, std::string_view key, std::uint64_t offset,
                           std::uint64_t bytes, int fd, std::shared_ptr<Usage> usage)
    : Region(name, bytes, std::move(usage)), key_(key), offset_(offset), fd_(fd) {}

SystemRegion::~SystemRegion() {
  if (std::byte* const mapping = pinned_data()) {
    pinning_->unpin(mapping);
    ::munmap(mapping, bytes());
    usage().pinned_bytes -= bytes();
  }
  ::close(fd_);
}

bool SystemRegion::pin(std::shared_ptr<PinnedMemory> pinning) const {
  if (pinned_data()) return false;
  void* const mapping = ::mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd_,
                               static_cast<off_t>(offset_));
  if (mapping == MAP_FAILED) return false;
  auto* const first = static_cast<std::byte*>(mapping);
  // What is not there (any more) fails here: the kernel looks for the pages itself.
  if (!pinning->pin(first, bytes())) {
    ::munmap(mapping, bytes());
    return false;
  }
  pinning_ = std::move(pinning);
  usage().pinned_bytes += bytes();
  pinned_.store(first, std::memory_order_release);
  return true;
}

Status SystemRegion::check_there(std::uint64_t offset, std::uint64_t bytes) const {
  std::uint64_t whole = 0;
  if (!object_size(fd_, whole) || !lies_in(offset_ + offset, bytes, whole)) return too_short();
  return {};
}

Result<std::shared_ptr<const Region>> SystemRegion::open(std::string_view name,
                                                         std::string_view key, std::uint64_t offset,
                                                         std::uint64_t bytes,
                                                         std::shared_ptr<Usage> usage) {
  const auto object = object_name(key);
  if (!object) return object.error();
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  if (offset % page != 0) {
    return invalid_argument("the region's offset must be a multiple of the page size, " +
                            std::to_string(page));
  }
  if (bytes == 0) return invalid_argument("a region must have at least one byte");
  // Without O_NONBLOCK a lease that somebody holds on the object would stop the loop.
  Descriptor fd(::shm_open(object->c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK, 0));
  if (fd.get() < 0) return cannot_open(errno);
  std::uint64_t whole = 0;
  if (!object_size(fd.get(), whole)) {
    return invalid_argument("the key does not name a shared memory object");
  }
  if (!lies_in(offset, bytes, whole)) {
    return invalid_argument("the region's offset and byte_size reach behind the object's end");
  }
  return std::shared_ptr<const Region>(
      new SystemRegion(name, key, offset, bytes, fd.release(), std::move(usage)));
}

Status SystemRegion::too_short() const {
  return invalid_argument("a shared memory object has become shorter than its region");
}

Status SystemRegion::read(std::uint64_t offset, std::span<std::byte> to) const {
  std::uint64_t at = offset_ + offset;
  while (!to.empty()) {
    const ssize_t got = ::pread(fd_, to.data(), to.size(), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return internal_error("a shared memory region cannot be read");
    if (got == 0) return too_short();
    to = to.subspan(static_cast<std::size_t>(got));
    at += static_cast<std::uint64_t>(got);
  }
  return {};
}

Status SystemRegion::write(std::uint64_t offset, std::span<const std::byte> from) const {
  std::uint64_t at = offset_ + offset;
  // pwrite() would give a shortened object its length back. Shortening it just now still gets us
  // there, which costs the client the memory that it had registered and nobody anything else.
  SERVOLLEY_TRY(check_there(offset, from.size()));
  while (!from.empty()) {
    const ssize_t put = ::pwrite(fd_, from.data(), from.size(), static_cast<off_t>(at));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && (errno == ENOSPC || errno == ENOMEM)) {
      return {Code::kResourceExhausted, "there is no room for the pages of a shared memory region"};
    }
    if (put <= 0) return invalid_argument("a shared memory region cannot be written");
    from = from.subspan(static_cast<std::size_t>(put));
    at += static_cast<std::uint64_t>(put);
  }
  return {};
}

}  // namespace servolley::shm
