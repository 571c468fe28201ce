// A stream: one thread that executes commands in the order they were enqueued, like a CUDA stream. JavaScript encodes a
// command into the next free slot of a ring and goes on; it waits only for data it reads, or when the ring is full.
// Memory for outputs is allocated and freed in command order, so the peak is what the program's order implies and not
// how far JavaScript has run ahead.
//
// Commands cannot fail by construction except for memory. The first failure is kept and thrown at the next wait; the
// buffers it should have produced stay empty, and commands that need them are skipped.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "alloc.h"
#include "handle.h"
#include "op.h"
#include "pool.h"

namespace molt {

// One operand of a command: which buffer, seen with which shape. `tensor.data` is filled in on the stream.
struct Operand {
  int32_t id = 0;
  Tensor tensor;
};

struct Command {
  enum class Kind : uint8_t { run, bind, free, call };

  Kind kind = Kind::run;
  Kernel kernel = nullptr;  // run
  std::vector<Operand> inputs;
  std::vector<Operand> outputs;
  std::vector<double> attrs;
  int32_t id = 0;  // bind, free
  Buffer buffer;   // bind
  std::function<void()> function;  // call
};

class Stream {
 public:
  explicit Stream(int threads);
  // Skips what is still queued (except calls, which may own something), then joins.
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // The slot of the next command; blocks while the ring is full. Fill it, then publish(). Slots are reused: their
  // vectors keep their capacity and must be cleared by the caller. Single producer.
  Command& next();
  void publish();

  // Returns when everything published so far has been executed.
  void wait();
  // The message of the first failure since the last call, or an empty string.
  std::string take_error();

  // The data of a buffer: on the stream thread (from a `call`), or after wait() on the producer's thread.
  Buffer buffer(int32_t id) const { return handles_.get(id); }

  Allocator& allocator() { return allocator_; }
  int threads() const { return pool_->threads(); }
  // Waits, then replaces the pool.
  void set_threads(int threads);
  int64_t executed() const { return static_cast<int64_t>(tail_.load()); }

 private:
  void sleep_until_executed(uint64_t tail);
  void loop();
  void execute(Command& command);
  void run(Command& command);
  void fail(std::string message);

  Allocator allocator_;
  HandleTable handles_{allocator_};
  std::unique_ptr<Pool> pool_;
  std::vector<Command> ring_;
  std::vector<Tensor> in_;
  std::vector<Tensor> out_;

  std::atomic<uint64_t> head_{0};  // commands published
  std::atomic<uint64_t> tail_{0};  // commands executed
  std::atomic<bool> stream_sleeps_{false};
  std::atomic<uint64_t> wake_producer_at_;  // value of tail_ the producer sleeps for; kNever: it is awake
  std::atomic<bool> closing_{false};
  std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable progress_;
  std::mutex error_mutex_;
  std::string error_;
  std::thread thread_;
};

}  // namespace molt
