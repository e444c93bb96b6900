// Launches on a CPU: blocks one after the other, a block's threads together, with real barriers.
#include "shim.h"

#include <atomic>
#include <barrier>
#include <memory>
#include <thread>
#include <vector>

__thread Place threadIdx, blockIdx;
__thread unsigned linear;
static std::unique_ptr<std::barrier<>> whole_block;
static std::vector<std::unique_ptr<std::barrier<>>> of_warp;
static std::vector<unsigned long long> exchanged;
static std::atomic<int> vote;

extern "C" {

void shim_sync() { whole_block->arrive_and_wait(); }

int shim_sync_or(int flag) {
  if (linear == 0) vote = 0;
  whole_block->arrive_and_wait();
  if (flag) vote = 1;
  whole_block->arrive_and_wait();
  const int any = vote;
  whole_block->arrive_and_wait();
  return any;
}

void shim_from_lane(void *value, unsigned long size, unsigned lane) {
  std::memcpy(&exchanged[linear], value, size);
  of_warp[linear / 32]->arrive_and_wait();
  if (lane < 32) std::memcpy(value, &exchanged[linear / 32 * 32 + lane], size);
  of_warp[linear / 32]->arrive_and_wait();
}

// Threads of a kernel that never meet run one after the other.
void shim_launch(void (*kernel)(unsigned long long *), unsigned long long *arguments, unsigned blocks, unsigned x, unsigned y, bool together) {
  const unsigned count = x * y;
  const auto run = [&](unsigned thread, unsigned block) {
    threadIdx = {thread % x, thread / x, 0};
    blockIdx = {block, 0, 0};
    linear = thread;
    kernel(arguments);
  };
  if (!together) {
    for (unsigned block = 0; block < blocks; ++block)
      for (unsigned thread = 0; thread < count; ++thread) run(thread, block);
    return;
  }
  exchanged.assign((count + 31) / 32 * 32, 0);
  whole_block = std::make_unique<std::barrier<>>(count);
  of_warp.clear();
  for (unsigned first = 0; first < count; first += 32) of_warp.push_back(std::make_unique<std::barrier<>>(count - first < 32 ? count - first : 32));
  std::barrier<> between(count);
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < count; ++thread)
    threads.emplace_back([&, thread] {
      for (unsigned block = 0; block < blocks; ++block) {
        run(thread, block);
        between.arrive_and_wait();
      }
    });
  for (auto &thread : threads) thread.join();
}
}
