// Rows of the embedding table, widened to f32. Grid (rows), any block.
//
// A token with the highest bit is one that the step before has chosen: the rest is where its answer begins, a status that is 0 if there is a
// token, and the token. Without one the row is computed for nothing, from any other.
#include "common.cuh"

constexpr unsigned AWAITED_TOKEN = 1u << 31;

__device__ inline unsigned token_of(unsigned token, const unsigned* answers) {
    if (token < AWAITED_TOKEN) {
        return token;
    }
    const unsigned* answer = answers + (token - AWAITED_TOKEN);
    return answer[0] == 0 ? answer[1] : 0;
}

template <class T>
__device__ void embed(const T* table, const unsigned* tokens, const unsigned* answers, float* out, int width) {
    after_kernels_before();
    const size_t row = blockIdx.x;
    const T* from = table + static_cast<size_t>(token_of(tokens[row], answers)) * width;
    float* to = out + row * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        to[i] = to_float(from[i]);
    }
}

#define EMBED(NAME, T)                                                                                                   \
    extern "C" __global__ void embed_##NAME(const T* table, const unsigned* tokens, const unsigned* answers, float* out, \
                                            int width) {                                                                \
        embed<T>(table, tokens, answers, out, width);                                                                    \
    }

EMBED(bf16, __nv_bfloat16)
EMBED(f16, __half)
