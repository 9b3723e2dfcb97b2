// What is wanted of rows of logits: a token chosen by temperature, top-k, top-p and min-p after bias, penalties and masks, and the facts
// that log-probabilities are made of. Grid (rows), block CHOOSE_THREADS.
//
// Every result is that of the CPU's sampler to the bit: numbers are single IEEE operations, never contracted, and whatever is summed is an
// integer. A row's token depends on nothing but the row and its task.
#include "common.cuh"

typedef unsigned long long u64;

constexpr int CHOOSE_THREADS = 1024;
constexpr int CHOOSE_WARPS = CHOOSE_THREADS / WARP;
constexpr int MOST_ALTERNATIVES = 256;

// Words of a task, as src/ops/row_tasks.rs writes them.
enum TaskWord {
    FLAGS, TARGET, SCALE, MIN_P, TOP_K, NUCLEUS, NUCLEUS_HIGH, RANDOM, RANDOM_HIGH, REPETITION, FREQUENCY, PRESENCE,
    EDITS, EDIT_COUNT, MASK, SECOND_MASK, LISTED, ALTERNATIVES, TASK_WORDS
};
enum Flag { IS_GREEDY = 1, HAS_TARGET = 2, WANTS_FACTS = 4, IS_LISTED = 8 };
// An edit is four words: token, count and marks, bias, room for the logit before.
constexpr int EDIT_WORDS = 4;
constexpr unsigned IS_PENALIZED = 1u << 31, IS_MASKED = 1u << 30, COUNT = IS_MASKED - 1;
constexpr unsigned NO_MASK = 0xffffffffu;
// Words of an answer; alternatives follow, a token and a logit each.
enum AnswerWord { STATUS, TOKEN, LOGIT, RANK, MAX, MASS, MASS_HIGH, ALTERNATIVE_COUNT, ANSWER_WORDS };
enum Status { DONE, NOT_FINITE, NOTHING_ALLOWED };

constexpr float LARGEST = 3.40282347e+38f;

// Memory of a block.
struct ChooseRoom {
    u64* bins;     // CHOOSE_THREADS
    u64* partial;  // CHOOSE_WARPS
    u64* found;    // 2
    uint2* best;   // MOST_ALTERNATIVES
};

__device__ inline u64 wide(unsigned low, unsigned high) { return static_cast<u64>(high) << 32 | low; }
__device__ inline bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

// Integers in the order of the numbers; both zeros are one number.
__device__ inline unsigned key_of(float x) {
    const unsigned bits = __float_as_uint(__fadd_rn(x, 0.0f));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline float of_key(unsigned key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

// A logit and its index as one integer: the larger logit is larger, of equal ones that of the lower index.
__device__ inline u64 ranked(float x, int index) { return wide(~static_cast<unsigned>(index), key_of(x)); }

struct Larger {
    __device__ u64 operator()(u64 a, u64 b) const { return a > b ? a : b; }
};
struct Sum {
    __device__ u64 operator()(u64 a, u64 b) const { return a + b; }
};

// What all threads' values come to, in every thread.
template <class O> __device__ u64 over_block(u64 value, O together, u64* partial) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        value = together(value, __shfl_xor_sync(ALL_LANES, value, step));
    }
    const int lane = threadIdx.x % WARP;
    if (lane == 0) {
        partial[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    value = partial[lane];
    for (int step = WARP / 2; step > 0; step /= 2) {
        value = together(value, __shfl_xor_sync(ALL_LANES, value, step));
    }
    __syncthreads();
    return value;
}

// Values of a row. Those that a mask excludes are minus infinity.
struct Row {
    const float* logits;
    const unsigned* mask;
    const unsigned* second_mask;
    int length;

    __device__ float operator[](int i) const {
        const unsigned bit = 1u << (i % 32);
        const bool is_out = (mask != nullptr && !(mask[i / 32] & bit)) || (second_mask != nullptr && !(second_mask[i / 32] & bit));
        return is_out ? -INFINITY : logits[i];
    }
};

// The first of the largest values.
__device__ u64 peak_of(const Row& row, u64* partial) {
    u64 best = 0;
    for (int i = threadIdx.x; i < row.length; i += CHOOSE_THREADS) {
        best = Larger()(best, ranked(row[i], i));
    }
    return over_block(best, Larger(), partial);
}

// exp(x) for x <= 0, by the operations of the CPU's in their order.
__device__ inline float exp_of(float x) {
    const float least = -87.0f, round = 12582912.0f;
    const float clamped = x < least ? least : x;
    const float shifted = __fadd_rn(__fmul_rn(clamped, 1.44269504088896340736f), round);
    const float n = __fadd_rn(shifted, -round);
    const float r = __fadd_rn(__fadd_rn(clamped, -__fmul_rn(n, 0.693359375f)), -__fmul_rn(n, -2.12194442e-4f));
    float sum = 1.0f / 5040.0f;
    sum = __fadd_rn(__fmul_rn(sum, r), 1.0f / 720.0f);
    sum = __fadd_rn(__fmul_rn(sum, r), 1.0f / 120.0f);
    sum = __fadd_rn(__fmul_rn(sum, r), 1.0f / 24.0f);
    sum = __fadd_rn(__fmul_rn(sum, r), 1.0f / 6.0f);
    sum = __fadd_rn(__fmul_rn(sum, r), 0.5f);
    sum = __fadd_rn(__fmul_rn(sum, r), 1.0f);
    sum = __fadd_rn(__fmul_rn(sum, r), 1.0f);
    const float power = __uint_as_float((__float_as_uint(shifted) + 127u) << 23);
    return x < least ? 0.0f : __fmul_rn(sum, power);
}

// A weight of 0 to 1 in units of 2^-40, to the nearest, ties to even.
__device__ inline u64 mass_of(float weight) {
    const unsigned bits = __float_as_uint(weight);
    const int shift = static_cast<int>(bits >> 23) - 110;  // of a fraction that counts 2^(exponent - 150)
    const u64 fraction = (bits & 0x7fffffu) | 0x800000u;
    if (shift >= 0) {
        return fraction << shift;
    }
    if (shift < -25) {
        return 0;
    }
    const u64 half = 1ull << (-shift - 1), odd = fraction >> -shift & 1;
    return (fraction + half - 1 + odd) >> -shift;
}

// The last token that is kept, in the order of likelihood, ties by index.
struct Cut {
    unsigned key;
    int token;

    __device__ bool keeps(unsigned other, int index) const { return other > key || (other == key && index <= token); }
};

// Weights of a row as the filters left them.
struct Weights {
    Row row;
    float max, scale, min_p;
    Cut cut;

    __device__ float weight(int i) const {
        const float value = row[i];
        const float weight = exp_of(__fmul_rn(__fadd_rn(value, -max), scale));
        return weight < min_p || !cut.keeps(key_of(value), i) ? 0.0f : weight;
    }
    __device__ u64 mass(int i) const { return mass_of(weight(i)); }
};

// What a cut counts: tokens, or mass.
struct CountMeasure {
    __device__ u64 operator()(int) const { return 1; }
};
struct MassMeasure {
    const Weights& weights;
    __device__ u64 operator()(int i) const { return weights.mass(i); }
};

// The thread in which the sum over the threads, in their order, reaches `target`, and the sum before it. One does.
struct Place {
    unsigned thread;
    u64 before;
};

__device__ Place locate(u64 mine, u64 target, const ChooseRoom& room) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u64 sum = mine;
    for (int step = 1; step < WARP; step *= 2) {
        const u64 other = __shfl_up_sync(ALL_LANES, sum, step);
        sum += lane >= step ? other : 0;
    }
    if (lane == WARP - 1) {
        room.partial[warp] = sum;
    }
    __syncthreads();
    u64 warps = lane < warp ? room.partial[lane] : 0;
    for (int step = WARP / 2; step > 0; step /= 2) {
        warps += __shfl_xor_sync(ALL_LANES, warps, step);
    }
    const u64 end = warps + sum;
    if (end - mine < target && target <= end) {
        room.found[0] = threadIdx.x;
        room.found[1] = end - mine;
    }
    __syncthreads();
    const Place place{static_cast<unsigned>(room.found[0]), room.found[1]};
    __syncthreads();
    return place;
}

// Adds `measure` of the chosen indices to the bins that `bin` names, and finds the bin in which their sum reaches `target`, which becomes
// what is left of it.
template <class M, class B>
__device__ unsigned bin_reaching(int length, const M& measure, const B& bin, u64& target, const ChooseRoom& room) {
    room.bins[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < length; i += CHOOSE_THREADS) {
        const int to = bin(i);
        const u64 amount = to >= 0 ? measure(i) : 0;
        if (amount > 0) {
            atomicAdd(room.bins + to, amount);
        }
    }
    __syncthreads();
    const Place place = locate(room.bins[threadIdx.x], target, room);
    target -= place.before;
    return place.thread;
}

// By distance from the largest value: all bins are of use, so that few threads meet at one.
struct DistanceBin {
    const Row& row;
    float max;

    __device__ int operator()(int i) const {
        const float distance = __fmul_rn(__fadd_rn(max, -row[i]), 16.0f);
        return distance < CHOOSE_THREADS - 1 ? static_cast<int>(distance) : CHOOSE_THREADS - 1;
    }
};

// By a digit of the key, larger ones first, of those values in `bucket` whose higher digits are `prefix`.
struct KeyBin {
    DistanceBin distance;
    int bucket, shift;
    unsigned prefix;

    __device__ int operator()(int i) const {
        const unsigned key = key_of(distance.row[i]);
        const bool is_in = (shift == 24 || key >> (shift + 8) == prefix) && distance(i) == bucket;
        return is_in ? 255 - static_cast<int>(key >> shift & 255u) : -1;
    }
};

// By a digit of the index, of those whose value has this key.
struct IndexBin {
    const Row& row;
    unsigned key, prefix;
    int shift;

    __device__ int operator()(int i) const {
        const bool is_in = (static_cast<unsigned>(i) >> (shift + 8)) == prefix && key_of(row[i]) == key;
        return is_in ? static_cast<int>(static_cast<unsigned>(i) >> shift & 255u) : -1;
    }
};

// The first token, in the order of likelihood, with which the measure reaches `target`; it does.
template <class M> __device__ Cut cut_reaching(const Row& row, float max, const M& measure, u64 target, const ChooseRoom& room) {
    const DistanceBin distance{row, max};
    const int bucket = static_cast<int>(bin_reaching(row.length, measure, distance, target, room));
    unsigned key = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        const KeyBin bin{distance, bucket, shift, key};
        key = key << 8 | (255u - bin_reaching(row.length, measure, bin, target, room));
    }
    u64 first = 0;
    for (int i = threadIdx.x; i < row.length; i += CHOOSE_THREADS) {
        if (key_of(row[i]) == key && measure(i) > 0) {
            first = Larger()(first, ~static_cast<unsigned>(i));
        }
    }
    const int token = static_cast<int>(~static_cast<unsigned>(over_block(first, Larger(), room.partial)));
    const u64 each = measure(token);
    if (target <= each) {
        return {key, token};
    }
    // Equals have equal measures, or none, which those behind the cut before have.
    target = (target + each - 1) / each;
    unsigned index = 0;
    for (int shift = 16; shift >= 0; shift -= 8) {  // vocabularies are below 2^24
        const IndexBin bin{row, key, index, shift};
        index = index << 8 | bin_reaching(row.length, CountMeasure(), bin, target, room);
    }
    return {key, static_cast<int>(index)};
}

// The token at a fraction of the mass, in the order of indices. Each thread takes neighbours.
__device__ int draw(const Weights& weights, u64 random, const ChooseRoom& room) {
    const int length = weights.row.length, share = (length + CHOOSE_THREADS - 1) / CHOOSE_THREADS;
    const int first = threadIdx.x * share, end = first + share < length ? first + share : length;
    u64 mine = 0;
    for (int i = first; i < end; ++i) {
        mine += weights.mass(i);
    }
    const u64 total = over_block(mine, Sum(), room.partial);
    u64 left = __umul64hi(random, total);
    const Place place = locate(mine, left + 1, room);
    if (threadIdx.x == place.thread) {
        left -= place.before;
        int token = first;
        for (u64 mass = weights.mass(token); left >= mass; mass = weights.mass(token)) {
            left -= mass;
            ++token;
        }
        room.found[0] = static_cast<u64>(token);
    }
    __syncthreads();
    const int token = static_cast<int>(room.found[0]);
    __syncthreads();
    return token;
}

__device__ inline float word_float(unsigned word) { return __uint_as_float(word); }
__device__ inline float held(float x) { return fminf(fmaxf(x, -LARGEST), LARGEST); }

// The logit of a token after the change that is asked for.
__device__ inline float edited(float logit, const unsigned* edit, const unsigned* task) {
    const unsigned marks = edit[1];
    if (marks & IS_MASKED) {
        return -INFINITY;
    }
    const float biased = held(__fadd_rn(logit, word_float(edit[2])));
    if (!(marks & IS_PENALIZED)) {
        return biased;
    }
    const float repetition = word_float(task[REPETITION]), count = static_cast<float>(marks & COUNT);
    const float repeated = biased > 0.0f ? __fdiv_rn(biased, repetition) : __fmul_rn(biased, repetition);
    const float frequent = __fadd_rn(repeated, -__fmul_rn(word_float(task[FREQUENCY]), count));
    return held((marks & COUNT) > 0 ? __fadd_rn(frequent, -word_float(task[PRESENCE])) : frequent);
}

// The token of a row to which edits were applied; -1 when every one is forbidden.
__device__ int chosen(const Row& row, const unsigned* task, const ChooseRoom& room) {
    const u64 peak = peak_of(row, room.partial);
    const float max = of_key(static_cast<unsigned>(peak >> 32));
    if (max == -INFINITY) {
        return -1;
    }
    if (task[FLAGS] & IS_GREEDY) {
        return static_cast<int>(~static_cast<unsigned>(peak));
    }
    Weights weights{row, max, word_float(task[SCALE]), word_float(task[MIN_P]), {0, 0x7fffffff}};
    const unsigned top_k = task[TOP_K];
    if (top_k > 0 && top_k < static_cast<unsigned>(row.length)) {
        weights.cut = cut_reaching(row, max, CountMeasure(), top_k, room);
    }
    const u64 nucleus = wide(task[NUCLEUS], task[NUCLEUS_HIGH]);
    if (nucleus > 0) {
        u64 mine = 0;
        for (int i = threadIdx.x; i < row.length; i += CHOOSE_THREADS) {
            mine += weights.mass(i);
        }
        const u64 total = over_block(mine, Sum(), room.partial);
        const u64 target = __umul64hi(nucleus, total) + (nucleus * total != 0 ? 1 : 0);
        weights.cut = cut_reaching(row, max, MassMeasure{weights}, target, room);
    }
    return draw(weights, wide(task[RANDOM], task[RANDOM_HIGH]), room);
}

// What log-probabilities of `token` are made of, from unmodified logits.
__device__ void tell_facts(const Row& row, int token, float max, unsigned* answer, const ChooseRoom& room) {
    const float logit = row.logits[token];
    u64 mass = 0, before = 0;
    for (int i = threadIdx.x; i < row.length; i += CHOOSE_THREADS) {
        const float value = row.logits[i];
        mass += mass_of(exp_of(__fadd_rn(value, -max)));
        before += value > logit || (value == logit && i < token) ? 1 : 0;
    }
    mass = over_block(mass, Sum(), room.partial);
    before = over_block(before, Sum(), room.partial);
    if (threadIdx.x == 0) {
        answer[LOGIT] = __float_as_uint(logit);
        answer[RANK] = static_cast<unsigned>(before) + 1;
        answer[MAX] = __float_as_uint(max);
        answer[MASS] = static_cast<unsigned>(mass);
        answer[MASS_HIGH] = static_cast<unsigned>(mass >> 32);
    }
}

// The `count` most likely tokens, best first.
__device__ void tell_best(const Row& row, float max, int count, unsigned* to, const ChooseRoom& room) {
    const Cut cut = cut_reaching(row, max, CountMeasure(), static_cast<u64>(count), room);
    if (threadIdx.x == 0) {
        room.found[0] = 0;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < row.length; i += CHOOSE_THREADS) {
        const unsigned key = key_of(row[i]);
        if (cut.keeps(key, i)) {
            room.best[atomicAdd(room.found, 1ull)] = {key, static_cast<unsigned>(i)};
        }
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < count) {
        const uint2 mine = room.best[threadIdx.x];
        int rank = 0;
        for (int i = 0; i < count; ++i) {
            const uint2 other = room.best[i];
            rank += other.x > mine.x || (other.x == mine.x && other.y < mine.y) ? 1 : 0;
        }
        to[2 * rank] = mine.y;
        to[2 * rank + 1] = __float_as_uint(row.logits[mine.y]);
    }
}

// Edits are applied in place, and taken back before anything is told of the unmodified row.
__device__ int chosen_with_edits(float* logits, int length, const unsigned* task, unsigned* extras, const ChooseRoom& room) {
    unsigned* edits = extras + task[EDITS];
    const int count = static_cast<int>(task[EDIT_COUNT]);
    for (int e = threadIdx.x; e < count; e += CHOOSE_THREADS) {
        unsigned* edit = edits + EDIT_WORDS * e;
        const float before = logits[edit[0]];
        edit[3] = __float_as_uint(before);
        logits[edit[0]] = edited(before, edit, task);
    }
    __syncthreads();
    const auto mask = [&](unsigned at) { return at == NO_MASK ? nullptr : extras + at; };
    const int token = chosen({logits, mask(task[MASK]), mask(task[SECOND_MASK]), length}, task, room);
    __syncthreads();
    for (int e = threadIdx.x; e < count; e += CHOOSE_THREADS) {
        logits[edits[EDIT_WORDS * e]] = word_float(edits[EDIT_WORDS * e + 3]);
    }
    __syncthreads();
    return token;
}

extern "C" __global__ void __launch_bounds__(CHOOSE_THREADS)
    choose(float* all_logits, const unsigned* tasks, unsigned* extras, unsigned* answers, int length, int answer_words) {
    after_kernels_before();
    SHARED(u64, bins, CHOOSE_THREADS);
    SHARED(u64, partial, CHOOSE_WARPS);
    SHARED(u64, found, 2);
    SHARED(uint2, best, MOST_ALTERNATIVES);
    const ChooseRoom room{bins, partial, found, best};
    float* logits = all_logits + static_cast<size_t>(blockIdx.x) * length;
    const unsigned* task = tasks + static_cast<size_t>(blockIdx.x) * TASK_WORDS;
    unsigned* answer = answers + static_cast<size_t>(blockIdx.x) * answer_words;
    const Row row{logits, nullptr, nullptr, length};

    u64 wrong = 0;
    for (int i = threadIdx.x; i < length; i += CHOOSE_THREADS) {
        wrong = is_finite(logits[i]) ? wrong : Larger()(wrong, ~static_cast<unsigned>(i));
    }
    wrong = over_block(wrong, Larger(), partial);
    if (wrong > 0) {
        if (threadIdx.x == 0) {
            answer[STATUS] = NOT_FINITE;
            answer[TOKEN] = ~static_cast<unsigned>(wrong);
        }
        return;
    }
    const bool has_target = task[FLAGS] & HAS_TARGET;
    const int token = has_target ? static_cast<int>(task[TARGET]) : chosen_with_edits(logits, length, task, extras, room);
    if (threadIdx.x == 0) {
        answer[STATUS] = token < 0 ? NOTHING_ALLOWED : DONE;
        answer[TOKEN] = static_cast<unsigned>(token);
    }
    if (token < 0 || !(task[FLAGS] & WANTS_FACTS)) {
        return;
    }
    const float max = of_key(static_cast<unsigned>(peak_of(row, partial) >> 32));
    tell_facts(row, token, max, answer, room);
    const int wanted = static_cast<int>(task[ALTERNATIVES]);
    unsigned* to = answer + ANSWER_WORDS;
    if (!(task[FLAGS] & IS_LISTED) && wanted > 0) {
        tell_best(row, max, wanted, to, room);
    } else if (static_cast<int>(threadIdx.x) < wanted) {
        const unsigned listed = extras[task[LISTED] + threadIdx.x];
        to[2 * threadIdx.x] = listed;
        to[2 * threadIdx.x + 1] = __float_as_uint(logits[listed]);
    }
    if (threadIdx.x == 0) {
        answer[ALTERNATIVE_COUNT] = static_cast<unsigned>(wanted);
    }
}
