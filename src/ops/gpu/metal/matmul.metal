// Products of many rows: out = x @ weight^T, or out += it. weight [outputs, inputs], x [rows, inputs], out [rows, outputs]; sums in f32.
//
// A threadgroup computes MATRIX_ROWS x MATRIX_OUTPUTS sums, a quarter of them in each simdgroup as matrices of 8 x 8. DEPTH inputs at a
// time are brought to the threadgroup's memory, widened; in the place of what is not there come zeros. Any rows, inputs and outputs.
// Grid (ceil(outputs / MATRIX_OUTPUTS), ceil(rows / MATRIX_ROWS)), MATRIX_WARPS * 32 threads. Memory of a threadgroup: 13824 bytes.
#ifdef OPENELM_HOST
#include "common.metal.h"
#endif

constexpr constant int MATRIX_WARPS = 4;
constexpr constant int MATRIX_THREADS = MATRIX_WARPS * WARP;
constexpr constant int MATRIX_ROWS = 64;
constexpr constant int MATRIX_OUTPUTS = 32;
constexpr constant int DEPTH = 32;
// From row to row of a tile: not a multiple of 32 floats, so that the rows of a matrix meet different banks.
constexpr constant int MATRIX_STRIDE = DEPTH + 4;
// Chunks of eight inputs in a row of a tile, and those of a thread.
constexpr constant int DEPTH_CHUNKS = DEPTH / 8;
constexpr constant int ROW_SHARE = MATRIX_ROWS * DEPTH_CHUNKS / MATRIX_THREADS;
constexpr constant int OUTPUT_SHARE = MATRIX_OUTPUTS * DEPTH_CHUNKS / MATRIX_THREADS;
// A simdgroup's part: half of the rows and half of the outputs.
constexpr constant int PART_ROWS = MATRIX_ROWS / 2;
constexpr constant int PART_OUTPUTS = MATRIX_OUTPUTS / 2;

// What a tile is cut from: `rows` rows of `inputs` values, of which the tile's first is `first`.
template <class T> struct Rows {
    device const T* values;
    int first;
    int rows;
    int inputs;
};

// Eight inputs from `from` on of a row; zeros where there are none.
template <class T> inline void read_chunk(Rows<T> source, int row, int from, thread float* to) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        to[i] = 0.0f;
    }
    if (source.first + row >= source.rows || from >= source.inputs) {
        return;
    }
    device const T* values = source.values + static_cast<size_t>(source.first + row) * source.inputs + from;
    if (source.inputs % 8 == 0) {
        unpack<T>(*reinterpret_cast<device const uint4*>(values), to);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        if (from + i < source.inputs) {
            to[i] = static_cast<float>(values[i]);
        }
    }
}

// Reads this thread's part of DEPTH inputs from `from` on.
template <class T, int SHARE> inline void read_part(Rows<T> source, int from, thread float (&part)[SHARE][8], int index) {
#pragma unroll
    for (int i = 0; i < SHARE; ++i) {
        const int chunk = index + i * MATRIX_THREADS;
        read_chunk<T>(source, chunk / DEPTH_CHUNKS, from + chunk % DEPTH_CHUNKS * 8, part[i]);
    }
}

// Puts it where all can read it.
template <int SHARE> inline void put_part(thread const float (&part)[SHARE][8], threadgroup float4* tile, int index) {
#pragma unroll
    for (int i = 0; i < SHARE; ++i) {
        const int chunk = index + i * MATRIX_THREADS;
        threadgroup float4* to = tile + (chunk / DEPTH_CHUNKS * MATRIX_STRIDE + chunk % DEPTH_CHUNKS * 8) / 4;
        to[0] = packed(part[i]);
        to[1] = packed(part[i] + 4);
    }
}

// Adds the products of up to DEPTH inputs to a simdgroup's sums; `rows` and `outputs` are where its part of the tiles starts.
inline void add_tiles(thread simdgroup_float8x8 (&sums)[PART_ROWS / 8][PART_OUTPUTS / 8], threadgroup const float* rows,
                      threadgroup const float* outputs, int inputs) {
    for (int depth = 0; depth < DEPTH && depth < inputs; depth += 8) {
        simdgroup_float8x8 left[PART_ROWS / 8], right[PART_OUTPUTS / 8];
#pragma unroll
        for (int i = 0; i < PART_ROWS / 8; ++i) {
            simdgroup_load(left[i], rows + 8 * i * MATRIX_STRIDE + depth, MATRIX_STRIDE);
        }
#pragma unroll
        for (int j = 0; j < PART_OUTPUTS / 8; ++j) {
            simdgroup_load(right[j], outputs + 8 * j * MATRIX_STRIDE + depth, MATRIX_STRIDE, ulong2(0), true);
        }
#pragma unroll
        for (int i = 0; i < PART_ROWS / 8; ++i) {
#pragma unroll
            for (int j = 0; j < PART_OUTPUTS / 8; ++j) {
                simdgroup_multiply_accumulate(sums[i][j], left[i], right[j], sums[i][j]);
            }
        }
    }
}

template <class T>
[[kernel, max_total_threads_per_threadgroup(MATRIX_THREADS)]] void
matmul(device const T* weight [[buffer(0)]], device const T* x [[buffer(1)]], device float* out [[buffer(2)]],
       constant int& rows [[buffer(3)]], constant int& inputs [[buffer(4)]], constant int& outputs [[buffer(5)]],
       constant int& is_added [[buffer(6)]], uint3 group [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]],
       uint warp [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    SHARED(float4, tile, (MATRIX_ROWS + MATRIX_OUTPUTS) * MATRIX_STRIDE / 4);
    threadgroup float4* output_tile = tile + MATRIX_ROWS * MATRIX_STRIDE / 4;
    const Rows<T> left = {x, static_cast<int>(group.y) * MATRIX_ROWS, rows, inputs};
    const Rows<T> right = {weight, static_cast<int>(group.x) * MATRIX_OUTPUTS, outputs, inputs};
    const int part_row = warp / 2 * PART_ROWS, part_output = warp % 2 * PART_OUTPUTS;
    const int first_row = left.first + part_row, first_output = right.first + part_output;
    const bool is_used = first_row < rows && first_output < outputs;

    simdgroup_float8x8 sums[PART_ROWS / 8][PART_OUTPUTS / 8];
#pragma unroll
    for (int i = 0; i < PART_ROWS / 8; ++i) {
#pragma unroll
        for (int j = 0; j < PART_OUTPUTS / 8; ++j) {
            sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        }
    }
    float row_part[ROW_SHARE][8], output_part[OUTPUT_SHARE][8];
    read_part<T, ROW_SHARE>(left, 0, row_part, index);
    read_part<T, OUTPUT_SHARE>(right, 0, output_part, index);
    threadgroup const float* row_values = reinterpret_cast<threadgroup const float*>(tile) + part_row * MATRIX_STRIDE;
    threadgroup const float* output_values = reinterpret_cast<threadgroup const float*>(output_tile) + part_output * MATRIX_STRIDE;
    for (int from = 0; from < inputs; from += DEPTH) {
        threadgroup_barrier(mem_flags::mem_threadgroup);  // no simdgroup still reads the tiles before
        put_part<ROW_SHARE>(row_part, tile, index);
        put_part<OUTPUT_SHARE>(output_part, output_tile, index);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (from + DEPTH < inputs) {
            read_part<T, ROW_SHARE>(left, from + DEPTH, row_part, index);
            read_part<T, OUTPUT_SHARE>(right, from + DEPTH, output_part, index);
        }
        if (is_used) {
            add_tiles(sums, row_values, output_values, inputs - from);
        }
    }

    // Through the threadgroup's memory, since only whole matrices can be stored at once: eight rows of a simdgroup's part at a time.
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (!is_used) {
        return;
    }
    threadgroup float* room = reinterpret_cast<threadgroup float*>(tile) + warp * 8 * PART_OUTPUTS;
#pragma unroll
    for (int i = 0; i < PART_ROWS / 8; ++i) {
#pragma unroll
        for (int j = 0; j < PART_OUTPUTS / 8; ++j) {
            simdgroup_store(sums[i][j], room + 8 * j, PART_OUTPUTS);
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (int value = lane; value < 8 * PART_OUTPUTS; value += WARP) {
            const int row = first_row + 8 * i + value / PART_OUTPUTS, output = first_output + value % PART_OUTPUTS;
            if (row < rows && output < outputs) {
                device float* to = out + static_cast<size_t>(row) * outputs + output;
                *to = is_added ? *to + room[value] : room[value];
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}

INSTANTIATE("matmul_bf16", matmul<bfloat>)
INSTANTIATE("matmul_f16", matmul<half>)
