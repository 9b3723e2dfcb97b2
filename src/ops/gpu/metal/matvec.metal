// Products of few rows: out = x @ weight^T, or out += it. weight [outputs, inputs], x [rows, inputs], out [rows, outputs]; sums in f32.
// And such whose sums go through SwiGLU: weight [2 * width, inputs], gates before values, out [rows, width] in 16 bits.
//
// A simdgroup walks over VECTOR_OUTPUTS rows of the weights at once, each of which is read once for all rows of x. Weights and activations
// come in chunks of 16 bytes where every row starts on such a boundary, else value by value. A row's sums run in one order however many
// rows there are: the lane's chunks in ascending order, then the lanes.
// 1 to ROWS rows, grid (ceil(outputs or width / (VECTOR_OUTPUTS * VECTOR_WARPS))), VECTOR_WARPS * 32 threads.
#ifdef OPENELM_HOST
#include "common.metal.h"
#endif

constexpr constant int VECTOR_WARPS = 4;
constexpr constant int VECTOR_OUTPUTS = 4;

// Rows of the weights, one for each output of a simdgroup.
template <class T> struct WeightRows {
    device const T* at[VECTOR_OUTPUTS];
};

// The lane's sums over inputs that come in whole chunks.
template <class T, int ROWS>
inline void add_chunks(thread float (&sums)[ROWS][VECTOR_OUTPUTS], WeightRows<T> weights, device const T* x, int rows,
                       int inputs, int lane) {
    for (int from = 8 * lane; from < inputs; from += 8 * WARP) {
        float w[VECTOR_OUTPUTS][8];
#pragma unroll
        for (int o = 0; o < VECTOR_OUTPUTS; ++o) {
            unpack<T>(*reinterpret_cast<device const uint4*>(weights.at[o] + from), w[o]);
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const size_t row = r < rows ? r : 0;
            float v[8];
            unpack<T>(*reinterpret_cast<device const uint4*>(x + row * inputs + from), v);
#pragma unroll
            for (int o = 0; o < VECTOR_OUTPUTS; ++o) {
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    sums[r][o] = fma(v[i], w[o][i], sums[r][o]);
                }
            }
        }
    }
}

// The lane's sums, value by value.
template <class T, int ROWS>
inline void add_values(thread float (&sums)[ROWS][VECTOR_OUTPUTS], WeightRows<T> weights, device const T* x, int rows,
                       int inputs, int lane) {
    for (int i = lane; i < inputs; i += WARP) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const size_t row = r < rows ? r : 0;
            const float v = static_cast<float>(x[row * inputs + i]);
#pragma unroll
            for (int o = 0; o < VECTOR_OUTPUTS; ++o) {
                sums[r][o] = fma(v, static_cast<float>(weights.at[o][i]), sums[r][o]);
            }
        }
    }
}

// The lane's sums of VECTOR_OUTPUTS rows of the weights from the `first` on. In the place of outputs and rows that are not there others are
// computed again, and not to be stored.
template <class T, int ROWS>
inline void add_products(thread float (&sums)[ROWS][VECTOR_OUTPUTS], device const T* weight, int first, int outputs, device const T* x,
                         int rows, int inputs, int lane) {
    WeightRows<T> weights;
#pragma unroll
    for (int o = 0; o < VECTOR_OUTPUTS; ++o) {
        weights.at[o] = weight + static_cast<size_t>(first + o < outputs ? first + o : first) * inputs;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            sums[r][o] = 0.0f;
        }
    }
    if (inputs % 8 == 0) {
        add_chunks<T, ROWS>(sums, weights, x, rows, inputs, lane);
    } else {
        add_values<T, ROWS>(sums, weights, x, rows, inputs, lane);
    }
}

template <class T, int ROWS>
[[kernel, max_total_threads_per_threadgroup(VECTOR_WARPS * WARP)]] void
matvec(device const T* weight [[buffer(0)]], device const T* x [[buffer(1)]], device float* out [[buffer(2)]],
       constant int& rows [[buffer(3)]], constant int& inputs [[buffer(4)]], constant int& outputs [[buffer(5)]],
       constant int& is_added [[buffer(6)]], uint3 group [[threadgroup_position_in_grid]], uint warp [[simdgroup_index_in_threadgroup]],
       uint lane [[thread_index_in_simdgroup]]) {
    const int first = (group.x * VECTOR_WARPS + warp) * VECTOR_OUTPUTS;
    if (first >= outputs) {
        return;
    }
    float sums[ROWS][VECTOR_OUTPUTS];
    add_products<T, ROWS>(sums, weight, first, outputs, x, rows, inputs, lane);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int o = 0; o < VECTOR_OUTPUTS; ++o) {
            if (r >= rows || first + o >= outputs) {
                continue;
            }
            const float sum = warp_sum(sums[r][o]);
            if (lane == 0) {
                device float* to = out + static_cast<size_t>(r) * outputs + first + o;
                *to = is_added ? *to + sum : sum;
            }
        }
    }
}

// Of the simdgroup's sums the one that belongs to this lane: of output lane % VECTOR_OUTPUTS in row lane / VECTOR_OUTPUTS.
template <int ROWS> inline float own_sum(thread const float (&sums)[ROWS][VECTOR_OUTPUTS], int lane) {
    static_assert(ROWS * VECTOR_OUTPUTS <= WARP, "a lane for every sum");
    float own = 0.0f;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int o = 0; o < VECTOR_OUTPUTS; ++o) {
            const float sum = warp_sum(sums[r][o]);
            own = lane == r * VECTOR_OUTPUTS + o ? sum : own;
        }
    }
    return own;
}

// A simdgroup takes VECTOR_OUTPUTS gates, then their values: a lane keeps one sum of the former until it has that of the latter.
template <class T, int ROWS>
[[kernel, max_total_threads_per_threadgroup(VECTOR_WARPS * WARP)]] void
matvec_swiglu(device const T* weight [[buffer(0)]], device const T* x [[buffer(1)]], device T* out [[buffer(2)]],
              constant int& rows [[buffer(3)]], constant int& inputs [[buffer(4)]], constant int& width [[buffer(5)]],
              uint3 group [[threadgroup_position_in_grid]], uint warp [[simdgroup_index_in_threadgroup]],
              uint lane [[thread_index_in_simdgroup]]) {
    const int first = (group.x * VECTOR_WARPS + warp) * VECTOR_OUTPUTS;
    if (first >= width) {
        return;
    }
    float sums[ROWS][VECTOR_OUTPUTS];
    add_products<T, ROWS>(sums, weight, first, width, x, rows, inputs, lane);
    const float gate = own_sum<ROWS>(sums, lane);
    add_products<T, ROWS>(sums, weight + static_cast<size_t>(width) * inputs, first, width, x, rows, inputs, lane);
    const float value = own_sum<ROWS>(sums, lane);
    const int row = lane / VECTOR_OUTPUTS, output = first + lane % VECTOR_OUTPUTS;
    if (row < rows && output < width) {
        out[static_cast<size_t>(row) * width + output] = static_cast<T>(silu_of(gate) * value);
    }
}

#define MATVEC(NAME, T, ROWS)                                        \
    INSTANTIATE("matvec_" #NAME "_" #ROWS, matvec<T, ROWS>)           \
    INSTANTIATE("matvec_swiglu_" #NAME "_" #ROWS, matvec_swiglu<T, ROWS>)

MATVEC(bf16, bfloat, 1)
MATVEC(bf16, bfloat, 2)
MATVEC(bf16, bfloat, 4)
MATVEC(bf16, bfloat, 8)
MATVEC(f16, half, 1)
MATVEC(f16, half, 2)
MATVEC(f16, half, 4)
MATVEC(f16, half, 8)
