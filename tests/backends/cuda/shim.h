// CUDA C on a CPU, for tests: what a program needs to be compiled; shim.cpp runs its launches.
#include <cmath>
#include <cstring>

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

extern __thread Place threadIdx, blockIdx;
extern __thread unsigned linear;

extern "C" {
void shim_sync();
int shim_sync_or(int flag);
void shim_from_lane(void *value, unsigned long size, unsigned lane);
void shim_mma(float *c, const float *a, const float *b);
void shim_launch(void (*kernel)(unsigned long long *), unsigned long long *arguments, unsigned blocks, unsigned x, unsigned y, bool together);
}

static inline long long clock64() { static long long now = 0; return now += 1000; }
static inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline float __int_as_float(int x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline int __float_as_int(float x) { int y; std::memcpy(&y, &x, 4); return y; }
static inline double __longlong_as_double(long long x) { double y; std::memcpy(&y, &x, 8); return y; }
static inline long long __double_as_longlong(double x) { long long y; std::memcpy(&y, &x, 8); return y; }

static inline void __syncthreads() { shim_sync(); }
static inline int __syncthreads_or(int flag) { return shim_sync_or(flag); }
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

template <typename T> static inline T __shfl_down_sync(unsigned, T value, unsigned by) {
  shim_from_lane(&value, sizeof(T), linear % 32 + by);
  return value;
}
template <typename T> static inline T __shfl_sync(unsigned, T value, unsigned lane) {
  shim_from_lane(&value, sizeof(T), lane);
  return value;
}

template <typename T> static inline T __shfl_xor_sync(unsigned, T value, unsigned by) {
  shim_from_lane(&value, sizeof(T), linear % 32 ^ by);
  return value;
}

static inline int min(int a, int b) { return a < b ? a : b; }

// Tensor cores, without their rounding: a wrong index cannot hide behind it.
static inline float tf32(float x) { return x; }
static inline void mma(float (&c)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
  const float a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
  shim_mma(c, a, b);
}

static inline unsigned atomicAdd(unsigned *at, unsigned by) { return __atomic_fetch_add(at, by, __ATOMIC_SEQ_CST); }
static inline unsigned long long atomicMin(unsigned long long *at, unsigned long long value) {
  unsigned long long before = __atomic_load_n(at, __ATOMIC_SEQ_CST);
  while (value < before && !__atomic_compare_exchange_n(at, &before, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
  return before;
}
