// In place of core/isa.cc: a processor with AMX, which amx_emulation.h provides.
#include "core/isa.h"

namespace molt {

Isa active_isa() { return Isa::amx; }
Isa best_isa() { return Isa::amx; }
const char* isa_name(Isa) { return "amx"; }

}  // namespace molt
