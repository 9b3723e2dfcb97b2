//! How many KV blocks there are: from a byte budget, which comes from the flag or from the memory that is left.

use super::load::RunnerOptions;
use crate::model::LoadError;
use crate::ops::KvType;

/// Share of the memory left after weights and workspace that the KV cache may take by default: the rest is for prompts, sockets, the
/// page cache and the neighbours.
pub(super) const DEFAULT_SHARE: f64 = 0.6;

/// What a model needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// Bytes of the weights as stored.
    pub(super) weight_bytes: u64,
    /// Bytes of activations and logits of a step.
    pub(super) workspace_bytes: u64,
    /// Bytes of keys and values of one block over all layers.
    pub(super) block_bytes: u64,
    /// Longest sequence in tokens.
    pub(super) max_model_len: usize,
}

/// Number of KV blocks.
///
/// # Errors
/// [`LoadError::Memory`] when weights, workspace and one longest sequence do not fit.
pub(super) fn num_blocks(needs: Needs, options: &RunnerOptions) -> Result<usize, LoadError> {
    let least = needs.max_model_len.div_ceil(options.block_size) as u64;
    let fixed = needs.weight_bytes + needs.workspace_bytes;
    let available = options.memory_bytes;
    if fixed > available {
        let fix = "use a smaller model, a 16-bit --dtype, --quantization, or more memory";
        return Err(LoadError::Memory { what: "the weights and the workspace of a step", wanted: fixed, available, fix });
    }
    let left = available - fixed;
    let budget = options.kv_cache_memory_bytes.unwrap_or((left as f64 * options.kv_cache_share) as u64);
    if budget > left {
        let fix = "lower --kv-cache-memory-bytes";
        return Err(LoadError::Memory { what: "the KV cache beside the weights", wanted: budget, available: left, fix });
    }
    if budget / needs.block_bytes < least {
        let (what, wanted) = ("the KV cache of one sequence of --max-model-len", least * needs.block_bytes);
        let fix = match options.kv_cache_dtype {
            Some(KvType::Int8) => "raise --kv-cache-memory-bytes or lower --max-model-len",
            _ => "raise --kv-cache-memory-bytes, lower --max-model-len, or use --kv-cache-dtype int8",
        };
        return Err(LoadError::Memory { what, wanted, available: budget, fix });
    }
    let blocks = budget / needs.block_bytes;
    // More than every sequence at its longest is of no use; with a budget given by hand, prefix caching may use all of it.
    let useful = if options.kv_cache_memory_bytes.is_some() { blocks } else { least * options.max_num_seqs as u64 };
    Ok(blocks.min(useful).min(u64::from(u32::MAX)) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs { weight_bytes: 1000, workspace_bytes: 100, block_bytes: 10, max_model_len: 64 };

    fn options(memory_bytes: u64, kv: Option<u64>) -> RunnerOptions {
        RunnerOptions { memory_bytes, kv_cache_memory_bytes: kv, max_num_seqs: 4, ..RunnerOptions::default() }
    }

    #[test]
    fn default_budget_is_a_share_of_what_is_left_and_no_more_than_useful() {
        assert_eq!(num_blocks(NEEDS, &options(1100 + 100, None)).unwrap(), 6);
        assert_eq!(num_blocks(NEEDS, &options(1_000_000, None)).unwrap(), 2 * 4);
    }

    #[test]
    fn a_budget_by_hand_is_taken_whole() {
        assert_eq!(num_blocks(NEEDS, &options(1_000_000, Some(1234))).unwrap(), 123);
    }

    #[test]
    fn too_little_memory_names_both_numbers() {
        for (memory, kv, wanted, there) in
            [(1000, None, 1100, 1000), (1120, None, 20, 12), (1120, Some(19), 20, 19), (1120, Some(21), 21, 20)]
        {
            match num_blocks(NEEDS, &options(memory, kv)) {
                Err(LoadError::Memory { wanted: w, available: a, .. }) => assert_eq!((w, a), (wanted, there)),
                other => panic!("{memory} {kv:?}: {other:?}"),
            }
        }
    }
}
