// Kernels with one planted fault each, to show that the emulator finds it. Not part of the program.
#include "common.cuh"

// Threads read what their neighbour wrote with no barrier between. Grid (any), block 64 or more; out: a float for each thread of a block.
extern "C" __global__ void faulty_shared_race(float* out) {
    SHARED(float, values, 1024);
    values[threadIdx.x] = static_cast<float>(threadIdx.x);
    const unsigned neighbour = threadIdx.x == 0 ? 0 : threadIdx.x - 1;
    if (blockIdx.x == 0) {
        out[threadIdx.x] = values[neighbour];
    }
}

// Every block writes the same float. Grid (2 or more), any block; out: one float.
extern "C" __global__ void faulty_block_race(float* out) {
    if (threadIdx.x == 0) {
        out[0] = static_cast<float>(blockIdx.x);
    }
}

// Reads the float behind the end. Any grid and block; out: n floats, an allocation of exactly that size.
extern "C" __global__ void faulty_out_of_bounds(float* out, int n) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        out[0] = out[n];
    }
}

// Only half of the block reaches the barrier. Any grid, block 64 or more; out: one float.
extern "C" __global__ void faulty_barrier(float* out) {
    if (threadIdx.x < blockDim.x / 2) {
        __syncthreads();
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        out[0] = 1.0f;
    }
}

// A float more than a block may have without being asked. Any grid and block; out: a float for each thread of a block.
extern "C" __global__ void faulty_shared_size(float* out) {
    SHARED(float, values, 48 * 1024 / 4 + 1);
    values[threadIdx.x] = 1.0f;
    out[threadIdx.x] = values[threadIdx.x];
}
