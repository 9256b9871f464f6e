#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/status.h"

namespace servolley::ort {

// The content of a file in memory of its own. It is read and given back piece by piece: one system
// call over hundreds of megabytes may keep every other thread from its processor for tens of
// milliseconds, whatever their priorities.
class FileBytes {
 public:
  FileBytes() = default;
  ~FileBytes();
  FileBytes(FileBytes&& other) noexcept;
  FileBytes& operator=(FileBytes&& other) noexcept;
  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;

  // Read, not mapped: a file that somebody truncates meanwhile must not end the process.
  // INVALID_ARGUMENT if it cannot be read or holds fewer than `bytes`.
  static Result<FileBytes> read(const std::string& path, std::size_t bytes);

  std::span<const char> bytes() const { return {data_, bytes_}; }

 private:
  char* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace servolley::ort
