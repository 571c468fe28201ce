// N-API glue between kernels/backend.ts and the stream: decodes arguments, nothing else. One context per environment
// (the main thread and every worker thread have their own stream, pool and memory).
//
// A kernel call crosses the border as one record of numbers in a Float64Array that both sides share, because reading
// nested JavaScript arrays through N-API costs more than the whole command:
//   [kernel, inputs, outputs, attributes,  (id, dtype, rank, dims...) per input,  (dtype, rank, dims...) per output,
//    attribute values...]
// On return the first numbers are the ids of the outputs.
#include <node_api.h>

#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "core/isa.h"
#include "core/mapping.h"
#include "core/op.h"
#include "core/stream.h"

namespace molt {
namespace {

struct Context {
  std::unique_ptr<Stream> stream;
  HandleIds ids;
  double* commands = nullptr;
  napi_ref commands_ref = nullptr;
  napi_threadsafe_function settle = nullptr;
  int64_t pending_reads = 0;
};

Context* context_of(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return static_cast<Context*>(data);
}

napi_value undefined(napi_env env) {
  napi_value value;
  napi_get_undefined(env, &value);
  return value;
}

napi_value throw_error(napi_env env, const std::string& message) {
  napi_throw_error(env, nullptr, message.c_str());
  return undefined(env);
}

template <size_t N>
void arguments(napi_env env, napi_callback_info info, napi_value (&values)[N]) {
  size_t count = N;
  napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
}

int32_t int_argument(napi_env env, napi_value value) {
  int32_t number = 0;
  napi_get_value_int32(env, value, &number);
  return number;
}

struct Bytes {
  void* data = nullptr;
  size_t length = 0;
};

Bytes typed_array(napi_env env, napi_value value) {
  napi_typedarray_type type;
  size_t elements = 0;
  Bytes bytes;
  if (napi_get_typedarray_info(env, value, &type, &elements, &bytes.data, nullptr, nullptr) != napi_ok) return bytes;
  const size_t width = type == napi_float64_array                             ? 8
                       : type == napi_float32_array || type == napi_int32_array || type == napi_uint32_array ? 4
                       : type == napi_int16_array || type == napi_uint16_array ? 2
                                                                               : 1;
  bytes.length = elements * width;
  return bytes;
}

// ---- commands ----------------------------------------------------------------------------------------------------

// run(): executes the record in the shared array.
napi_value run(napi_env env, napi_callback_info) {
  Context* const context = context_of(env);
  double* record = context->commands;
  Command& command = context->stream->next();
  command.kind = Command::Kind::run;
  command.kernel = kernel_at(static_cast<int>(record[0]));
  const int inputs = static_cast<int>(record[1]);
  const int outputs = static_cast<int>(record[2]);
  const int attributes = static_cast<int>(record[3]);
  record += 4;

  const auto decode_tensor = [&record](Tensor& tensor) {
    tensor.dtype = static_cast<DType>(static_cast<int>(record[0]));
    tensor.rank = static_cast<int>(record[1]);
    record += 2;
    for (int i = 0; i < tensor.rank; i++) tensor.dims[i] = static_cast<int64_t>(*record++);
  };
  command.inputs.resize(inputs);
  for (Operand& operand : command.inputs) {
    operand.id = static_cast<int32_t>(*record++);
    decode_tensor(operand.tensor);
  }
  command.outputs.resize(outputs);
  for (Operand& operand : command.outputs) {
    operand.id = context->ids.take();
    decode_tensor(operand.tensor);
  }
  command.attrs.assign(record, record + attributes);

  for (int i = 0; i < outputs; i++) context->commands[i] = command.outputs[i].id;
  context->stream->publish();
  return nullptr;
}

// write(values: typed array): id. Copies at once, so the caller may reuse its array.
napi_value write(napi_env env, napi_callback_info info) {
  napi_value args[1];
  arguments(env, info, args);
  Context* const context = context_of(env);
  const Bytes source = typed_array(env, args[0]);
  Buffer buffer{nullptr, source.length, false};
  try {
    buffer.data = context->stream->allocator().allocate(source.length);
  } catch (const std::bad_alloc&) {
    return throw_error(env, "out of memory: a tensor of " + std::to_string(source.length) + " bytes does not fit");
  }
  if (source.length > 0) std::memcpy(buffer.data, source.data, source.length);
  Command& command = context->stream->next();
  command.kind = Command::Kind::bind;
  command.id = context->ids.take();
  command.buffer = buffer;
  napi_value id;
  napi_create_int32(env, command.id, &id);
  context->stream->publish();
  return id;
}

// map(path, offset, bytes): id of a read-only buffer that lies in the file.
napi_value map(napi_env env, napi_callback_info info) {
  napi_value args[3];
  arguments(env, info, args);
  Context* const context = context_of(env);
  size_t length = 0;
  napi_get_value_string_utf8(env, args[0], nullptr, 0, &length);
  std::string path(length, '\0');
  napi_get_value_string_utf8(env, args[0], path.data(), length + 1, &length);
  int64_t offset = 0, bytes = 0;
  napi_get_value_int64(env, args[1], &offset);
  napi_get_value_int64(env, args[2], &bytes);
  std::string error;
  void* const data = map_file(path.c_str(), offset, static_cast<size_t>(bytes), error);
  if (data == nullptr) return throw_error(env, error);
  Command& command = context->stream->next();
  command.kind = Command::Kind::bind;
  command.id = context->ids.take();
  command.buffer = {data, static_cast<size_t>(bytes), true};
  napi_value id;
  napi_create_int32(env, command.id, &id);
  context->stream->publish();
  return id;
}

// free(id)
napi_value free_buffer(napi_env env, napi_callback_info info) {
  napi_value args[1];
  arguments(env, info, args);
  Context* const context = context_of(env);
  Command& command = context->stream->next();
  command.kind = Command::Kind::free;
  command.id = int_argument(env, args[0]);
  context->ids.give_back(command.id);
  context->stream->publish();
  return nullptr;
}

// ---- reading -----------------------------------------------------------------------------------------------------

// Copies a buffer, or says why not: a failure stored by the stream, or a buffer that such a failure left empty.
std::string copy_out(Stream& stream, int32_t id, Bytes target) {
  std::string error = stream.take_error();
  if (!error.empty()) return error;
  const Buffer buffer = stream.buffer(id);
  if (buffer.data == nullptr) return "this tensor has no data: the operation that should have made it failed";
  const size_t length = target.length < buffer.bytes ? target.length : buffer.bytes;
  if (length > 0) std::memcpy(target.data, buffer.data, length);
  return {};
}

// read(id, target: typed array): waits for the stream and copies.
napi_value read(napi_env env, napi_callback_info info) {
  napi_value args[2];
  arguments(env, info, args);
  Stream& stream = *context_of(env)->stream;
  stream.wait();
  const std::string error = copy_out(stream, int_argument(env, args[0]), typed_array(env, args[1]));
  return error.empty() ? nullptr : throw_error(env, error);
}

struct PendingRead {
  Context* context = nullptr;
  napi_deferred deferred = nullptr;
  napi_ref target_ref = nullptr;  // keeps the array alive while the stream writes into it
  Bytes target;
  std::string error;
};

// On the JavaScript thread; without an environment when that is being torn down.
void settle_read(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<PendingRead> pending(static_cast<PendingRead*>(data));
  if (env == nullptr) return;
  Context* const context = pending->context;
  if (--context->pending_reads == 0) napi_unref_threadsafe_function(env, context->settle);
  if (pending->error.empty()) {
    napi_value target;
    napi_get_reference_value(env, pending->target_ref, &target);
    napi_resolve_deferred(env, pending->deferred, target);
  } else {
    napi_value message, error;
    napi_create_string_utf8(env, pending->error.c_str(), NAPI_AUTO_LENGTH, &message);
    napi_create_error(env, nullptr, message, &error);
    napi_reject_deferred(env, pending->deferred, error);
  }
  napi_delete_reference(env, pending->target_ref);
}

// readAsync(id, target: typed array): Promise of target, resolved once the stream has come this far.
napi_value read_async(napi_env env, napi_callback_info info) {
  napi_value args[2];
  arguments(env, info, args);
  Context* const context = context_of(env);
  auto* const pending = new PendingRead;
  pending->context = context;
  pending->target = typed_array(env, args[1]);
  napi_create_reference(env, args[1], 1, &pending->target_ref);
  napi_value promise;
  napi_create_promise(env, &pending->deferred, &promise);
  // The process must not end while a read is on its way.
  if (context->pending_reads++ == 0) napi_ref_threadsafe_function(env, context->settle);

  Stream* const stream = context->stream.get();
  const int32_t id = int_argument(env, args[0]);
  Command& command = stream->next();
  command.kind = Command::Kind::call;
  command.function = [stream, pending, id, settle = context->settle] {
    pending->error = copy_out(*stream, id, pending->target);
    if (napi_call_threadsafe_function(settle, pending, napi_tsfn_nonblocking) != napi_ok) delete pending;
  };
  stream->publish();
  return promise;
}

// ---- the rest ----------------------------------------------------------------------------------------------------

// sync(): waits; throws the stored failure, if there is one.
napi_value sync(napi_env env, napi_callback_info) {
  Stream& stream = *context_of(env)->stream;
  stream.wait();
  const std::string error = stream.take_error();
  return error.empty() ? nullptr : throw_error(env, error);
}

// stats(): memory as the stream sees it now; call sync() before for the state after everything enqueued.
napi_value stats(napi_env env, napi_callback_info) {
  Context* const context = context_of(env);
  const AllocatorStats stats = context->stream->allocator().stats();
  const struct {
    const char* name;
    int64_t value;
  } fields[] = {
      {"bytes", stats.live_bytes},
      {"buffers", stats.live_blocks},
      {"peakBytes", stats.peak_bytes},
      {"reservedBytes", stats.reserved_bytes},
      {"handles", context->ids.live()},
      {"commands", context->stream->executed()},
  };
  napi_value object;
  napi_create_object(env, &object);
  for (const auto& field : fields) {
    napi_value value;
    napi_create_int64(env, field.value, &value);
    napi_set_named_property(env, object, field.name, value);
  }
  return object;
}

napi_value reset_peak(napi_env env, napi_callback_info) {
  Stream& stream = *context_of(env)->stream;
  stream.wait();
  stream.allocator().reset_peak();
  return nullptr;
}

napi_value set_threads(napi_env env, napi_callback_info info) {
  napi_value args[1];
  arguments(env, info, args);
  context_of(env)->stream->set_threads(int_argument(env, args[0]));
  return nullptr;
}

// start(threads, commands: Float64Array): makes this environment's stream. Once per environment.
napi_value start(napi_env env, napi_callback_info info) {
  napi_value args[2];
  arguments(env, info, args);
  Context* const context = context_of(env);
  if (context->stream != nullptr) return throw_error(env, "the native stream of this thread is already started");
  context->commands = static_cast<double*>(typed_array(env, args[1]).data);
  napi_create_reference(env, args[1], 1, &context->commands_ref);
  context->stream = std::make_unique<Stream>(int_argument(env, args[0]));
  return nullptr;
}

napi_value kernel_names(napi_env env) {
  napi_value names;
  napi_create_array_with_length(env, kernel_count(), &names);
  for (int i = 0; i < kernel_count(); i++) {
    napi_value name;
    napi_create_string_utf8(env, kernel_name(i), NAPI_AUTO_LENGTH, &name);
    napi_set_element(env, names, i, name);
  }
  return names;
}

// The stream first: its last calls settle reads through the threadsafe function, which then drops them.
void tear_down(void* data) {
  Context* const context = static_cast<Context*>(data);
  context->stream.reset();
  napi_release_threadsafe_function(context->settle, napi_tsfn_abort);
}

napi_value init(napi_env env, napi_value exports) {
  auto* const context = new Context;
  napi_set_instance_data(
      env, context, [](napi_env, void* data, void*) { delete static_cast<Context*>(data); }, nullptr);

  napi_value name;
  napi_create_string_utf8(env, "molt", NAPI_AUTO_LENGTH, &name);
  napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, settle_read,
                                  &context->settle);
  napi_unref_threadsafe_function(env, context->settle);
  // After the threadsafe function, because hooks run in reverse order and it has one of its own.
  napi_add_env_cleanup_hook(env, tear_down, context);

  const struct {
    const char* name;
    napi_callback callback;
  } functions[] = {
      {"start", start},          {"run", run},   {"write", write}, {"map", map}, {"free", free_buffer},      {"read", read},
      {"readAsync", read_async}, {"sync", sync}, {"stats", stats}, {"resetPeak", reset_peak}, {"setThreads", set_threads},
  };
  for (const auto& function : functions) {
    napi_value value;
    napi_create_function(env, function.name, NAPI_AUTO_LENGTH, function.callback, nullptr, &value);
    napi_set_named_property(env, exports, function.name, value);
  }
  napi_set_named_property(env, exports, "kernels", kernel_names(env));
  napi_value isa;
  napi_create_string_utf8(env, isa_name(active_isa()), NAPI_AUTO_LENGTH, &isa);
  napi_set_named_property(env, exports, "isa", isa);
  napi_value isas;
  napi_create_array(env, &isas);
  for (int level = 0; level <= static_cast<int>(best_isa()); ++level) {
    napi_value name;
    napi_create_string_utf8(env, isa_name(static_cast<Isa>(level)), NAPI_AUTO_LENGTH, &name);
    napi_set_element(env, isas, static_cast<uint32_t>(level), name);
  }
  napi_set_named_property(env, exports, "isas", isas);
  return exports;
}

}  // namespace
}  // namespace molt

extern "C" {
NAPI_MODULE_EXPORT int32_t node_api_module_get_api_version_v1() { return 8; }
NAPI_MODULE_EXPORT napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  return molt::init(env, exports);
}
}
