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
struct Fragments { float a[4], b[2]; };
static std::vector<Fragments> fragments;

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

// Every thread computes its four elements from the fragments of the whole warp.
void shim_mma(float *c, const float *a, const float *b) {
  Fragments &mine = fragments[linear], *const warp = &fragments[linear / 32 * 32];
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  of_warp[linear / 32]->arrive_and_wait();
  const unsigned g = linear % 32 / 4, t = linear % 4;
  for (unsigned r = 0; r < 4; ++r) {
    const unsigned column = 2 * t + r % 2;
    for (unsigned k = 0; k < 8; ++k) c[r] += warp[4 * g + k % 4].a[r / 2 + k / 4 * 2] * warp[4 * column + k % 4].b[k / 4];
  }
  of_warp[linear / 32]->arrive_and_wait();
}

// Whether the last block comes first, and in kernels whose threads never meet the last thread: no order is promised.
int shim_reversed = 0;

// Threads of a kernel that never meet run one after the other; a sanitizer that looks for races sees four of them at once.
void shim_launch(void (*kernel)(unsigned long long *), unsigned long long *arguments, unsigned blocks, unsigned x, unsigned y, bool together) {
  const unsigned count = x * y;
  const auto run = [&](unsigned thread, unsigned block) {
    threadIdx = {thread % x, thread / x, 0};
    blockIdx = {block, 0, 0};
    linear = thread;
    kernel(arguments);
  };
  const auto in_order = [](unsigned n, unsigned end) { return shim_reversed ? end - 1 - n : n; };
#ifdef __SANITIZE_THREAD__
  if (!together) {
    std::vector<std::thread> threads;
    for (unsigned part = 0; part < 4; ++part)
      threads.emplace_back([&, part] {
        for (unsigned n = part; n < blocks * count; n += 4) run(n % count, n / count);
      });
    for (auto &thread : threads) thread.join();
    return;
  }
#endif
  if (!together) {
    for (unsigned block = 0; block < blocks; ++block)
      for (unsigned thread = 0; thread < count; ++thread) run(in_order(thread, count), in_order(block, blocks));
    return;
  }
  exchanged.assign((count + 31) / 32 * 32, 0);
  fragments.resize(exchanged.size());
  whole_block = std::make_unique<std::barrier<>>(count);
  of_warp.clear();
  for (unsigned first = 0; first < count; first += 32) of_warp.push_back(std::make_unique<std::barrier<>>(count - first < 32 ? count - first : 32));
  std::barrier<> between(count);
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < count; ++thread)
    threads.emplace_back([&, thread] {
      for (unsigned block = 0; block < blocks; ++block) {
        run(thread, in_order(block, blocks));
        between.arrive_and_wait();
      }
    });
  for (auto &thread : threads) thread.join();
}
}
