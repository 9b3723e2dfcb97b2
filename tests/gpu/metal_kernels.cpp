// All Metal kernels in one translation unit; each instance registers itself.
#include "activation.metal"
#include "attention_merge.metal"
#include "choose.metal"
#include "embed.metal"
#include "faulty.metal"
#include "gather.metal"
#include "matmul.metal"
#include "matvec.metal"
#include "paged_attention.metal"
#include "qk_norm_rope_store.metal"
#include "rms_norm.metal"

// What every GPU of Apple has.
const gpu_host::Limits gpu_host::LIMITS = {32 * 1024, 0x7fffffffu};
