// out = x / sqrt(mean(x^2) + eps) * gain, rounded to the operand's type. Grid (rows), block NORM_THREADS.
#include "common.cuh"

constexpr int NORM_THREADS = 256;

// The order of the sum depends on the width alone: each thread takes every 256th value, then the lanes of a warp, then the warps in order.
template <class T> __device__ void rms_norm(const float* x, const float* gain, float eps, T* out, int width) {
    after_kernels_before();
    SHARED(float, warp_sums, NORM_THREADS / WARP);
    const size_t first = static_cast<size_t>(blockIdx.x) * width;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += NORM_THREADS) {
        sum = fmaf(x[first + i], x[first + i], sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) {
        warp_sums[threadIdx.x / WARP] = sum;
    }
    __syncthreads();
    sum = 0.0f;
    for (int warp = 0; warp < NORM_THREADS / WARP; ++warp) {
        sum += warp_sums[warp];
    }
    const float scale = inverse_root_mean(sum, width, eps);
    for (int i = threadIdx.x; i < width; i += NORM_THREADS) {
        out[first + i] = from_float<T>(x[first + i] * scale * gain[i]);
    }
}

#define RMS_NORM(NAME, T)                                                                                           \
    extern "C" __global__ void __launch_bounds__(NORM_THREADS)                                                      \
        rms_norm_##NAME(const float* x, const float* gain, float eps, T* out, int width) {                          \
        rms_norm<T>(x, gain, eps, out, width);                                                                      \
    }

RMS_NORM(bf16, __nv_bfloat16)
RMS_NORM(f16, __half)
