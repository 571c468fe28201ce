// mmap wants offsets on page boundaries: a mapping begins on the page that holds the first byte, and the pointer handed
// out tells where that is.
#include "mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace molt {
namespace {

uintptr_t page_size() { return static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

void* map_file(const char* path, int64_t offset, size_t bytes, std::string& error) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (file < 0 || fstat(file, &status) != 0) {
    error = std::string(path) + ": " + std::strerror(errno);
    if (file >= 0) close(file);
    return nullptr;
  }
  if (offset < 0 || status.st_size < offset || static_cast<size_t>(status.st_size - offset) < bytes) {
    error = std::string(path) + " is shorter than it was when it was opened";
    close(file);
    return nullptr;
  }
  const size_t before = static_cast<uintptr_t>(offset) % page_size();
  void* const pages =
      mmap(nullptr, before + bytes, PROT_READ, MAP_PRIVATE, file, static_cast<off_t>(offset - static_cast<int64_t>(before)));
  if (pages == MAP_FAILED) error = std::string(path) + ": " + std::strerror(errno);
  close(file);
  return pages == MAP_FAILED ? nullptr : static_cast<char*>(pages) + before;
}

void unmap_file(void* data, size_t bytes) {
  const size_t before = reinterpret_cast<uintptr_t>(data) % page_size();
  munmap(static_cast<char*>(data) - before, before + bytes);
}

}  // namespace molt
