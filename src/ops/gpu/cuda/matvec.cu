// Products of one or two rows: out = x @ weight^T, or out += it. weight [outputs, inputs], x [rows, inputs], out [rows, outputs]; sums in f32.
// And such whose sums go through SwiGLU: weight [2 * width, inputs], gates before values, out [rows, width] in 16 bits.
//
// A warp takes an output, or where rows of the weights are long a block does: it reads a row of the weights once for all rows of x, in chunks
// of 16 bytes where every row starts on such a boundary. A row's sums run in one order however many rows there are: a lane's chunks in
// ascending order, then the lanes, then the warps. Grid (outputs / MATVEC_WARPS rounded up, or outputs), block MATVEC_WARPS * 32.
#include "common.cuh"

constexpr int MATVEC_WARPS = 4;
// Longest row of the weights that a warp takes alone.
constexpr int LONGEST = 2048;
// Chunks of the weights that a lane has on their way at once: all of the longest row.
constexpr int AHEAD = LONGEST / (8 * WARP);

// What a thread does: of row `output` of the weights, or of one row among the gates and one among the values, every `step`th chunk from `first`
// on. Outputs that are not there are nobody's.
struct Part {
    int output;
    int first;
    int step;

    __device__ explicit Part(int inputs) {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const bool is_shared = inputs > LONGEST;
        output = is_shared ? blockIdx.x : blockIdx.x * MATVEC_WARPS + warp;
        first = is_shared ? threadIdx.x : lane;
        step = is_shared ? MATVEC_WARPS * WARP : WARP;
    }
};

// Adds a chunk of the weights times that of every row of x.
template <class T, int ROWS> __device__ inline void add_chunk(float (&sums)[ROWS], uint4 chunk, const T* x, int rows, int stride) {
    float w[8];
    unpack<T>(chunk, w);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        // In the place of a row that is not there the first is computed again, and not stored.
        const size_t row = r < rows ? r : 0;
        float v[8];
        unpack<T>(*reinterpret_cast<const uint4*>(x + row * stride), v);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            sums[r] = fmaf(v[i], w[i], sums[r]);
        }
    }
}

// The thread's next chunks of a row of the weights, from number `chunk` on.
template <class T> __device__ inline void fetch_chunks(uint4 (&chunks)[AHEAD], const T* weight, int chunk, int step, int count) {
#pragma unroll
    for (int k = 0; k < AHEAD; ++k) {
        const int at = chunk + k * step;
        chunks[k] = at < count ? reinterpret_cast<const uint4*>(weight)[at] : make_uint4(0, 0, 0, 0);
    }
}

// The thread's sums over inputs that come in whole chunks. No kernel writes weights: the first are on their way before x is there.
template <class T, int ROWS>
__device__ inline void add_chunks(float (&sums)[ROWS], const T* weight, const T* x, int rows, int inputs, const Part& part) {
    const int count = inputs / 8;
    uint4 chunks[AHEAD];
    fetch_chunks(chunks, weight, part.first, part.step, count);
    after_kernels_before();
    for (int chunk = part.first; chunk < count; chunk += AHEAD * part.step) {
        if (chunk > part.first) {
            fetch_chunks(chunks, weight, chunk, part.step, count);
        }
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            const int at = chunk + k * part.step;
            if (at < count) {
                add_chunk<T, ROWS>(sums, chunks[k], x + 8 * at, rows, inputs);
            }
        }
    }
}

// The thread's sums, value by value.
template <class T, int ROWS>
__device__ inline void add_values(float (&sums)[ROWS], const T* weight, const T* x, int rows, int inputs, const Part& part) {
    after_kernels_before();
    for (int i = part.first; i < inputs; i += part.step) {
        const float w = to_float(weight[i]);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const size_t row = r < rows ? r : 0;
            sums[r] = fmaf(to_float(x[row * inputs + i]), w, sums[r]);
        }
    }
}

// The products of all rows with one row of the weights, in every thread that shares the output. `room` is for a block that does.
template <class T, int ROWS>
__device__ inline void product(float (&sums)[ROWS], const T* weight, const T* x, int rows, int inputs, const Part& part, float* room) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        sums[r] = 0.0f;
    }
    if (inputs % 8 == 0) {
        add_chunks<T, ROWS>(sums, weight, x, rows, inputs, part);
    } else {
        add_values<T, ROWS>(sums, weight, x, rows, inputs, part);
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        sums[r] = warp_sum(sums[r]);
    }
    if (part.step == WARP) {
        return;
    }
    if (threadIdx.x % WARP == 0) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            room[threadIdx.x / WARP * ROWS + r] = sums[r];
        }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        sums[r] = room[r];
        for (int warp = 1; warp < MATVEC_WARPS; ++warp) {
            sums[r] += room[warp * ROWS + r];
        }
    }
    __syncthreads();
}

// Whether the thread stores the result of row `r`: a lane for each, of the first warp that has it.
__device__ inline bool stores(const Part& part, int r, int rows) { return part.first == r && r < rows; }

template <class T, int ROWS>
__device__ void matvec(const T* weight, const T* x, float* out, int rows, int inputs, int outputs, int is_added) {
    SHARED(float, room, MATVEC_WARPS * ROWS);
    const Part part(inputs);
    if (part.output >= outputs) {
        after_kernels_before();
        return;
    }
    float sums[ROWS];
    product<T, ROWS>(sums, weight + static_cast<size_t>(part.output) * inputs, x, rows, inputs, part, room);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        if (stores(part, r, rows)) {
            float* to = out + static_cast<size_t>(r) * outputs + part.output;
            *to = is_added ? *to + sums[r] : sums[r];
        }
    }
}

template <class T, int ROWS> __device__ void matvec_swiglu(const T* weight, const T* x, T* out, int rows, int inputs, int width) {
    SHARED(float, room, MATVEC_WARPS * ROWS);
    const Part part(inputs);
    if (part.output >= width) {
        after_kernels_before();
        return;
    }
    const T* gates = weight + static_cast<size_t>(part.output) * inputs;
    float gate[ROWS], value[ROWS];
    product<T, ROWS>(gate, gates, x, rows, inputs, part, room);
    product<T, ROWS>(value, gates + static_cast<size_t>(width) * inputs, x, rows, inputs, part, room);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        if (stores(part, r, rows)) {
            out[static_cast<size_t>(r) * width + part.output] = from_float<T>(silu_of(gate[r]) * value[r]);
        }
    }
}

#define MATVEC(NAME, T, ROWS)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(MATVEC_WARPS * WARP, 4)                                                        \
        matvec_##NAME##_##ROWS(const T* weight, const T* x, float* out, int rows, int inputs, int outputs, int is_added) {      \
        matvec<T, ROWS>(weight, x, out, rows, inputs, outputs, is_added);                                                       \
    }                                                                                                                           \
    extern "C" __global__ void __launch_bounds__(MATVEC_WARPS * WARP, 4)                                                        \
        matvec_swiglu_##NAME##_##ROWS(const T* weight, const T* x, T* out, int rows, int inputs, int width) {                   \
        matvec_swiglu<T, ROWS>(weight, x, out, rows, inputs, width);                                                            \
    }

MATVEC(bf16, __nv_bfloat16, 1)
MATVEC(bf16, __nv_bfloat16, 2)
MATVEC(f16, __half, 1)
MATVEC(f16, __half, 2)
