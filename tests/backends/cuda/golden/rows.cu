extern "C" __global__ void __launch_bounds__(256) k0(const long long *status, const float *__restrict__ a0, const float *__restrict__ a1, float *__restrict__ r0) {
  if (*status) return;
  const int row0 = (int)blockIdx.x * 8 + (int)threadIdx.y;
  const int t1 = (int)threadIdx.x;
  float kept2[16];
  float sum3 = -0.0f;
#pragma unroll
  for (int k4 = 0; k4 < 16; ++k4) {
    const int j6 = t1 + k4 * 32;
    const float v7 = a0[row0 * 512 + j6];
    sum3 = sum3 + v7;
  }
  const float v8 = __shfl_down_sync(0xffffffffu, sum3, 16);
  sum3 = sum3 + v8;
  const float v9 = __shfl_down_sync(0xffffffffu, sum3, 8);
  sum3 = sum3 + v9;
  const float v10 = __shfl_down_sync(0xffffffffu, sum3, 4);
  sum3 = sum3 + v10;
  const float v11 = __shfl_down_sync(0xffffffffu, sum3, 2);
  sum3 = sum3 + v11;
  const float v12 = __shfl_down_sync(0xffffffffu, sum3, 1);
  sum3 = sum3 + v12;
  sum3 = __shfl_sync(0xffffffffu, sum3, 0);
  const float v13 = sum3;
  float sum14 = -0.0f;
#pragma unroll
  for (int k15 = 0; k15 < 16; ++k15) {
    const int j17 = t1 + k15 * 32;
    const float v18 = a0[row0 * 512 + j17];
    const float v19 = v13 * 0.001953125f;
    const float v20 = v18 - v19;
    const float v21 = v20 * v20;
    sum14 = sum14 + v21;
    kept2[k15] = v20;
  }
  const float v22 = __shfl_down_sync(0xffffffffu, sum14, 16);
  sum14 = sum14 + v22;
  const float v23 = __shfl_down_sync(0xffffffffu, sum14, 8);
  sum14 = sum14 + v23;
  const float v24 = __shfl_down_sync(0xffffffffu, sum14, 4);
  sum14 = sum14 + v24;
  const float v25 = __shfl_down_sync(0xffffffffu, sum14, 2);
  sum14 = sum14 + v25;
  const float v26 = __shfl_down_sync(0xffffffffu, sum14, 1);
  sum14 = sum14 + v26;
  sum14 = __shfl_sync(0xffffffffu, sum14, 0);
  const float v27 = sum14;
#pragma unroll
  for (int k28 = 0; k28 < 16; ++k28) {
    const int j30 = t1 + k28 * 32;
    const float v31 = v27 * 0.001953125f;
    const float v32 = v31 + 1e-05f;
    const float v33 = sqrtf(v32);
    const float v34 = 1.0f / v33;
    const float v35 = kept2[k28] * v34;
    const float v36 = a1[j30];
    const float v37 = v35 * v36;
    const int o38 = row0 * 512 + j30;
    r0[o38] = v37;
  }
}

// k0<<<8, 32x8>>>(input 0+0, input 1+0, output 0+0)
