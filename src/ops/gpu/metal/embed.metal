// Rows of the embedding table, widened to f32. Grid (rows), any threads.
//
// A token with the highest bit is one that the step before has chosen: the rest is where its answer begins, a status that is 0 if there is a
// token, and the token. Without one the row is computed for nothing, from any other.
#ifdef OPENELM_HOST
#include "common.metal.h"
#endif

constexpr constant uint AWAITED_TOKEN = 1u << 31;

inline uint token_of(uint token, device const uint* answers) {
    if (token < AWAITED_TOKEN) {
        return token;
    }
    device const uint* answer = answers + (token - AWAITED_TOKEN);
    return answer[0] == 0 ? answer[1] : 0;
}

template <class T>
[[kernel]] void embed(device const T* table [[buffer(0)]], device const uint* tokens [[buffer(1)]],
                      device const uint* answers [[buffer(2)]], device float* out [[buffer(3)]], constant int& width [[buffer(4)]],
                      uint3 group [[threadgroup_position_in_grid]], uint3 threads [[threads_per_threadgroup]],
                      uint index [[thread_index_in_threadgroup]]) {
    const size_t row = group.x;
    device const T* from = table + static_cast<size_t>(token_of(tokens[row], answers)) * width;
    device float* to = out + row * width;
    for (int i = index; i < width; i += threads.x) {
        to[i] = static_cast<float>(from[i]);
    }
}

INSTANTIATE("embed_bf16", embed<bfloat>)
INSTANTIATE("embed_f16", embed<half>)
