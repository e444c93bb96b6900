extern "C" __global__ void __launch_bounds__(256) k0(const long long *status, const float *__restrict__ a0, const float *__restrict__ a1, float *__restrict__ r0) {
  if (*status) return;
  const int row0 = (int)blockIdx.x * 8 + (int)threadIdx.y;
  const int t1 = (int)threadIdx.x;
  float kept2[16];
  float sum3 = -0.0f;
#pragma unroll
  for (int k4 = 0; k4 < 16; ++k4) {
    const int j5 = t1 + k4 * 32;
    const float v6 = a0[row0 * 512 + j5];
    sum3 = sum3 + v6;
  }
  const float v7 = __shfl_down_sync(0xffffffffu, sum3, 16);
  sum3 = sum3 + v7;
  const float v8 = __shfl_down_sync(0xffffffffu, sum3, 8);
  sum3 = sum3 + v8;
  const float v9 = __shfl_down_sync(0xffffffffu, sum3, 4);
  sum3 = sum3 + v9;
  const float v10 = __shfl_down_sync(0xffffffffu, sum3, 2);
  sum3 = sum3 + v10;
  const float v11 = __shfl_down_sync(0xffffffffu, sum3, 1);
  sum3 = sum3 + v11;
  sum3 = __shfl_sync(0xffffffffu, sum3, 0);
  const float v12 = sum3;
  float sum13 = -0.0f;
#pragma unroll
  for (int k14 = 0; k14 < 16; ++k14) {
    const int j15 = t1 + k14 * 32;
    const float v16 = a0[row0 * 512 + j15];
    const float v17 = v12 * 0.001953125f;
    const float v18 = v16 - v17;
    const float v19 = v18 * v18;
    sum13 = sum13 + v19;
    kept2[k14] = v18;
  }
  const float v20 = __shfl_down_sync(0xffffffffu, sum13, 16);
  sum13 = sum13 + v20;
  const float v21 = __shfl_down_sync(0xffffffffu, sum13, 8);
  sum13 = sum13 + v21;
  const float v22 = __shfl_down_sync(0xffffffffu, sum13, 4);
  sum13 = sum13 + v22;
  const float v23 = __shfl_down_sync(0xffffffffu, sum13, 2);
  sum13 = sum13 + v23;
  const float v24 = __shfl_down_sync(0xffffffffu, sum13, 1);
  sum13 = sum13 + v24;
  sum13 = __shfl_sync(0xffffffffu, sum13, 0);
  const float v25 = sum13;
#pragma unroll
  for (int k26 = 0; k26 < 16; ++k26) {
    const int j27 = t1 + k26 * 32;
    const float v28 = v25 * 0.001953125f;
    const float v29 = v28 + 1e-05f;
    const float v30 = sqrtf(v29);
    const float v31 = 1.0f / v30;
    const float v32 = kept2[k26] * v31;
    const float v33 = a1[j27];
    const float v34 = v32 * v33;
    const int o35 = row0 * 512 + j27;
    r0[o35] = v34;
  }
}

// k0<<<8, 32x8>>>(input 0+0, input 1+0, output 0+0)
