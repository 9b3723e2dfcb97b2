// Fibers: a stack for each thread of a block and a switch between them, some nanoseconds each (ucontext makes two system calls).
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
// What a call must preserve, on the stack; the last thing there is where to go on.
asm(R"(
.text
.p2align 4
.type gpu_host_switch, %function
gpu_host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size gpu_host_switch, .-gpu_host_switch
)");
constexpr size_t FRAME_WORDS = 8;  // six registers, the entry, and the return address that the entry must find above it
constexpr size_t ENTRY_WORD = 6;
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.type gpu_host_switch, %function
gpu_host_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size gpu_host_switch, .-gpu_host_switch
)");
constexpr size_t FRAME_WORDS = 20;
constexpr size_t ENTRY_WORD = 11;  // x30
#else
#error "the emulator switches stacks on x86-64 and aarch64 only"
#endif

// Stores the stack pointer of the running fiber to `from` and goes on where `to` stopped.
extern "C" void gpu_host_switch(void** from, void* to) __attribute__((visibility("hidden")));

class Stacks {
public:
    static constexpr size_t COUNT = 1024;
    static constexpr size_t BYTES = 64 * 1024;

    // Makes the first `count` stacks usable. False when memory is refused.
    bool prepare(size_t count) {
        if (base_ == nullptr) {
            void* all = mmap(nullptr, COUNT * SPACING, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (all == MAP_FAILED) {
                return false;
            }
            base_ = static_cast<char*>(all);
        }
        for (; ready_ < count; ++ready_) {
            if (mprotect(low(ready_), BYTES, PROT_READ | PROT_WRITE) != 0) {
                return false;
            }
        }
        return true;
    }

    // The lowest address of a stack.
    char* low(size_t index) const { return base_ + index * SPACING + (SPACING - BYTES); }

    // A stack pointer to switch to that starts `entry`, which must not return.
    void* start(size_t index, void (*entry)()) const {
        uintptr_t* frame = reinterpret_cast<uintptr_t*>(low(index) + BYTES) - FRAME_WORDS;
        for (size_t word = 0; word < FRAME_WORDS; ++word) {
            frame[word] = 0;
        }
        frame[ENTRY_WORD] = reinterpret_cast<uintptr_t>(entry);
        return frame;
    }

private:
    // Below each stack lies as much that nobody may touch, so that an overflow ends the process where it happens.
    static constexpr size_t SPACING = 2 * BYTES;

    char* base_ = nullptr;
    size_t ready_ = 0;
};
