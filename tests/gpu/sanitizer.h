// The calls that -fsanitize=thread puts before every access of a kernel, answered by the emulator. Part of emulator.cpp.
//
// An access must lie in one allocation, one shared array or the thread's own stack, and must not race.
#pragma once

namespace {

[[noreturn]] __attribute__((noinline, cold)) void fail_access(const char* what, bool write, uintptr_t address, size_t bytes,
                                                              const char* where, size_t offset) {
    fail("%s: %s of %zu bytes at %p, %s%zu", what, write ? "write" : "read", bytes, reinterpret_cast<void*>(address), where, offset);
}

// The cell of the first byte; an access to memory that is nobody's ends here.
__attribute__((always_inline)) inline Cell* shared_cells(uintptr_t address, size_t bytes, bool write) {
    const size_t offset = address - reinterpret_cast<uintptr_t>(device.shared);
    for (size_t i = 0; i < device.array_count; ++i) {
        const SharedArray& array = device.arrays[i];
        if (offset - array.offset < array.bytes && offset - array.offset + bytes <= array.bytes) {
            return device.shared_shadow + offset / CELL_BYTES;
        }
    }
    fail_access("out of bounds", write, address, bytes, "outside the arrays of shared memory, offset ", offset);
}

__attribute__((always_inline)) inline const Allocation& allocation_of(uintptr_t address, size_t bytes, bool write) {
    const Allocation* found = device.memory.near(address);
    if (found == nullptr) {
        fail_access("out of bounds", write, address, bytes, "in no allocation of ", 0);
    }
    if (address + bytes > found->end) {
        const bool across = address < found->end;
        const size_t distance = across ? address - found->base : address - found->end;
        fail_access("out of bounds", write, address, bytes,
                    across ? "across the end of the nearest allocation, from its byte " : "after the end of the nearest allocation by ",
                    distance);
    }
    return *found;
}

// Inlined for each size and direction: most of the time of a checked kernel passes here.
__attribute__((always_inline)) inline void check(const void* pointer, size_t bytes, bool write) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    if (!device.launched || address - reinterpret_cast<uintptr_t>(device.stacks.low(device.current)) < Stacks::BYTES) {
        return;
    }
    const bool shared = address - reinterpret_cast<uintptr_t>(device.shared) < SHARED_ROOM;
    const uint32_t block_began = device.block_began;
    // Shared memory is another for every block.
    uint32_t launch_began = block_began;
    uintptr_t base = reinterpret_cast<uintptr_t>(device.shared);
    Cell* cells = nullptr;
    if (shared) {
        cells = shared_cells(address, bytes, write);
    } else {
        const Allocation& found = allocation_of(address, bytes, write);
        if (found.shadow == nullptr) {
            return;
        }
        base = found.base;
        cells = found.shadow + (address - base) / CELL_BYTES;
        launch_began = device.launch_began;
    }
    const Access now = Access::make(device.time, device.current, device.steps[device.current / WARP_THREADS]);
    const Moment moment{now, launch_began, block_began};
    const Cell* const end = cells + ((address - base) % CELL_BYTES + bytes + CELL_BYTES - 1) / CELL_BYTES;
    for (; cells != end; ++cells) {
        const Access other = cells->write;
        if (shared && !write && other.time() < block_began) {
            fail_access("uninitialised", write, address, bytes, "shared memory nobody wrote in this block, offset ", address - base);
        }
        const Verdict verdict = write ? on_write(*cells, moment) : on_read(*cells, moment);
        if (__builtin_expect(verdict != Verdict::FINE, 0)) {
            if (verdict == Verdict::RACE_OF_BLOCKS) {
                fail_access("race", write, address, bytes, "with another block of the launch, offset in the allocation ", address - base);
            }
            fail_access("race", write, address, bytes, "with another thread of the block and no barrier between, last writer thread ",
                        other.thread());
        }
    }
}

}  // namespace

// Plain, unaligned and volatile accesses are checked alike.
#define ACCESS(BYTES)                                                               \
    void __tsan_read##BYTES(void* at) { check(at, BYTES, false); }                  \
    void __tsan_write##BYTES(void* at) { check(at, BYTES, true); }                  \
    void __tsan_unaligned_read##BYTES(void* at) { check(at, BYTES, false); }        \
    void __tsan_unaligned_write##BYTES(void* at) { check(at, BYTES, true); }        \
    void __tsan_volatile_read##BYTES(void* at) { check(at, BYTES, false); }         \
    void __tsan_volatile_write##BYTES(void* at) { check(at, BYTES, true); }         \
    void __tsan_read_write##BYTES(void* at) { check(at, BYTES, true); }             \
    void __tsan_unaligned_read_write##BYTES(void* at) { check(at, BYTES, true); }

extern "C" {

ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

// Atomic operations do not race with each other, and are checked as reads; but a store, which begins something, as a write.
unsigned long long __tsan_atomic64_fetch_add(volatile unsigned long long* at, unsigned long long value, int) {
    check(const_cast<const unsigned long long*>(at), sizeof(value), false);
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
unsigned __tsan_atomic32_fetch_add(volatile unsigned* at, unsigned value, int) {
    check(const_cast<const unsigned*>(at), sizeof(value), false);
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
unsigned __tsan_atomic32_load(const volatile unsigned* at, int) {
    check(const_cast<const unsigned*>(at), sizeof(unsigned), false);
    return __atomic_load_n(at, __ATOMIC_RELAXED);
}
void __tsan_atomic32_store(volatile unsigned* at, unsigned value, int) {
    check(const_cast<const unsigned*>(at), sizeof(value), true);
    __atomic_store_n(at, value, __ATOMIC_RELAXED);
}

void __tsan_read_range(void* at, size_t bytes) { check(at, bytes, false); }
void __tsan_write_range(void* at, size_t bytes) { check(at, bytes, true); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}

void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
    check(from, bytes, false);
    check(to, bytes, true);
    return memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
    check(from, bytes, false);
    check(to, bytes, true);
    return memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
    check(to, bytes, true);
    return memset(to, value, bytes);
}

}  // extern "C"

#undef ACCESS
