// CUDA C on a CPU, for tests: a launch runs its blocks one after the other, a block's threads together.
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __shared__ static

struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(16) longlong2 { long long x, y; };
struct alignas(16) ulonglong2 { unsigned long long x, y; };
struct alignas(8) short4 { short x, y, z, w; };
struct alignas(8) ushort4 { unsigned short x, y, z, w; };
struct alignas(4) char4 { signed char x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };

struct Place {
  unsigned x, y, z;
};

static thread_local Place threadIdx, blockIdx;
static thread_local unsigned linear;
static std::unique_ptr<std::barrier<>> whole_block;
static std::vector<std::unique_ptr<std::barrier<>>> of_warp;
static std::vector<unsigned long long> exchanged;
static std::atomic<int> votes[2];

static inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline float __int_as_float(int x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline int __float_as_int(float x) { int y; std::memcpy(&y, &x, 4); return y; }
static inline double __longlong_as_double(long long x) { double y; std::memcpy(&y, &x, 8); return y; }
static inline long long __double_as_longlong(double x) { long long y; std::memcpy(&y, &x, 8); return y; }

static inline void __syncthreads() { whole_block->arrive_and_wait(); }

static inline int __syncthreads_or(int flag) {
  if (linear == 0) votes[0] = 0;
  whole_block->arrive_and_wait();
  if (flag) votes[0] = 1;
  whole_block->arrive_and_wait();
  const int any = votes[0];
  whole_block->arrive_and_wait();
  return any;
}

template <typename T> static inline T from_lane(T value, unsigned lane) {
  std::memcpy(&exchanged[linear], &value, sizeof(T));
  of_warp[linear / 32]->arrive_and_wait();
  T found = value;
  if (lane < 32) std::memcpy(&found, &exchanged[linear / 32 * 32 + lane], sizeof(T));
  of_warp[linear / 32]->arrive_and_wait();
  return found;
}

template <typename T> static inline T __shfl_down_sync(unsigned, T value, unsigned by) { return from_lane(value, linear % 32 + by); }
template <typename T> static inline T __shfl_sync(unsigned, T value, unsigned lane) { return from_lane(value, lane); }

static inline unsigned long long atomicMin(unsigned long long *at, unsigned long long value) {
  std::atomic_ref<unsigned long long> held(*at);
  unsigned long long before = held;
  while (value < before && !held.compare_exchange_weak(before, value)) {}
  return before;
}

static inline unsigned atomicAdd(unsigned *at, unsigned by) { return std::atomic_ref<unsigned>(*at).fetch_add(by); }
static inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }

// Threads of a kernel that never meet run one after the other.
template <typename Kernel> static void launch(Kernel kernel, unsigned blocks, unsigned x, unsigned y, bool together) {
  const unsigned count = x * y;
  const auto run = [&](unsigned thread, unsigned block) {
    threadIdx = {thread % x, thread / x, 0};
    blockIdx = {block, 0, 0};
    linear = thread;
    kernel();
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
