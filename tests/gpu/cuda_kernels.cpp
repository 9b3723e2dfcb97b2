// All CUDA kernels in one translation unit, and the table that finds them by name.
#include "activation.cu"
#include "attention_merge.cu"
#include "choose.cu"
#include "embed.cu"
#include "faulty.cu"
#include "gather.cu"
#include "matvec.cu"
#include "paged_attention.cu"
#include "qk_norm_rope_store.cu"
#include "rms_norm.cu"

#include "call.h"
#include "registry.h"

const gpu_host::Limits gpu_host::LIMITS = {48 * 1024, 65535};

#define KERNEL(NAME) static const gpu_host::Registration NAME##_registration(#NAME, Call<NAME>::with);
#define FOR_TYPES(NAME) KERNEL(NAME##_bf16) KERNEL(NAME##_f16)
#define FOR_ROWS(NAME) KERNEL(NAME##_bf16_1) KERNEL(NAME##_bf16_2) KERNEL(NAME##_f16_1) KERNEL(NAME##_f16_2)
#define FOR_HEADS(NAME)                                         \
    KERNEL(NAME##_bf16_32) KERNEL(NAME##_bf16_64) KERNEL(NAME##_bf16_128) \
    KERNEL(NAME##_f16_32) KERNEL(NAME##_f16_64) KERNEL(NAME##_f16_128)
#define FOR_QUERIES(NAME)                                                   \
    KERNEL(NAME##_bf16_32_1) KERNEL(NAME##_bf16_64_1) KERNEL(NAME##_bf16_128_1) \
    KERNEL(NAME##_bf16_32_8) KERNEL(NAME##_bf16_64_8) KERNEL(NAME##_bf16_128_8) \
    KERNEL(NAME##_f16_32_1) KERNEL(NAME##_f16_64_1) KERNEL(NAME##_f16_128_1)    \
    KERNEL(NAME##_f16_32_8) KERNEL(NAME##_f16_64_8) KERNEL(NAME##_f16_128_8)

FOR_TYPES(embed) FOR_TYPES(rms_norm) FOR_TYPES(swiglu) FOR_TYPES(silu) FOR_TYPES(gather)
FOR_HEADS(qk_norm_rope_store) FOR_HEADS(attention_merge) FOR_QUERIES(paged_attention)
FOR_ROWS(matvec) FOR_ROWS(matvec_swiglu) KERNEL(choose)
KERNEL(faulty_shared_race) KERNEL(faulty_block_race) KERNEL(faulty_out_of_bounds) KERNEL(faulty_barrier) KERNEL(faulty_shared_size)
