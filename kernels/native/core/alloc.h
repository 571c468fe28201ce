// Memory for tensors: size classes with a free list each, so that a training step that allocates what the last step
// freed never asks the system. Large blocks are whole 2 MiB pages (transparent huge pages are opt-in here; they are
// worth 10–25 % in matrix products). Safe to call from several threads. A device with its own memory gets its own
// allocator with these functions.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace molt {

struct AllocatorStats {
  int64_t live_bytes = 0;      // requested by live blocks
  int64_t live_blocks = 0;
  int64_t peak_bytes = 0;      // highest live_bytes since the last reset_peak
  int64_t reserved_bytes = 0;  // held from the system: live blocks rounded up to their class, and cached blocks
};

class Allocator {
 public:
  Allocator() = default;
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // At least `bytes` bytes, aligned to 64; never null: throws std::bad_alloc. Contents are arbitrary.
  void* allocate(size_t bytes);
  // `bytes` as given to allocate.
  void release(void* block, size_t bytes);

  AllocatorStats stats();
  void reset_peak();

 private:
  // Gives every cached block back to the system. The mutex is held.
  void empty_cache();

  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> cached_;  // class size → free blocks
  AllocatorStats stats_;
  int64_t highest_live_ = 0;  // never reset: bounds what may stay cached
};

}  // namespace molt
