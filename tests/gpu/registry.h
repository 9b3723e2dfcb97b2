// The kernels of the library by name, between kernels.cpp (instrumented in the checked library) and cuda_host.cpp (never).
#pragma once

namespace gpu_host {

struct Kernel {
    const char* name;
    // Calls the kernel as the current thread; `args[i]` points at the i-th argument.
    void (*call)(void** args);
};

extern const Kernel KERNELS[];
extern const unsigned KERNEL_COUNT;

}  // namespace gpu_host
