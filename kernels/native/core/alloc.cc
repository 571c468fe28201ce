// Size classes are spaced by an eighth of a power of two (at most 12.5 % waste). Blocks of 2 MiB and more are mapped
// from the start of a huge page. Cached memory is bounded: before new memory is mapped, the cache is emptied if what is
// held would pass 1.25 × the most that was ever live.
#include "alloc.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace molt {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kPage = 4096;
constexpr int64_t kCacheSlack = int64_t{64} << 20;

size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

size_t class_size(size_t bytes) {
  if (bytes <= 8 * kAlignment) return bytes == 0 ? kAlignment : round_up(bytes, kAlignment);
  const size_t power = size_t{1} << (63 - __builtin_clzll(bytes));
  const size_t size = round_up(bytes, power / 8);
  return round_up(size, size >= kHugePage ? kPage : kAlignment);
}

// Null when the system has no memory left.
void* system_allocate(size_t size) {
  if (size < kHugePage) return std::aligned_alloc(kAlignment, size);
  // Map one page more than needed and return the ends, so that the block starts on a huge page.
  const size_t mapped = size + kHugePage;
  void* const raw = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  char* const begin = static_cast<char*>(raw);
  char* const block = reinterpret_cast<char*>(round_up(reinterpret_cast<size_t>(raw), kHugePage));
  const size_t head = static_cast<size_t>(block - begin);
  const size_t tail = mapped - head - size;
  if (head > 0) munmap(begin, head);
  if (tail > 0) munmap(block + size, tail);
  madvise(block, size, MADV_HUGEPAGE);  // only a hint: without it the kernels are slower, not wrong
  return block;
}

void system_release(void* block, size_t size) {
  if (size < kHugePage) {
    std::free(block);
  } else {
    munmap(block, size);
  }
}

}  // namespace

Allocator::~Allocator() { empty_cache(); }

void* Allocator::allocate(size_t bytes) {
  const size_t size = class_size(bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  void* block = nullptr;
  const auto found = cached_.find(size);
  if (found != cached_.end() && !found->second.empty()) {
    block = found->second.back();
    found->second.pop_back();
  } else {
    const int64_t live = stats_.live_bytes + static_cast<int64_t>(size);
    const int64_t most = live > highest_live_ ? live : highest_live_;
    if (stats_.reserved_bytes + static_cast<int64_t>(size) > most + most / 4 + kCacheSlack) empty_cache();
    block = system_allocate(size);
    if (block == nullptr) {
      empty_cache();
      block = system_allocate(size);
      if (block == nullptr) throw std::bad_alloc();
    }
    stats_.reserved_bytes += static_cast<int64_t>(size);
  }
  stats_.live_bytes += static_cast<int64_t>(bytes);
  stats_.live_blocks++;
  if (stats_.live_bytes > stats_.peak_bytes) stats_.peak_bytes = stats_.live_bytes;
  if (stats_.live_bytes > highest_live_) highest_live_ = stats_.live_bytes;
  return block;
}

void Allocator::release(void* block, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  cached_[class_size(bytes)].push_back(block);
  stats_.live_bytes -= static_cast<int64_t>(bytes);
  stats_.live_blocks--;
}

AllocatorStats Allocator::stats() {
  std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

void Allocator::reset_peak() {
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.peak_bytes = stats_.live_bytes;
}

void Allocator::empty_cache() {
  for (auto& [size, blocks] : cached_) {
    for (void* block : blocks) {
      system_release(block, size);
      stats_.reserved_bytes -= static_cast<int64_t>(size);
    }
    blocks.clear();
  }
}

}  // namespace molt
