// Free list of ids, and the table behind them; see handle.h for who may call what.
#include "handle.h"

#include "mapping.h"

namespace molt {

int32_t HandleIds::take() {
  if (free_.empty()) return next_++;
  const int32_t id = free_.back();
  free_.pop_back();
  return id;
}

void HandleIds::give_back(int32_t id) { free_.push_back(id); }

HandleTable::~HandleTable() {
  for (const Buffer& buffer : slots_) give_back(buffer);
}

void HandleTable::bind(int32_t id, Buffer buffer) {
  if (static_cast<size_t>(id) >= slots_.size()) slots_.resize(id + 1);
  slots_[id] = buffer;
}

void HandleTable::release(int32_t id) {
  if (static_cast<size_t>(id) >= slots_.size()) return;  // the command that should have bound it failed
  give_back(slots_[id]);
  slots_[id] = {};
}

void HandleTable::give_back(Buffer buffer) {
  if (buffer.data == nullptr) return;
  if (buffer.mapped) {
    unmap_file(buffer.data, buffer.bytes);
  } else {
    allocator_.release(buffer.data, buffer.bytes);
  }
}

}  // namespace molt
