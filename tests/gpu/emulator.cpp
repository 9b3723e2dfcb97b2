// A GPU on one CPU thread, for tests of CUDA and of Metal kernels: blocks one after the other, a fiber for each thread of a block.
//
// A warp runs until all its threads wait for the block or have ended; threads of a warp that wait for each other go on when all have come.
// Anything else can never go on and is reported. What is refused here, a real device would refuse, or worse, allow.
#include "emulator.h"

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "fiber.h"
#include "memory.h"
#include "registry.h"

const gpu_host::Kernel* gpu_host::kernels = nullptr;

namespace {

using gpu_host::Index;

constexpr unsigned WARP_THREADS = 32;
constexpr unsigned MAX_THREADS = 1024;
// The most of any language.
constexpr size_t MAX_SHARED = 48 * 1024;
constexpr size_t MAX_ARRAYS = 16;
// Between arrays lies some memory that is nobody's, so that an index too large shows.
constexpr size_t SHARED_GAP = 16;
constexpr size_t SHARED_ROOM = MAX_SHARED + MAX_ARRAYS * 2 * SHARED_GAP;

enum class State : unsigned char { RUNNING, AT_BLOCK_BARRIER, AT_WARP_BARRIER, AT_EXCHANGE, ENDED };

// What a thread gives to its warp.
struct Words {
    unsigned words[4];
};

struct SharedArray {
    const void* key;
    size_t offset;
    size_t bytes;
};

// All there is of the device; used by one launch at a time, under `device_lock`.
struct Device {
    Stacks stacks;
    Memory memory;
    alignas(16) unsigned char shared[SHARED_ROOM];
    Cell shared_shadow[SHARED_ROOM / CELL_BYTES];

    bool launched = false;
    const gpu_host::Kernel* kernel = nullptr;
    void** args = nullptr;
    Index grid{}, block{}, block_index{};
    unsigned threads = 0;

    SharedArray arrays[MAX_ARRAYS];
    size_t array_count = 0;
    size_t shared_bytes = 0;  // of the arrays and of the launch
    size_t shared_used = 0;   // with the gaps

    unsigned current = 0;
    void* scheduler = nullptr;
    void* fibers[MAX_THREADS];
    State states[MAX_THREADS];
    Words words[2][MAX_THREADS];  // what threads exchange; two, so that nobody has to wait before the next exchange
    uint32_t exchanges[MAX_THREADS / WARP_THREADS];
    uint32_t steps[MAX_THREADS / WARP_THREADS];  // barriers of the warp since the last of the block

    uint32_t time = 1;
    uint32_t launch_began = 0;
    uint32_t block_began = 0;

    bool failed = false;
    char message[512];
};

std::mutex device_lock;
Device device;

// The first fault counts.
__attribute__((format(printf, 1, 2))) void report(const char* format, ...) {
    if (device.failed) {
        return;
    }
    device.failed = true;
    va_list values;
    va_start(values, format);
    vsnprintf(device.message, sizeof(device.message), format, values);
    va_end(values);
}

// A fault of the running thread: it never goes on.
template <class... A> [[noreturn]] void fail(const char* format, A... values) {
    char what[320];
    snprintf(what, sizeof(what), format, values...);
    const Index b = device.block_index;
    report("%s, block (%u, %u, %u), thread %u: %s", device.kernel->name, b.x, b.y, b.z, device.current, what);
    for (;;) {
        gpu_host_switch(&device.fibers[device.current], device.scheduler);
    }
}

// Goes on with the next thread of the warp, the last one with the scheduler.
void wait(State state) {
    const unsigned thread = device.current, next = thread + 1;
    device.states[thread] = state;
    const bool is_last = next % WARP_THREADS == 0 || next == device.threads;
    device.current = next;
    gpu_host_switch(&device.fibers[thread], is_last ? device.scheduler : device.fibers[next]);
}

// Gives words to the warp; returns what its lanes gave.
const Words* give(Words own) {
    const unsigned first = device.current / WARP_THREADS * WARP_THREADS;
    Words* const words = device.words[device.exchanges[first / WARP_THREADS] % 2];
    words[device.current] = own;
    wait(State::AT_EXCHANGE);
    return words + first;
}

void run_thread() {
    device.kernel->call(device.args);
    wait(State::ENDED);
    __builtin_unreachable();
}

const char* name_of(State state) {
    switch (state) {
        case State::AT_BLOCK_BARRIER: return "waits for the block";
        case State::AT_WARP_BARRIER: return "waits for its warp";
        case State::AT_EXCHANGE: return "waits in a shuffle";
        case State::ENDED: return "has ended";
        default: return "runs";
    }
}

void report_divergence(unsigned one, unsigned other) {
    const Index b = device.block_index;
    report("%s, block (%u, %u, %u): divergent barrier: thread %u %s but thread %u %s", device.kernel->name, b.x, b.y, b.z, one,
           name_of(device.states[one]), other, name_of(device.states[other]));
}

// Runs a warp until its threads wait for the block or have ended, all alike.
void run_warp(unsigned first) {
    const unsigned end = first + WARP_THREADS < device.threads ? first + WARP_THREADS : device.threads;
    for (;;) {
        device.current = first;
        gpu_host_switch(&device.scheduler, device.fibers[first]);
        if (device.failed) {
            return;
        }
        for (unsigned thread = first + 1; thread < end; ++thread) {
            if (device.states[thread] != device.states[first]) {
                return report_divergence(first, thread);
            }
        }
        switch (device.states[first]) {
            case State::AT_WARP_BARRIER: ++device.steps[first / WARP_THREADS]; break;
            case State::AT_EXCHANGE: ++device.exchanges[first / WARP_THREADS]; break;
            default: return;
        }
    }
}

void run_block() {
    memset(device.shared, 0xff, sizeof(device.shared));  // NaN in every type, and no index
    device.block_began = ++device.time;
    for (unsigned thread = 0; thread < device.threads; ++thread) {
        device.fibers[thread] = device.stacks.start(thread, run_thread);
    }
    memset(device.exchanges, 0, sizeof(device.exchanges));
    for (;;) {
        memset(device.steps, 0, sizeof(device.steps));
        for (unsigned first = 0; first < device.threads && !device.failed; first += WARP_THREADS) {
            run_warp(first);
        }
        for (unsigned first = WARP_THREADS; first < device.threads && !device.failed; first += WARP_THREADS) {
            if (device.states[first] != device.states[0]) {
                report_divergence(0, first);
            }
        }
        if (device.failed || device.states[0] == State::ENDED) {
            return;
        }
        ++device.time;
    }
}

void run_grid() {
    device.launch_began = ++device.time;
    for (unsigned z = 0; z < device.grid.z; ++z) {
        for (unsigned y = 0; y < device.grid.y; ++y) {
            for (unsigned x = 0; x < device.grid.x; ++x) {
                device.block_index = {x, y, z};
                run_block();
                if (device.failed) {
                    return;
                }
            }
        }
    }
}

void launch(const char* name, const unsigned grid[3], const unsigned block[3], unsigned shared_bytes) {
    device.kernel = gpu_host::kernels;
    while (device.kernel != nullptr && strcmp(device.kernel->name, name) != 0) {
        device.kernel = device.kernel->next;
    }
    if (device.kernel == nullptr) {
        return report("there is no kernel %s", name);
    }
    const bool grid_fits = grid[0] <= 0x7fffffffu && grid[1] <= gpu_host::LIMITS.depth && grid[2] <= gpu_host::LIMITS.depth;
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || !grid_fits) {
        return report("%s: a grid of (%u, %u, %u) blocks cannot be launched", name, grid[0], grid[1], grid[2]);
    }
    const bool block_fits = block[0] <= MAX_THREADS && block[1] <= MAX_THREADS && block[2] <= 64;
    const uint64_t threads = block_fits ? uint64_t{block[0]} * block[1] * block[2] : 0;
    if (threads == 0 || threads > MAX_THREADS) {
        return report("%s: a block of (%u, %u, %u) threads cannot be launched", name, block[0], block[1], block[2]);
    }
    if (shared_bytes > gpu_host::LIMITS.shared_bytes) {
        return report("%s: %u bytes of shared memory are more than %zu", name, shared_bytes, gpu_host::LIMITS.shared_bytes);
    }
    if (!device.stacks.prepare(threads)) {
        return report("%s: no memory for the stacks of %u threads", name, static_cast<unsigned>(threads));
    }
    device.grid = {grid[0], grid[1], grid[2]};
    device.block = {block[0], block[1], block[2]};
    device.threads = static_cast<unsigned>(threads);
    device.array_count = 0;
    device.shared_bytes = shared_bytes;
    device.shared_used = 0;
    device.launched = true;
    run_grid();
    device.launched = false;
}

}  // namespace

namespace gpu_host {

Index thread_index() {
    const unsigned thread = device.current, row = thread / device.block.x;
    return {thread % device.block.x, row % device.block.y, row / device.block.y};
}
Index block_index() { return device.block_index; }
Index block_size() { return device.block; }
Index grid_size() { return device.grid; }
unsigned lane() { return device.current % WARP_THREADS; }
unsigned warp() { return device.current / WARP_THREADS; }

void block_barrier() { wait(State::AT_BLOCK_BARRIER); }

void warp_barrier(unsigned mask) {
    if (mask != 0xffffffffu) {
        fail("a barrier for the lanes %#x: only whole warps are emulated", mask);
    }
    wait(State::AT_WARP_BARRIER);
}

// Orders no accesses to memory, as on the device.
unsigned exchange(unsigned mask, unsigned word, unsigned source) {
    if (mask != 0xffffffffu) {
        fail("a shuffle of the lanes %#x: only whole warps are emulated", mask);
    }
    const unsigned first = device.current / WARP_THREADS * WARP_THREADS;
    if (source >= WARP_THREADS || first + source >= device.threads) {
        fail("a shuffle from the lane %u, which does not exist", source);
    }
    return give({{word, 0, 0, 0}})[source].words[0];
}

void multiply_matrices(float (&d)[2], const float (&a)[2], const float (&b)[2], const float (&c)[2]) {
    if (device.current / WARP_THREADS * WARP_THREADS + WARP_THREADS > device.threads) {
        fail("a product of matrices in %s", "a warp that is not whole");
    }
    Words own;
    memcpy(own.words, a, sizeof(a));
    memcpy(own.words + 2, b, sizeof(b));
    const Words* all = give(own);
    const unsigned row = lane() / 4, pair = lane() % 4;
    float sums[2] = {c[0], c[1]};
    for (unsigned k = 0; k < 8; ++k) {
        const float left = __builtin_bit_cast(float, all[4 * row + k / 2].words[k % 2]);
        const Words& right = all[4 * k + pair];
        sums[0] = fmaf(left, __builtin_bit_cast(float, right.words[2]), sums[0]);
        sums[1] = fmaf(left, __builtin_bit_cast(float, right.words[3]), sums[1]);
    }
    d[0] = sums[0];
    d[1] = sums[1];
}

void* shared_array(const void* key, size_t bytes) {
    for (size_t i = 0; i < device.array_count; ++i) {
        if (device.arrays[i].key == key) {
            return device.shared + device.arrays[i].offset;
        }
    }
    if (device.array_count == MAX_ARRAYS) {
        fail("more than %zu shared arrays", MAX_ARRAYS);
    }
    device.shared_bytes += (bytes + 15) / 16 * 16;
    if (device.shared_bytes > LIMITS.shared_bytes) {
        fail("%zu bytes of shared memory are more than %zu", device.shared_bytes, LIMITS.shared_bytes);
    }
    const size_t offset = device.shared_used;
    device.arrays[device.array_count++] = {key, offset, bytes};
    device.shared_used = (offset + bytes + SHARED_GAP + 15) / 16 * 16;
    return device.shared + offset;
}

}  // namespace gpu_host

#include "sanitizer.h"

// What the tests call; the rest of the library is hidden.
extern "C" {
#pragma GCC visibility push(default)

void gpu_host_allocated(void* base, size_t bytes) {
    const std::lock_guard<std::mutex> held(device_lock);
    device.memory.add(reinterpret_cast<uintptr_t>(base), bytes);
}

void gpu_host_freed(void* base) {
    const std::lock_guard<std::mutex> held(device_lock);
    device.memory.remove(reinterpret_cast<uintptr_t>(base));
}

int gpu_host_launch(const char* kernel, const unsigned grid[3], const unsigned block[3], unsigned shared_bytes, void** args, char* message,
                    size_t message_bytes) {
    const std::lock_guard<std::mutex> held(device_lock);
    device.failed = false;
    device.message[0] = 0;
    device.args = args;
    launch(kernel, grid, block, shared_bytes);
    if (message_bytes > 0) {
        snprintf(message, message_bytes, "%s", device.message);
    }
    return device.failed ? 1 : 0;
}

#pragma GCC visibility pop
}  // extern "C"
