// Buffer ids: small integers that JavaScript holds instead of pointers. The two halves live on different threads and
// share nothing: HandleIds (the JavaScript thread) hands ids out and takes them back; HandleTable (the stream thread)
// maps an id to memory. An id may be handed out again while the command that frees its old buffer is still queued,
// because commands run in order: the free comes before the command that binds the new buffer.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "alloc.h"

namespace molt {

class HandleIds {
 public:
  int32_t take();
  void give_back(int32_t id);
  int64_t live() const { return next_ - static_cast<int64_t>(free_.size()); }

 private:
  std::vector<int32_t> free_;
  int32_t next_ = 0;
};

struct Buffer {
  void* data = nullptr;  // null: not bound, or the command that should have made it failed
  size_t bytes = 0;
  bool mapped = false;   // part of a file (core/mapping.h), not a block of the allocator; never written to
};

class HandleTable {
 public:
  explicit HandleTable(Allocator& allocator) : allocator_(allocator) {}
  ~HandleTable();
  HandleTable(const HandleTable&) = delete;
  HandleTable& operator=(const HandleTable&) = delete;

  // Takes over a block of `allocator`, or a mapping.
  void bind(int32_t id, Buffer buffer);
  Buffer get(int32_t id) const { return static_cast<size_t>(id) < slots_.size() ? slots_[id] : Buffer{}; }
  void release(int32_t id);

 private:
  void give_back(Buffer buffer);

  Allocator& allocator_;
  std::vector<Buffer> slots_;
};

}  // namespace molt
