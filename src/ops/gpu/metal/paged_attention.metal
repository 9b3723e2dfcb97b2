// Causal attention over paged keys and values, for prefill and decode alike. ATTENTION_WARPS * 32 threads, grid (items, kv_heads, splits).
//
// An item is a few consecutive rows of one sequence; their query heads of one kv head are the queries of a threadgroup, up to Q for each
// simdgroup. The threadgroup brings a tile of 32 keys to its memory once for all of them, since each lane needs another key whole; values
// are read from where they are, a simdgroup one row at a time. Tiles start at absolute position 0 and splits are whole tiles, so that a
// query's sums run in one order whatever shares its threadgroup, its launch or its item. With `is_partial` a split's sums go to `partial`,
// for attention_merge; without it there is one split, and `partial` may be anything.
//
// Memory of a threadgroup: 29184 bytes with D = 128 and Q = 8, the most of all.
#ifdef OPENELM_HOST
#include "common.metal.h"
#endif

constexpr constant int ATTENTION_WARPS = 4;
constexpr constant int TILE = WARP;
constexpr constant float LOG2_E = 1.44269504088896340736f;

// How a tile of 32 keys of D 16-bit values lies in the threadgroup's memory and is carried there by the threads, in chunks of 16 bytes.
template <int D> struct TileShape {
    static constexpr constant int CHUNKS = D / 8;
    // An odd number of chunks from key to key: lanes that read one chunk of different keys meet different banks.
    static constexpr constant int KEY_STRIDE = CHUNKS + 1;
    static constexpr constant int SHARE = TILE * CHUNKS / (ATTENTION_WARPS * WARP);
};

// Chunks on their way from the pages to the threadgroup's memory: read early, so that their latency passes behind the tile before.
template <int D> struct Carried {
    uint4 keys[TileShape<D>::SHARE];
};

// Where tiles of a sequence are: rows of one kv head, `stride` chunks apart.
struct Pages {
    device const uint* table;
    int block_size;
    int kv_heads;
    int kv_head;
};

// Chunks from the start of the pages to the row of position `tile`, the first of its tile.
template <int D> inline size_t tile_start(Pages pages, int tile) {
    const size_t slot = static_cast<size_t>(pages.table[tile / pages.block_size]) * pages.block_size + tile % pages.block_size;
    return (slot * pages.kv_heads + pages.kv_head) * TileShape<D>::CHUNKS;
}

// Reads this thread's part of `count` keys that are `stride` chunks apart; what lies behind them may be anything and is not touched.
template <int D> inline void fetch_tile(thread Carried<D>& carried, device const uint4* keys, size_t stride, int count, int index) {
    constexpr int CHUNKS = TileShape<D>::CHUNKS;
#pragma unroll
    for (int i = 0; i < TileShape<D>::SHARE; ++i) {
        const int chunk = index + i * ATTENTION_WARPS * WARP;
        carried.keys[i] = uint4(0);
        if (chunk / CHUNKS < count) {
            carried.keys[i] = keys[chunk / CHUNKS * stride + chunk % CHUNKS];
        }
    }
}

template <int D> inline void put_tile(thread const Carried<D>& carried, threadgroup uint4* keys, int index) {
    constexpr int CHUNKS = TileShape<D>::CHUNKS;
#pragma unroll
    for (int i = 0; i < TileShape<D>::SHARE; ++i) {
        const int chunk = index + i * ATTENTION_WARPS * WARP;
        keys[chunk / CHUNKS * TileShape<D>::KEY_STRIDE + chunk % CHUNKS] = carried.keys[i];
    }
}

// A lane's E = D / 32 consecutive values of a row of values.
template <class T, int E> struct OwnValues;

template <class T> struct OwnValues<T, 1> {
    static void read(device const uint4* row, int lane, thread float* to) {
        to[0] = static_cast<float>(reinterpret_cast<device const T*>(row)[lane]);
    }
};

template <class T> struct OwnValues<T, 2> {
    static void read(device const uint4* row, int lane, thread float* to) {
        unpack<T>(reinterpret_cast<device const uint*>(row)[lane], to);
    }
};

template <class T> struct OwnValues<T, 4> {
    static void read(device const uint4* row, int lane, thread float* to) {
        const uint2 words = reinterpret_cast<device const uint2*>(row)[lane];
        unpack<T>(words.x, to);
        unpack<T>(words.y, to + 2);
    }
};

// The running softmax of a simdgroup's queries. `reach` is the last position a query sees, -1 for none. `sum` is this lane's share of the
// denominator, `mix` its E values of the numerator; both are relative to 2^peak.
template <int Q, int E> struct Softmax {
    int reach[Q];
    float peak[Q];
    float sum[Q];
    float mix[Q][E];
};

// Scores of all queries of the simdgroup with the key of this lane. Two chains a query hide the latency of the other.
template <class T, int D, int Q>
inline void score_tile(threadgroup const uint4* key, threadgroup const float4* queries, thread float* scores) {
    float chains[Q][2];
#pragma unroll
    for (int i = 0; i < Q; ++i) {
        chains[i][0] = 0.0f;
        chains[i][1] = 0.0f;
    }
    for (int chunk = 0; chunk < TileShape<D>::CHUNKS; ++chunk) {
        float k[8];
        unpack<T>(key[chunk], k);
#pragma unroll
        for (int i = 0; i < Q; ++i) {
            const float4 low = queries[i * (D / 4) + 2 * chunk];
            const float4 high = queries[i * (D / 4) + 2 * chunk + 1];
            chains[i][0] = fma(low.x, k[0], chains[i][0]);
            chains[i][1] = fma(low.y, k[1], chains[i][1]);
            chains[i][0] = fma(low.z, k[2], chains[i][0]);
            chains[i][1] = fma(low.w, k[3], chains[i][1]);
            chains[i][0] = fma(high.x, k[4], chains[i][0]);
            chains[i][1] = fma(high.y, k[5], chains[i][1]);
            chains[i][0] = fma(high.z, k[6], chains[i][0]);
            chains[i][1] = fma(high.w, k[7], chains[i][1]);
        }
    }
#pragma unroll
    for (int i = 0; i < Q; ++i) {
        scores[i] = chains[i][0] + chains[i][1];
    }
}

// Adds four positions to the numerators of a query that sees `seen` of them, the first at least.
template <int E> inline void mix_four(thread float* mix, float4 weights, thread const float (&v)[4][E], int seen) {
    const float weight[4] = {weights.x, weights.y, weights.z, weights.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int e = 0; e < E; ++e) {
            mix[e] = k < seen ? fma(weight[k], v[k][e], mix[e]) : mix[e];
        }
    }
}

// Takes the scores of the tile that starts at position `tile` into the softmax: weights of the positions to `weights`, and to `seen` how
// many each query sees, behind which they are zero. Returns the most of these.
template <int Q, int E>
inline int weigh_tile(thread Softmax<Q, E>& state, int tile, thread const float* scores, threadgroup float* weights, thread int* seen,
                      int lane) {
    int most = 0;
#pragma unroll
    for (int i = 0; i < Q; ++i) {
        seen[i] = state.reach[i] - tile + 1;
        if (seen[i] <= 0) {
            continue;
        }
        most = seen[i] > most ? seen[i] : most;
        const bool visible = lane < seen[i];
        const float peak = fmax(state.peak[i], warp_max(visible ? scores[i] : -INFINITY));
        const float fade = precise::exp2(state.peak[i] - peak);
        const float weight = visible ? precise::exp2(scores[i] - peak) : 0.0f;
        weights[i * TILE + lane] = weight;
        state.peak[i] = peak;
        state.sum[i] = fma(state.sum[i], fade, weight);
#pragma unroll
        for (int e = 0; e < E; ++e) {
            state.mix[i][e] *= fade;
        }
    }
    return most < TILE ? most : TILE;
}

// Adds the tile that starts at position `tile` to the softmax of a simdgroup; `values` is its first row, and rows are `stride` chunks
// apart. `weights` is the simdgroup's own room of Q * TILE floats. Positions behind a query's reach are selected away, never multiplied by
// zero: they may hold NaN. Values behind the reach of all are not read.
template <class T, int D, int Q>
inline void attend_tile(thread Softmax<Q, D / WARP>& state, int tile, threadgroup const uint4* keys, device const uint4* values,
                        size_t stride, threadgroup const float4* queries, threadgroup float* weights, int lane) {
    constexpr int E = D / WARP;
    float scores[Q];
    score_tile<T, D, Q>(keys + lane * TileShape<D>::KEY_STRIDE, queries, scores);
    int seen[Q];
    const int most = weigh_tile<Q, E>(state, tile, scores, weights, seen, lane);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (int position = 0; position < most; position += 4) {
        float v[4][E];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int row = position + k < most ? position + k : position;
            OwnValues<T, E>::read(values + row * stride, lane, v[k]);
        }
#pragma unroll
        for (int i = 0; i < Q; ++i) {
            if (position < seen[i]) {
                const float4 four = *reinterpret_cast<threadgroup const float4*>(weights + i * TILE + position);
                mix_four<E>(state.mix[i], four, v, seen[i] - position);
            }
        }
    }
}

template <class T, int D, int Q>
[[kernel, max_total_threads_per_threadgroup(ATTENTION_WARPS * WARP)]] void
paged_attention(device const float* qkv [[buffer(0)]], device const T* keys [[buffer(1)]], device const T* values [[buffer(2)]],
                device const uint* work [[buffer(3)]], device const uint* tables [[buffer(4)]], device float* partial [[buffer(5)]],
                device T* out [[buffer(6)]], constant int& is_partial [[buffer(7)]], constant int& q_heads [[buffer(8)]],
                constant int& kv_heads [[buffer(9)]], constant int& block_size [[buffer(10)]], constant int& split [[buffer(11)]],
                constant int& max_splits [[buffer(12)]], constant float& scale [[buffer(13)]],
                uint3 position [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]],
                uint warp [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    constexpr int E = D / WARP;
    SHARED(uint4, key_tile, TILE * TileShape<D>::KEY_STRIDE);
    SHARED(float4, all_queries, ATTENTION_WARPS * Q * D / 4);
    SHARED(float4, all_weights, ATTENTION_WARPS * Q * TILE / 4);

    const int kv_head = position.y, group = q_heads / kv_heads;
    device const uint* item = work + 4 * static_cast<size_t>(position.x);
    const int first_row = item[0], rows = item[1], start = item[3];
    const Pages pages = {tables + item[2], block_size, kv_heads, kv_head};
    const int begin = position.z * split, last = start + rows - 1;
    if (begin > last) {
        return;
    }
    const int end = begin + split <= last ? begin + split : last + 1;

    // Neighbouring queries go to different simdgroups, so that few of them are spread over all. Scaled once for base-2 exponentials.
    threadgroup float* queries = reinterpret_cast<threadgroup float*>(all_queries) + warp * Q * D;
    threadgroup float* weights = reinterpret_cast<threadgroup float*>(all_weights) + warp * Q * TILE;
    Softmax<Q, E> state;
    for (int i = 0; i < Q; ++i) {
        const int query = i * ATTENTION_WARPS + warp, row = query / group, head = kv_head * group + query % group;
        device const float* q = qkv + ((static_cast<size_t>(first_row) + row) * (q_heads + 2 * kv_heads) + head) * D;
        for (int d = lane; d < D; d += WARP) {
            queries[i * D + d] = row < rows ? q[d] * (scale * LOG2_E) : 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < Q; ++i) {
        const int row = (i * ATTENTION_WARPS + static_cast<int>(warp)) / group;
        state.reach[i] = row < rows ? start + row : -1;
        state.peak[i] = -INFINITY;
        state.sum[i] = 0.0f;
#pragma unroll
        for (int e = 0; e < E; ++e) {
            state.mix[i][e] = 0.0f;
        }
    }

    const size_t stride = static_cast<size_t>(kv_heads) * TileShape<D>::CHUNKS;
    device const uint4* key_chunks = reinterpret_cast<device const uint4*>(keys);
    device const uint4* value_chunks = reinterpret_cast<device const uint4*>(values);
    Carried<D> carried;
    size_t ahead = tile_start<D>(pages, begin);
    fetch_tile<D>(carried, key_chunks + ahead, stride, last + 1 - begin, index);
    for (int tile = begin; tile < end; tile += TILE) {
        const size_t here = ahead;
        threadgroup_barrier(mem_flags::mem_threadgroup);  // no simdgroup still reads the tile before
        put_tile<D>(carried, key_tile, index);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (tile + TILE < end) {
            ahead = tile_start<D>(pages, tile + TILE);
            fetch_tile<D>(carried, key_chunks + ahead, stride, last + 1 - tile - TILE, index);
        }
        if (static_cast<int>(warp) < rows * group) {
            attend_tile<T, D, Q>(state, tile, key_tile, value_chunks + here, stride, all_queries + warp * Q * (D / 4), weights, lane);
        }
    }

#pragma unroll
    for (int i = 0; i < Q; ++i) {
        if (state.reach[i] < begin) {  // no such query, or it ends before this split
            continue;
        }
        const int query = i * ATTENTION_WARPS + warp, head = kv_head * group + query % group;
        const size_t result = (static_cast<size_t>(first_row) + query / group) * q_heads + head;
        const float sum = warp_sum(state.sum[i]);
        if (!is_partial) {
#pragma unroll
            for (int e = 0; e < E; ++e) {
                out[result * D + lane * E + e] = static_cast<T>(state.mix[i][e] / sum);
            }
            continue;
        }
        device float* to = partial + (result * max_splits + position.z) * (D + 2);
        if (lane == 0) {
            to[0] = state.peak[i];
            to[1] = sum;
        }
#pragma unroll
        for (int e = 0; e < E; ++e) {
            to[2 + lane * E + e] = state.mix[i][e];
        }
    }
}

#define PAGED_ATTENTION(NAME, T, D, Q) INSTANTIATE("paged_attention_" #NAME "_" #D "_" #Q, paged_attention<T, D, Q>)

PAGED_ATTENTION(bf16, bfloat, 32, 1)
PAGED_ATTENTION(bf16, bfloat, 32, 8)
PAGED_ATTENTION(bf16, bfloat, 64, 1)
PAGED_ATTENTION(bf16, bfloat, 64, 8)
PAGED_ATTENTION(bf16, bfloat, 128, 1)
PAGED_ATTENTION(bf16, bfloat, 128, 8)
PAGED_ATTENTION(f16, half, 32, 1)
PAGED_ATTENTION(f16, half, 32, 8)
PAGED_ATTENTION(f16, half, 64, 1)
PAGED_ATTENTION(f16, half, 64, 8)
PAGED_ATTENTION(f16, half, 128, 1)
PAGED_ATTENTION(f16, half, 128, 8)
