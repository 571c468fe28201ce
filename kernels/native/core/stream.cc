// A single-producer single-consumer ring. Both sides spin for a moment and then sleep on a condition variable; a sleeper
// announces itself with a flag before it looks at the counters a last time (all sequentially consistent), so that the
// other side pays for a wake-up only when someone sleeps.
#include "stream.h"

#include <new>
#include <utility>

namespace molt {
namespace {

// Commands JavaScript may be ahead. A layer is about 50 commands, a training step a few thousand: enough to never wait,
// small enough to bound the memory of queued writes.
constexpr uint64_t kDepth = 8192;

// About 10 µs. A JavaScript-bound program enqueues a command every few µs; sleeping between them would cost a system
// call each.
constexpr int kSpins = 400;

constexpr uint64_t kNever = ~uint64_t{0};

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Stream::Stream(int threads) : pool_(new Pool(threads)), ring_(kDepth), wake_producer_at_(kNever) {
  thread_ = std::thread([this] { loop(); });
}

Stream::~Stream() {
  closing_.store(true);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    work_.notify_one();
  }
  thread_.join();
}

Command& Stream::next() {
  const uint64_t head = head_.load(std::memory_order_relaxed);
  // Once full, sleep until half of the ring is free: waking up for every slot would slow both sides down.
  if (head - tail_.load() >= kDepth) sleep_until_executed(head - kDepth / 2);
  return ring_[head % kDepth];
}

void Stream::publish() {
  head_.store(head_.load(std::memory_order_relaxed) + 1);
  if (stream_sleeps_.load()) {
    std::lock_guard<std::mutex> lock(mutex_);
    work_.notify_one();
  }
}

void Stream::wait() {
  const uint64_t head = head_.load(std::memory_order_relaxed);
  for (int i = 0; i < kSpins; i++) {
    if (tail_.load() == head) return;
    relax();
  }
  sleep_until_executed(head);
}

void Stream::sleep_until_executed(uint64_t tail) {
  wake_producer_at_.store(tail);
  std::unique_lock<std::mutex> lock(mutex_);
  progress_.wait(lock, [&] { return tail_.load() >= tail; });
  wake_producer_at_.store(kNever);
}

std::string Stream::take_error() {
  std::lock_guard<std::mutex> lock(error_mutex_);
  return std::exchange(error_, {});
}

void Stream::set_threads(int threads) {
  wait();
  // The stream sleeps or spins on an empty ring and does not look at the pool.
  pool_.reset();
  pool_ = std::make_unique<Pool>(threads);
}

void Stream::loop() {
  uint64_t tail = 0;
  for (;;) {
    for (int i = 0; i < kSpins && head_.load() == tail; i++) relax();
    if (head_.load() == tail) {
      stream_sleeps_.store(true);
      std::unique_lock<std::mutex> lock(mutex_);
      work_.wait(lock, [&] { return head_.load() != tail || closing_.load(); });
      stream_sleeps_.store(false);
      if (head_.load() == tail) return;
    }
    execute(ring_[tail % kDepth]);
    tail_.store(++tail);
    if (tail >= wake_producer_at_.load()) {
      std::lock_guard<std::mutex> lock(mutex_);
      progress_.notify_one();
    }
  }
}

void Stream::execute(Command& command) {
  switch (command.kind) {
    case Command::Kind::run:
      if (!closing_.load(std::memory_order_relaxed)) run(command);
      break;
    case Command::Kind::bind:
      handles_.bind(command.id, command.buffer);
      break;
    case Command::Kind::free:
      handles_.release(command.id);
      break;
    case Command::Kind::call:
      command.function();
      command.function = nullptr;
      break;
  }
}

void Stream::run(Command& command) {
  in_.clear();
  out_.clear();
  for (Operand& operand : command.inputs) {
    operand.tensor.data = handles_.get(operand.id).data;
    if (operand.tensor.data == nullptr) return;  // what should have made it failed and is already reported
    in_.push_back(operand.tensor);
  }
  bool empty = !command.outputs.empty();
  for (Operand& operand : command.outputs) {
    const int64_t size = operand.tensor.size();
    const size_t bytes = static_cast<size_t>(size * dtype_bytes(operand.tensor.dtype));
    try {
      operand.tensor.data = allocator_.allocate(bytes);
    } catch (const std::bad_alloc&) {
      return fail("out of memory: a tensor of " + std::to_string(bytes) + " bytes does not fit (" +
                  std::to_string(allocator_.stats().live_bytes) + " bytes are in use)");
    }
    handles_.bind(operand.id, {operand.tensor.data, bytes, false});
    out_.push_back(operand.tensor);
    if (size > 0) empty = false;
  }
  if (empty) return;
  Call call;
  call.in = in_.data();
  call.inputs = static_cast<int>(in_.size());
  call.out = out_.data();
  call.outputs = static_cast<int>(out_.size());
  call.attrs = command.attrs.data();
  call.attr_count = static_cast<int>(command.attrs.size());
  call.pool = pool_.get();
  command.kernel(call);
}

void Stream::fail(std::string message) {
  std::lock_guard<std::mutex> lock(error_mutex_);
  if (error_.empty()) error_ = std::move(message);
}

}  // namespace molt
