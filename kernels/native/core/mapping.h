// Tensors that lie in a file: frozen weights are read where the checkpoint has them, page by page when first used, and
// every process that runs the same teacher shares the pages. The file must not change while it is mapped; if it becomes
// shorter, reading beyond its new end kills the process, which the worker reports like any other death of a stage.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace molt {

// `bytes` bytes of the file from `offset` on, which need not be aligned. Null when the system refuses; then `error` says
// why. The pages are read-only.
void* map_file(const char* path, int64_t offset, size_t bytes, std::string& error);
// What map_file returned, and the same `bytes`.
void unmap_file(void* data, size_t bytes);

}  // namespace molt
