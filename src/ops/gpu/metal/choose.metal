// What is wanted of rows of logits: a token chosen by temperature, top-k, top-p and min-p after bias, penalties and masks, and the facts
// that log-probabilities are made of. Grid (rows), CHOOSE_THREADS threads.
//
// Every result is that of the CPU's sampler to the bit: numbers are single IEEE operations, never contracted, and whatever is summed is an
// integer. A row's token depends on nothing but the row and its task. Apple's GPUs take numbers below 2^-126 for zero where they compute
// with them or compare them: order is a matter of bits here, and the one thing such a number can change is a biased or penalized logit of
// that size.
#ifdef OPENELM_HOST
#include "common.metal.h"
#else
// Otherwise Metal contracts a * b + c. Without fast math it does so within a statement only, and products are results of `times`, so that a
// compiler that does not know these words leaves them alone too. Quotients are correctly rounded without fast math.
#pragma METAL fp contract(off)
#endif

constexpr constant int CHOOSE_THREADS = 1024;
constexpr constant int CHOOSE_WARPS = CHOOSE_THREADS / WARP;
constexpr constant int MOST_ALTERNATIVES = 256;

// Words of a task, as src/ops/row_tasks.rs writes them.
enum TaskWord {
    FLAGS, TARGET, SCALE, MIN_P, TOP_K, NUCLEUS, NUCLEUS_HIGH, RANDOM, RANDOM_HIGH, REPETITION, FREQUENCY, PRESENCE,
    EDITS, EDIT_COUNT, MASK, SECOND_MASK, LISTED, ALTERNATIVES, TASK_WORDS
};
enum Flag { IS_GREEDY = 1, HAS_TARGET = 2, WANTS_FACTS = 4, IS_LISTED = 8 };
// An edit is four words: token, count and marks, bias, room for the logit before.
constexpr constant int EDIT_WORDS = 4;
constexpr constant uint IS_PENALIZED = 1u << 31;
constexpr constant uint IS_MASKED = 1u << 30;
constexpr constant uint COUNT = IS_MASKED - 1;
constexpr constant uint NO_MASK = 0xffffffffu;
// Words of an answer; alternatives follow, a token and a logit each.
enum AnswerWord { STATUS, TOKEN, LOGIT, RANK, MAX, MASS, MASS_HIGH, ALTERNATIVE_COUNT, ANSWER_WORDS };
enum Status { DONE, NOT_FINITE, NOTHING_ALLOWED };

constexpr constant float LARGEST = 3.40282347e+38f;

// Memory of the threadgroup, and which of its threads this one is.
struct ChooseRoom {
    threadgroup atomic_uint* low;   // CHOOSE_THREADS bins, their lower halves
    threadgroup atomic_uint* high;  // and the upper ones
    threadgroup ulong* partial;     // CHOOSE_WARPS
    threadgroup ulong* found;       // 2
    threadgroup uint2* best;        // MOST_ALTERNATIVES
    int index;
    int warp;
    int lane;
};

inline ulong wide(uint low, uint high) { return static_cast<ulong>(high) << 32 | low; }
inline uint low_of(ulong value) { return static_cast<uint>(value); }
inline uint high_of(ulong value) { return static_cast<uint>(value >> 32); }

// The upper half of a product.
inline ulong high_product(ulong a, ulong b) {
    const ulong first = static_cast<ulong>(low_of(a)) * low_of(b);
    const ulong second = static_cast<ulong>(high_of(a)) * low_of(b) + high_of(first);
    const ulong third = static_cast<ulong>(low_of(a)) * high_of(b) + low_of(second);
    return static_cast<ulong>(high_of(a)) * high_of(b) + high_of(second) + high_of(third);
}

// Shuffles are of 32 bits.
inline ulong from_partner(ulong value, int step) {
    const ushort mask = static_cast<ushort>(step);
    return wide(simd_shuffle_xor(low_of(value), mask), simd_shuffle_xor(high_of(value), mask));
}
inline ulong from_below(ulong value, int step) {
    const ushort delta = static_cast<ushort>(step);
    return wide(simd_shuffle_up(low_of(value), delta), simd_shuffle_up(high_of(value), delta));
}

inline float times(float a, float b) { return a * b; }

inline bool is_finite(float x) { return (as_type<uint>(x) & 0x7f800000u) != 0x7f800000u; }

// Integers in the order of the numbers; both zeros are one number.
inline uint key_of(float x) {
    const uint bits = as_type<uint>(x);
    if (bits >> 31) {
        return bits == 0x80000000u ? bits : ~bits;
    }
    return bits | 0x80000000u;
}
inline float of_key(uint key) { return as_type<float>(key >> 31 ? key & 0x7fffffffu : ~key); }

// A logit and its index as one integer: the larger logit is larger, of equal ones that of the lower index.
inline ulong ranked(float x, int index) { return wide(~static_cast<uint>(index), key_of(x)); }

struct Larger {
    ulong operator()(ulong a, ulong b) const { return a > b ? a : b; }
};
struct Sum {
    ulong operator()(ulong a, ulong b) const { return a + b; }
};

// What all threads' values come to, in every thread.
template <class O> inline ulong over_block(ulong value, O together, thread const ChooseRoom& room) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        value = together(value, from_partner(value, step));
    }
    if (room.lane == 0) {
        room.partial[room.warp] = value;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    value = room.partial[room.lane];
    for (int step = WARP / 2; step > 0; step /= 2) {
        value = together(value, from_partner(value, step));
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return value;
}

// Values of a row. Those that a mask excludes are minus infinity.
struct Row {
    device const float* logits;
    device const uint* mask;
    device const uint* second_mask;
    int length;

    float at(int i) const {
        const uint bit = 1u << (i % 32);
        const bool is_out = (mask != nullptr && !(mask[i / 32] & bit)) || (second_mask != nullptr && !(second_mask[i / 32] & bit));
        return is_out ? -INFINITY : logits[i];
    }
};

// The first of the largest values.
inline ulong peak_of(Row row, thread const ChooseRoom& room) {
    const Larger larger = Larger();
    ulong best = 0;
    for (int i = room.index; i < row.length; i += CHOOSE_THREADS) {
        best = larger(best, ranked(row.at(i), i));
    }
    return over_block(best, larger, room);
}

// exp(x) for x <= 0, by the operations of the CPU's in their order.
inline float exp_of(float x) {
    const float least = -87.0f, round = 12582912.0f;
    const float clamped = x < least ? least : x;
    const float shifted = times(clamped, 1.44269504088896340736f) + round;
    const float n = shifted - round;
    const float r = (clamped - times(n, 0.693359375f)) - times(n, -2.12194442e-4f);
    float sum = 1.0f / 5040.0f;
    sum = times(sum, r) + 1.0f / 720.0f;
    sum = times(sum, r) + 1.0f / 120.0f;
    sum = times(sum, r) + 1.0f / 24.0f;
    sum = times(sum, r) + 1.0f / 6.0f;
    sum = times(sum, r) + 0.5f;
    sum = times(sum, r) + 1.0f;
    sum = times(sum, r) + 1.0f;
    const float power = as_type<float>((as_type<uint>(shifted) + 127u) << 23);
    return x < least ? 0.0f : times(sum, power);
}

// A weight of 0 to 1 in units of 2^-40, to the nearest, ties to even.
inline ulong mass_of(float weight) {
    const uint bits = as_type<uint>(weight);
    const int shift = static_cast<int>(bits >> 23) - 110;  // of a fraction that counts 2^(exponent - 150)
    const ulong fraction = (bits & 0x7fffffu) | 0x800000u;
    if (shift >= 0) {
        return fraction << shift;
    }
    if (shift < -25) {
        return 0;
    }
    const ulong half_unit = static_cast<ulong>(1) << (-shift - 1), odd = fraction >> -shift & 1;
    return (fraction + half_unit - 1 + odd) >> -shift;
}

// The last token that is kept, in the order of likelihood, ties by index.
struct Cut {
    uint key;
    int token;

    bool keeps(uint other, int index) const { return other > key || (other == key && index <= token); }
};

// Weights of a row as the filters left them.
struct Weights {
    Row row;
    float max_logit;
    float scale;
    float min_p;
    Cut cut;

    float weight(int i) const {
        const float value = row.at(i);
        const float all = exp_of(times(value - max_logit, scale));
        return all < min_p || !cut.keeps(key_of(value), i) ? 0.0f : all;
    }
    ulong mass(int i) const { return mass_of(weight(i)); }
};

// What a cut counts: tokens, or mass.
struct CountMeasure {
    ulong operator()(int) const { return 1; }
};
struct MassMeasure {
    Weights weights;
    ulong operator()(int i) const { return weights.mass(i); }
};

// The thread in which the sum over the threads, in their order, reaches `target`, and the sum before it. One does.
struct Place {
    int index;
    ulong before;
};

inline Place locate(ulong mine, ulong target, thread const ChooseRoom& room) {
    ulong sum = mine;
    for (int step = 1; step < WARP; step *= 2) {
        const ulong other = from_below(sum, step);
        sum += room.lane >= step ? other : 0;
    }
    if (room.lane == WARP - 1) {
        room.partial[room.warp] = sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    ulong warps = room.lane < room.warp ? room.partial[room.lane] : 0;
    for (int step = WARP / 2; step > 0; step /= 2) {
        warps += from_partner(warps, step);
    }
    const ulong end = warps + sum;
    if (end - mine < target && target <= end) {
        room.found[0] = static_cast<ulong>(room.index);
        room.found[1] = end - mine;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const Place place = {static_cast<int>(room.found[0]), room.found[1]};
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return place;
}

// Adds to a bin. Atomic counters have 32 bits: whoever makes the lower one overflow carries.
inline void add_to_bin(thread const ChooseRoom& room, int bin, ulong amount) {
    const uint low = low_of(amount);
    const uint before = atomic_fetch_add_explicit(room.low + bin, low, memory_order_relaxed);
    const uint high = high_of(amount) + (before + low < low ? 1 : 0);
    if (high > 0) {
        atomic_fetch_add_explicit(room.high + bin, high, memory_order_relaxed);
    }
}

// Adds `measure` of the chosen indices to the bins that `bin` names, and finds the bin in which their sum reaches `target`, which becomes
// what is left of it.
template <class M, class B>
inline uint bin_reaching(int length, M measure, B bin, thread ulong& target, thread const ChooseRoom& room) {
    atomic_store_explicit(room.low + room.index, 0u, memory_order_relaxed);
    atomic_store_explicit(room.high + room.index, 0u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int i = room.index; i < length; i += CHOOSE_THREADS) {
        const int to = bin(i);
        const ulong amount = to >= 0 ? measure(i) : 0;
        if (amount > 0) {
            add_to_bin(room, to, amount);
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint low = atomic_load_explicit(room.low + room.index, memory_order_relaxed);
    const uint high = atomic_load_explicit(room.high + room.index, memory_order_relaxed);
    const Place place = locate(wide(low, high), target, room);
    target -= place.before;
    return static_cast<uint>(place.index);
}

// By distance from the largest value: all bins are of use, so that few threads meet at one.
struct DistanceBin {
    Row row;
    float max_logit;

    int operator()(int i) const {
        const float distance = times(max_logit - row.at(i), 16.0f);
        return distance < CHOOSE_THREADS - 1 ? static_cast<int>(distance) : CHOOSE_THREADS - 1;
    }
};

// By a digit of the key, larger ones first, of those values in `bucket` whose higher digits are `prefix`.
struct KeyBin {
    DistanceBin distance;
    int bucket;
    int shift;
    uint prefix;

    int operator()(int i) const {
        const uint key = key_of(distance.row.at(i));
        const bool is_in = (shift == 24 || key >> (shift + 8) == prefix) && distance(i) == bucket;
        return is_in ? 255 - static_cast<int>(key >> shift & 255u) : -1;
    }
};

// By a digit of the index, of those whose value has this key.
struct IndexBin {
    Row row;
    uint key;
    uint prefix;
    int shift;

    int operator()(int i) const {
        const bool is_in = (static_cast<uint>(i) >> (shift + 8)) == prefix && key_of(row.at(i)) == key;
        return is_in ? static_cast<int>(static_cast<uint>(i) >> shift & 255u) : -1;
    }
};

// The first token, in the order of likelihood, with which the measure reaches `target`; it does.
template <class M> inline Cut cut_reaching(Row row, float max_logit, M measure, ulong target, thread const ChooseRoom& room) {
    const DistanceBin distance = {row, max_logit};
    const int bucket = static_cast<int>(bin_reaching(row.length, measure, distance, target, room));
    uint key = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        const KeyBin bin = {distance, bucket, shift, key};
        key = key << 8 | (255u - bin_reaching(row.length, measure, bin, target, room));
    }
    const Larger larger = Larger();
    ulong first = 0;
    for (int i = room.index; i < row.length; i += CHOOSE_THREADS) {
        if (key_of(row.at(i)) == key && measure(i) > 0) {
            first = larger(first, ~static_cast<uint>(i));
        }
    }
    const int token = static_cast<int>(~low_of(over_block(first, larger, room)));
    const ulong each = measure(token);
    if (target <= each) {
        return {key, token};
    }
    // Equals have equal measures, or none, which those behind the cut before have.
    target = (target + each - 1) / each;
    uint index = 0;
    for (int shift = 16; shift >= 0; shift -= 8) {  // vocabularies are below 2^24
        const IndexBin bin = {row, key, index, shift};
        index = index << 8 | bin_reaching(row.length, CountMeasure(), bin, target, room);
    }
    return {key, static_cast<int>(index)};
}

// The token at a fraction of the mass, in the order of indices. Each thread takes neighbours.
inline int draw(Weights weights, ulong random, thread const ChooseRoom& room) {
    const int length = weights.row.length, share = (length + CHOOSE_THREADS - 1) / CHOOSE_THREADS;
    const int first = room.index * share, end = first + share < length ? first + share : length;
    ulong mine = 0;
    for (int i = first; i < end; ++i) {
        mine += weights.mass(i);
    }
    const ulong total = over_block(mine, Sum(), room);
    ulong left = high_product(random, total);
    const Place place = locate(mine, left + 1, room);
    if (room.index == place.index) {
        left -= place.before;
        int token = first;
        for (ulong mass = weights.mass(token); left >= mass; mass = weights.mass(token)) {
            left -= mass;
            ++token;
        }
        room.found[0] = static_cast<ulong>(token);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const int token = static_cast<int>(room.found[0]);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return token;
}

inline float held(float x) { return x < -LARGEST ? -LARGEST : x > LARGEST ? LARGEST : x; }

// The logit of a token after the change that is asked for.
inline float edited(float logit, device const uint* edit, device const uint* task) {
    const uint marks = edit[1], count = marks & COUNT;
    if (marks & IS_MASKED) {
        return -INFINITY;
    }
    const float biased = held(logit + as_type<float>(edit[2]));
    if (!(marks & IS_PENALIZED)) {
        return biased;
    }
    const float repetition = as_type<float>(task[REPETITION]);
    const float repeated = biased > 0.0f ? biased / repetition : times(biased, repetition);
    const float frequent = repeated - times(as_type<float>(task[FREQUENCY]), static_cast<float>(count));
    return held(count > 0 ? frequent - as_type<float>(task[PRESENCE]) : frequent);
}

// The token of a row to which edits were applied; -1 when every one is forbidden.
inline int chosen(Row row, device const uint* task, thread const ChooseRoom& room) {
    const ulong peak = peak_of(row, room);
    const float max_logit = of_key(high_of(peak));
    if (max_logit == -INFINITY) {
        return -1;
    }
    if (task[FLAGS] & IS_GREEDY) {
        return static_cast<int>(~low_of(peak));
    }
    Weights weights = {row, max_logit, as_type<float>(task[SCALE]), as_type<float>(task[MIN_P]), {0, 0x7fffffff}};
    const uint top_k = task[TOP_K];
    if (top_k > 0 && top_k < static_cast<uint>(row.length)) {
        weights.cut = cut_reaching(row, max_logit, CountMeasure(), top_k, room);
    }
    const ulong nucleus = wide(task[NUCLEUS], task[NUCLEUS_HIGH]);
    if (nucleus > 0) {
        ulong mine = 0;
        for (int i = room.index; i < row.length; i += CHOOSE_THREADS) {
            mine += weights.mass(i);
        }
        const ulong total = over_block(mine, Sum(), room);
        const ulong target = high_product(nucleus, total) + (nucleus * total != 0 ? 1 : 0);
        const MassMeasure measure = {weights};
        weights.cut = cut_reaching(row, max_logit, measure, target, room);
    }
    return draw(weights, wide(task[RANDOM], task[RANDOM_HIGH]), room);
}

// What log-probabilities of `token` are made of, from unmodified logits.
inline void tell_facts(Row row, int token, float max_logit, device uint* answer, thread const ChooseRoom& room) {
    const float logit = row.logits[token];
    const uint key = key_of(logit);
    ulong mass = 0, before = 0;
    for (int i = room.index; i < row.length; i += CHOOSE_THREADS) {
        const float value = row.logits[i];
        const uint other = key_of(value);
        mass += mass_of(exp_of(value - max_logit));
        before += other > key || (other == key && i < token) ? 1 : 0;
    }
    mass = over_block(mass, Sum(), room);
    before = over_block(before, Sum(), room);
    if (room.index == 0) {
        answer[LOGIT] = as_type<uint>(logit);
        answer[RANK] = low_of(before) + 1;
        answer[MAX] = as_type<uint>(max_logit);
        answer[MASS] = low_of(mass);
        answer[MASS_HIGH] = high_of(mass);
    }
}

// The `count` most likely tokens, best first.
inline void tell_best(Row row, float max_logit, int count, device uint* to, thread const ChooseRoom& room) {
    const Cut cut = cut_reaching(row, max_logit, CountMeasure(), static_cast<ulong>(count), room);
    if (room.index == 0) {
        atomic_store_explicit(room.low, 0u, memory_order_relaxed);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int i = room.index; i < row.length; i += CHOOSE_THREADS) {
        uint2 one;
        one.x = key_of(row.at(i));
        one.y = static_cast<uint>(i);
        if (cut.keeps(one.x, i)) {
            room.best[atomic_fetch_add_explicit(room.low, 1u, memory_order_relaxed)] = one;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (room.index < count) {
        const uint2 mine = room.best[room.index];
        int rank = 0;
        for (int i = 0; i < count; ++i) {
            const uint2 other = room.best[i];
            rank += other.x > mine.x || (other.x == mine.x && other.y < mine.y) ? 1 : 0;
        }
        to[2 * rank] = mine.y;
        to[2 * rank + 1] = as_type<uint>(row.logits[mine.y]);
    }
}

// Edits are applied in place, and taken back before anything is told of the unmodified row.
inline int chosen_with_edits(device float* logits, int length, device const uint* task, device uint* extras,
                             thread const ChooseRoom& room) {
    device uint* edits = extras + task[EDITS];
    const int count = static_cast<int>(task[EDIT_COUNT]);
    for (int e = room.index; e < count; e += CHOOSE_THREADS) {
        device uint* edit = edits + EDIT_WORDS * e;
        const float before = logits[edit[0]];
        edit[3] = as_type<uint>(before);
        logits[edit[0]] = edited(before, edit, task);
    }
    threadgroup_barrier(mem_flags::mem_device);
    Row row = {logits, nullptr, nullptr, length};
    if (task[MASK] != NO_MASK) {
        row.mask = extras + task[MASK];
    }
    if (task[SECOND_MASK] != NO_MASK) {
        row.second_mask = extras + task[SECOND_MASK];
    }
    const int token = chosen(row, task, room);
    threadgroup_barrier(mem_flags::mem_device);
    for (int e = room.index; e < count; e += CHOOSE_THREADS) {
        logits[edits[EDIT_WORDS * e]] = as_type<float>(edits[EDIT_WORDS * e + 3]);
    }
    threadgroup_barrier(mem_flags::mem_device);
    return token;
}

[[kernel, max_total_threads_per_threadgroup(CHOOSE_THREADS)]] void
choose(device float* all_logits [[buffer(0)]], device const uint* tasks [[buffer(1)]], device uint* extras [[buffer(2)]],
       device uint* answers [[buffer(3)]], constant int& length [[buffer(4)]], constant int& answer_words [[buffer(5)]],
       uint3 group [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]],
       uint warp [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    SHARED(atomic_uint, low, CHOOSE_THREADS);
    SHARED(atomic_uint, high, CHOOSE_THREADS);
    SHARED(ulong, partial, CHOOSE_WARPS);
    SHARED(ulong, found, 2);
    SHARED(uint2, best, MOST_ALTERNATIVES);
    const ChooseRoom room = {low, high, partial, found, best, static_cast<int>(index), static_cast<int>(warp), static_cast<int>(lane)};
    device float* logits = all_logits + static_cast<size_t>(group.x) * length;
    device const uint* task = tasks + static_cast<size_t>(group.x) * TASK_WORDS;
    device uint* answer = answers + static_cast<size_t>(group.x) * answer_words;
    const Row row = {logits, nullptr, nullptr, length};

    const Larger larger = Larger();
    ulong wrong = 0;
    for (int i = room.index; i < length; i += CHOOSE_THREADS) {
        wrong = is_finite(logits[i]) ? wrong : larger(wrong, ~static_cast<uint>(i));
    }
    wrong = over_block(wrong, larger, room);
    if (wrong > 0) {
        if (index == 0) {
            answer[STATUS] = NOT_FINITE;
            answer[TOKEN] = ~low_of(wrong);
        }
        return;
    }
    const bool has_target = task[FLAGS] & HAS_TARGET;
    const int token = has_target ? static_cast<int>(task[TARGET]) : chosen_with_edits(logits, length, task, extras, room);
    if (index == 0) {
        answer[STATUS] = token < 0 ? NOTHING_ALLOWED : DONE;
        answer[TOKEN] = static_cast<uint>(token);
    }
    if (token < 0 || !(task[FLAGS] & WANTS_FACTS)) {
        return;
    }
    const float max_logit = of_key(high_of(peak_of(row, room)));
    tell_facts(row, token, max_logit, answer, room);
    const int wanted = static_cast<int>(task[ALTERNATIVES]);
    device uint* to = answer + ANSWER_WORDS;
    if (!(task[FLAGS] & IS_LISTED) && wanted > 0) {
        tell_best(row, max_logit, wanted, to, room);
    } else if (room.index < wanted) {
        const uint listed = extras[task[LISTED] + index];
        to[2 * index] = listed;
        to[2 * index + 1] = as_type<uint>(logits[listed]);
    }
    if (index == 0) {
        answer[ALTERNATIVE_COUNT] = static_cast<uint>(wanted);
    }
}

PLAIN_KERNEL(choose)
