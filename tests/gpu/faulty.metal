// Kernels with one planted fault each, to show that the emulator finds it. Not part of the program.
#include "common.metal.h"

// Threads read what their neighbour wrote with no barrier between. Grid (any), 64 threads or more; out: a float for each of them.
[[kernel]] void faulty_shared_race(device float* out [[buffer(0)]], uint3 group [[threadgroup_position_in_grid]],
                                   uint index [[thread_index_in_threadgroup]]) {
    SHARED(float, values, 1024);
    values[index] = static_cast<float>(index);
    const uint neighbour = index == 0 ? 0 : index - 1;
    if (group.x == 0) {
        out[index] = values[neighbour];
    }
}

// Every threadgroup writes the same float. Grid (2 or more), any threads; out: one float.
[[kernel]] void faulty_block_race(device float* out [[buffer(0)]], uint3 group [[threadgroup_position_in_grid]],
                                  uint index [[thread_index_in_threadgroup]]) {
    if (index == 0) {
        out[0] = static_cast<float>(group.x);
    }
}

// Reads the float behind the end. Any grid and threads; out: n floats, an allocation of exactly that size.
[[kernel]] void faulty_out_of_bounds(device float* out [[buffer(0)]], constant int& n [[buffer(1)]],
                                     uint3 group [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]]) {
    if (group.x == 0 && index == 0) {
        out[0] = out[n];
    }
}

// Only half of the threads reach the barrier. Any grid, 64 threads or more; out: one float.
[[kernel]] void faulty_barrier(device float* out [[buffer(0)]], uint3 group [[threadgroup_position_in_grid]],
                               uint3 threads [[threads_per_threadgroup]], uint index [[thread_index_in_threadgroup]]) {
    if (index < threads.x / 2) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (group.x == 0 && index == 0) {
        out[0] = 1.0f;
    }
}

// A float more than a threadgroup may have. Any grid and threads; out: a float for each of them.
[[kernel]] void faulty_shared_size(device float* out [[buffer(0)]], uint index [[thread_index_in_threadgroup]]) {
    SHARED(float, values, 32 * 1024 / 4 + 1);
    values[index] = 1.0f;
    out[index] = values[index];
}

// A matrix is loaded from beyond the end of its array. Any grid, 32 threads; out: 64 floats.
[[kernel]] void faulty_matrix(device float* out [[buffer(0)]], uint index [[thread_index_in_threadgroup]]) {
    SHARED(float, values, 64);
    values[2 * index] = 1.0f;
    values[2 * index + 1] = 1.0f;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_float8x8 matrix;
    simdgroup_load(matrix, values + 8, 8);
    simdgroup_store(matrix, out, 8);
}

INSTANTIATE("faulty_shared_race", faulty_shared_race)
INSTANTIATE("faulty_block_race", faulty_block_race)
INSTANTIATE("faulty_out_of_bounds", faulty_out_of_bounds)
INSTANTIATE("faulty_barrier", faulty_barrier)
INSTANTIATE("faulty_shared_size", faulty_shared_size)
INSTANTIATE("faulty_matrix", faulty_matrix)
