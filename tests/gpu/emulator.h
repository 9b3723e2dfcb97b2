// What the headers for either language ask of the emulator: where a thread is, barriers, exchanges, memory of its block. CUDA's words, of
// which Metal has its own: a block is a threadgroup, a warp a simdgroup, shared memory a threadgroup's.
#pragma once

#include <cstddef>

namespace gpu_host {

struct Index {
    unsigned x, y, z;
};

Index thread_index();
Index block_index();
Index block_size();
Index grid_size();
unsigned lane();
unsigned warp();
void block_barrier();
void warp_barrier(unsigned mask);
// The word that the lane `source` of the warp gives.
unsigned exchange(unsigned mask, unsigned word, unsigned source);
// d = a * b + c, matrices of 8 x 8 of a warp: a lane holds two neighbours, the lanes row after row. Sums from c on, in ascending order.
void multiply_matrices(float (&d)[2], const float (&a)[2], const float (&b)[2], const float (&c)[2]);
// Memory of the block that belongs to the declaration `key`.
void* shared_array(const void* key, size_t bytes);

}  // namespace gpu_host

// Memory of the block as a pointer to its first element.
#define SHARED(TYPE, NAME, COUNT)   \
    static char NAME##_declaration; \
    TYPE* const NAME = static_cast<TYPE*>(gpu_host::shared_array(&NAME##_declaration, sizeof(TYPE) * (COUNT)))
