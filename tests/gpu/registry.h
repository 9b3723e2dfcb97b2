// The kernels of a library by name, and what its devices can do: between the kernels (instrumented in the checked library) and emulator.cpp
// (never).
#pragma once

#include <cstddef>

namespace gpu_host {

struct Kernel {
    const char* name;
    // Calls the kernel as the current thread; `args[i]` points at the i-th argument.
    void (*call)(void** args);
    const Kernel* next;
};

// The last that was added.
extern const Kernel* kernels;

struct Limits {
    size_t shared_bytes;
    // Blocks in y and in z.
    unsigned depth;
};

extern const Limits LIMITS;

// A kernel of the library, from when it is opened on.
struct Registration {
    Registration(const char* name, void (*call)(void** args)) : kernel{name, call, kernels} { kernels = &kernel; }
    Kernel kernel;
};

}  // namespace gpu_host
