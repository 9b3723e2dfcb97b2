// A CUDA device on one CPU thread, for tests: blocks one after the other, a fiber for each thread of a block.
//
// A warp runs until all its threads wait for the block or have ended; threads of a warp that wait for each other go on when all have come.
// Anything else can never go on and is reported. What is refused here, a real device would refuse, or worse, allow.
#include "cuda_host.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "fiber.h"
#include "memory.h"
#include "registry.h"

namespace {

constexpr unsigned WARP_THREADS = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t MAX_SHARED = 48 * 1024;
constexpr size_t MAX_ARRAYS = 16;
// Between arrays lies some memory that is nobody's, so that an index too large shows.
constexpr size_t SHARED_GAP = 16;
constexpr size_t SHARED_ROOM = MAX_SHARED + MAX_ARRAYS * 2 * SHARED_GAP;

enum class State : unsigned char { RUNNING, AT_BLOCK_BARRIER, AT_WARP_BARRIER, AT_EXCHANGE, ENDED };

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
    uint3 grid{}, block{}, block_index{};
    unsigned threads = 0;

    SharedArray arrays[MAX_ARRAYS];
    size_t array_count = 0;
    size_t shared_bytes = 0;  // of the arrays and of the launch
    size_t shared_used = 0;   // with the gaps

    unsigned current = 0;
    void* scheduler = nullptr;
    void* fibers[MAX_THREADS];
    State states[MAX_THREADS];
    unsigned words[2][MAX_THREADS];           // what threads exchange; two, so that nobody has to wait before the next exchange
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
    const uint3 b = device.block_index;
    report("%s, block (%u, %u, %u), thread %u: %s", device.kernel->name, b.x, b.y, b.z, device.current, what);
    for (;;) {
        gpu_host_switch(&device.fibers[device.current], device.scheduler);
    }
}

void wait(State state) {
    device.states[device.current] = state;
    gpu_host_switch(&device.fibers[device.current], device.scheduler);
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
    const uint3 b = device.block_index;
    report("%s, block (%u, %u, %u): divergent barrier: thread %u %s but thread %u %s", device.kernel->name, b.x, b.y, b.z, one,
           name_of(device.states[one]), other, name_of(device.states[other]));
}

// Runs a warp until its threads wait for the block or have ended, all alike.
void run_warp(unsigned first) {
    const unsigned end = first + WARP_THREADS < device.threads ? first + WARP_THREADS : device.threads;
    for (;;) {
        for (unsigned thread = first; thread < end; ++thread) {
            device.current = thread;
            gpu_host_switch(&device.scheduler, device.fibers[thread]);
            if (device.failed) {
                return;
            }
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
    device.kernel = nullptr;
    for (unsigned i = 0; i < gpu_host::KERNEL_COUNT; ++i) {
        if (strcmp(gpu_host::KERNELS[i].name, name) == 0) {
            device.kernel = &gpu_host::KERNELS[i];
        }
    }
    if (device.kernel == nullptr) {
        return report("there is no kernel %s", name);
    }
    const bool grid_fits = grid[0] <= 0x7fffffffu && grid[1] <= 65535u && grid[2] <= 65535u;
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || !grid_fits) {
        return report("%s: a grid of (%u, %u, %u) blocks cannot be launched", name, grid[0], grid[1], grid[2]);
    }
    const bool block_fits = block[0] <= MAX_THREADS && block[1] <= MAX_THREADS && block[2] <= 64;
    const uint64_t threads = block_fits ? uint64_t{block[0]} * block[1] * block[2] : 0;
    if (threads == 0 || threads > MAX_THREADS) {
        return report("%s: a block of (%u, %u, %u) threads cannot be launched", name, block[0], block[1], block[2]);
    }
    if (shared_bytes > MAX_SHARED) {
        return report("%s: %u bytes of shared memory are more than %zu", name, shared_bytes, MAX_SHARED);
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

uint3 thread_index() {
    const unsigned thread = device.current, row = thread / device.block.x;
    return {thread % device.block.x, row % device.block.y, row / device.block.y};
}
uint3 block_index() { return device.block_index; }
uint3 block_size() { return device.block; }
uint3 grid_size() { return device.grid; }
unsigned lane() { return device.current % WARP_THREADS; }

void block_barrier() { wait(State::AT_BLOCK_BARRIER); }

void warp_barrier(unsigned mask) {
    if (mask != 0xffffffffu) {
        fail("a barrier for the lanes %#x: only whole warps are emulated", mask);
    }
    wait(State::AT_WARP_BARRIER);
}

// Orders no accesses to memory, as on the device.
unsigned exchange(unsigned mask, unsigned word, unsigned source) {
    const unsigned first = device.current / WARP_THREADS * WARP_THREADS;
    if (mask != 0xffffffffu) {
        fail("a shuffle of the lanes %#x: only whole warps are emulated", mask);
    }
    if (source >= WARP_THREADS || first + source >= device.threads) {
        fail("a shuffle from the lane %u, which does not exist", source);
    }
    unsigned* const words = device.words[device.exchanges[first / WARP_THREADS] % 2];
    words[device.current] = word;
    wait(State::AT_EXCHANGE);
    return words[first + source];
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
    if (device.shared_bytes > MAX_SHARED) {
        fail("%zu bytes of shared memory are more than %zu", device.shared_bytes, MAX_SHARED);
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
