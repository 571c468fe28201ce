// The kernel table: name → one function per instruction set.
#include "op.h"

#include <cassert>
#include <cstring>
#include <vector>

namespace molt {
namespace {

struct Entry {
  const char* name;
  Kernel variants[kIsaLevels];
};

// Inside a function because static initialisers of other files fill it in no particular order.
std::vector<Entry>& table() {
  static std::vector<Entry> entries;
  return entries;
}

}  // namespace

bool register_kernel(const char* name, Kernel kernel, Isa isa) {
  for (Entry& entry : table()) {
    if (std::strcmp(entry.name, name) != 0) continue;
    assert(entry.variants[static_cast<int>(isa)] == nullptr && "kernel registered twice");
    entry.variants[static_cast<int>(isa)] = kernel;
    return true;
  }
  Entry entry{name, {}};
  entry.variants[static_cast<int>(isa)] = kernel;
  table().push_back(entry);
  return true;
}

int kernel_count() { return static_cast<int>(table().size()); }

const char* kernel_name(int index) { return table()[index].name; }

Kernel kernel_at(int index) {
  for (int level = static_cast<int>(active_isa()); level >= 0; level--) {
    if (Kernel kernel = table()[index].variants[level]) return kernel;
  }
  return nullptr;
}

}  // namespace molt
