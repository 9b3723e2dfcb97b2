// All kernels in one translation unit, and the table that finds them by name.
#include "activation.cu"
#include "attention_merge.cu"
#include "embed.cu"
#include "faulty.cu"
#include "gather.cu"
#include "paged_attention.cu"
#include "qk_norm_rope_store.cu"
#include "rms_norm.cu"

#include "registry.h"

namespace {

// Arguments by index, without the standard library's templates: they would exist twice, once of them instrumented.
template <unsigned... I> struct Indices {};
template <unsigned N, unsigned... I> struct Counted : Counted<N - 1, N - 1, I...> {};
template <unsigned... I> struct Counted<0, I...> {
    using List = Indices<I...>;
};

// Not instrumented: the arguments lie in the host's memory. Named functions, since the code around a lambda would be instrumented again.
template <auto KERNEL> struct Call;
template <class... A, void (*KERNEL)(A...)> struct Call<KERNEL> {
    template <unsigned... I> __attribute__((no_sanitize("thread"))) static void unpack(void** args, Indices<I...>) {
        KERNEL(*static_cast<A*>(args[I])...);
    }
    __attribute__((no_sanitize("thread"))) static void with(void** args) { unpack(args, typename Counted<sizeof...(A)>::List()); }
};

}  // namespace

#define KERNEL(NAME) {#NAME, Call<NAME>::with},
#define FOR_TYPES(NAME) KERNEL(NAME##_bf16) KERNEL(NAME##_f16)
#define FOR_HEADS(NAME)                                         \
    KERNEL(NAME##_bf16_32) KERNEL(NAME##_bf16_64) KERNEL(NAME##_bf16_128) \
    KERNEL(NAME##_f16_32) KERNEL(NAME##_f16_64) KERNEL(NAME##_f16_128)
#define FOR_QUERIES(NAME)                                                   \
    KERNEL(NAME##_bf16_32_1) KERNEL(NAME##_bf16_64_1) KERNEL(NAME##_bf16_128_1) \
    KERNEL(NAME##_bf16_32_8) KERNEL(NAME##_bf16_64_8) KERNEL(NAME##_bf16_128_8) \
    KERNEL(NAME##_f16_32_1) KERNEL(NAME##_f16_64_1) KERNEL(NAME##_f16_128_1)    \
    KERNEL(NAME##_f16_32_8) KERNEL(NAME##_f16_64_8) KERNEL(NAME##_f16_128_8)

const gpu_host::Kernel gpu_host::KERNELS[] = {
    FOR_TYPES(embed) FOR_TYPES(rms_norm) FOR_TYPES(swiglu) FOR_TYPES(silu) FOR_TYPES(gather)
    FOR_HEADS(qk_norm_rope_store) FOR_HEADS(attention_merge) FOR_QUERIES(paged_attention)
    KERNEL(faulty_shared_race) KERNEL(faulty_block_race) KERNEL(faulty_out_of_bounds) KERNEL(faulty_barrier)
};
const unsigned gpu_host::KERNEL_COUNT = sizeof(KERNELS) / sizeof(KERNELS[0]);
