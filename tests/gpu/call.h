// How the emulator calls a kernel as the current thread. Metal's kernels have parameters that tell where the thread is, after their
// arguments: of type uint3 the threadgroup's position and then its size; of type uint the thread's index in the threadgroup, where there is
// one, the simdgroup's index and the lane, where there are two, and where there are three all of them in this order.
#pragma once

#include "emulator.h"

// Arguments by index, without the standard library's templates: they would exist twice, once of them instrumented.
template <unsigned... I> struct Indices {};
template <unsigned N, unsigned... I> struct Counted : Counted<N - 1, N - 1, I...> {};
template <unsigned... I> struct Counted<0, I...> {
    using List = Indices<I...>;
};

template <class A, class B> constexpr bool IS_SAME = false;
template <class A> constexpr bool IS_SAME<A, A> = true;

// How many of the first `end` types are T.
template <class T, class... A> constexpr unsigned count(unsigned end) {
    const bool are[] = {IS_SAME<T, A>...};
    unsigned found = 0;
    for (unsigned i = 0; i < end; ++i) {
        found += are[i] ? 1 : 0;
    }
    return found;
}

// What is passed for a parameter of type A, which is number NUMBER of the COUNT with this type.
template <class A, unsigned NUMBER, unsigned COUNT> struct Passed {
    __attribute__((no_sanitize("thread"))) static A value(void* argument) { return *static_cast<A*>(argument); }
};

// A copy: the argument lies in the host's memory, and the kernel reads it when it likes.
template <class A, unsigned NUMBER, unsigned COUNT> struct Passed<const A&, NUMBER, COUNT> {
    __attribute__((no_sanitize("thread"))) static A value(void* argument) { return *static_cast<A*>(argument); }
};

template <unsigned NUMBER, unsigned COUNT> struct Passed<gpu_host::Index, NUMBER, COUNT> {
    __attribute__((no_sanitize("thread"))) static gpu_host::Index value(void*) {
        return NUMBER == 0 ? gpu_host::block_index() : gpu_host::block_size();
    }
};

template <unsigned NUMBER, unsigned COUNT> struct Passed<unsigned, NUMBER, COUNT> {
    __attribute__((no_sanitize("thread"))) static unsigned value(void*) {
        constexpr unsigned which = COUNT == 2 ? NUMBER + 1 : NUMBER;
        return which == 0 ? gpu_host::thread_index().x : which == 1 ? gpu_host::warp() : gpu_host::lane();
    }
};

// Not instrumented: the arguments lie in the host's memory. Named functions, since the code around a lambda would be instrumented again.
template <auto KERNEL> struct Call;
template <class... A, void (*KERNEL)(A...)> struct Call<KERNEL> {
    static constexpr unsigned COUNT = sizeof...(A);
    template <unsigned... I> __attribute__((no_sanitize("thread"))) static void unpack(void** args, Indices<I...>) {
        KERNEL(Passed<A, count<A, A...>(I), count<A, A...>(COUNT)>::value(args[I])...);
    }
    __attribute__((no_sanitize("thread"))) static void with(void** args) { unpack(args, typename Counted<COUNT>::List()); }
};
