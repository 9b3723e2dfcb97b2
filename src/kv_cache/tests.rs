//! Tests of the block accounting by itself.

use super::block_pool::{BlockPool, Reuse};
use super::prefix_cache::{Inserted, PrefixCache};
use super::{BlockId, BlockTable, CacheScope, Faults, KvCache, KvCacheConfig};
use proptest::prelude::*;
use std::collections::VecDeque;

const SCOPE: CacheScope = CacheScope { salt: 0 };
/// A cache in which all digests are equal.
const ALL_COLLIDE: Faults = Faults { planted: None, digest_bits_cut: 63 };

fn cache(num_blocks: usize, block_size: usize) -> KvCache {
    KvCache::new(KvCacheConfig { num_blocks, block_size, enable_prefix_caching: true })
}

/// Computes `tokens` in new blocks and commits them.
fn filled(kv: &mut KvCache, tokens: &[u32]) -> BlockTable {
    let mut table = BlockTable::default();
    assert!(kv.grow(&mut table, tokens.len(), &mut Vec::new()));
    kv.commit(&mut table, SCOPE, tokens);
    table
}

fn adopt(kv: &mut KvCache, tokens: &[u32]) -> BlockTable {
    let mut table = BlockTable::default();
    let hit = kv.find_prefix(SCOPE, tokens);
    kv.adopt(&mut table, hit);
    table
}

#[test]
fn a_pool_hands_out_every_block_once_and_then_none() {
    let mut pool = BlockPool::new(3);
    assert_eq!((0..4).map(|_| pool.allocate()).collect::<Vec<_>>(), [Some(BlockId(0)), Some(BlockId(1)), Some(BlockId(2)), None]);
    pool.audit().unwrap();
}

#[test]
fn a_pool_without_blocks_hands_out_none() {
    assert_eq!(BlockPool::new(0).allocate(), None);
}

#[test]
fn releasing_a_block_nobody_holds_changes_nothing() {
    let mut pool = BlockPool::new(2);
    let block = pool.allocate().unwrap();
    pool.release(block, Reuse::First);
    pool.release(block, Reuse::First);
    assert_eq!(pool.num_free(), 2);
    pool.audit().unwrap();
}

#[test]
fn a_grown_table_is_all_or_nothing() {
    let mut kv = cache(2, 4);
    let (mut table, mut new_blocks) = (BlockTable::default(), Vec::new());
    assert!(!kv.grow(&mut table, 9, &mut new_blocks));
    assert!(table.is_empty() && new_blocks.is_empty());
    assert!(kv.grow(&mut table, 5, &mut new_blocks));
    assert!(kv.grow(&mut table, 8, &mut new_blocks), "a block with room is used before a new one");
    assert_eq!(new_blocks, table.blocks());
    kv.audit([&table].into_iter()).unwrap();
}

#[test]
fn a_block_is_found_only_after_commit_and_only_when_full() {
    let mut kv = cache(4, 2);
    let mut table = BlockTable::default();
    assert!(kv.grow(&mut table, 3, &mut Vec::new()));
    assert!(kv.find_prefix(SCOPE, &[1, 2, 3]).blocks.is_empty());
    kv.commit(&mut table, SCOPE, &[1, 2, 3]);
    assert_eq!(kv.find_prefix(SCOPE, &[1, 2, 3]).blocks, table.blocks()[..1]);
    assert!(kv.find_prefix(SCOPE, &[1]).blocks.is_empty(), "half a block is no hit");
    assert!(kv.find_prefix(SCOPE, &[1, 3]).blocks.is_empty());
    assert!(kv.find_prefix(CacheScope { salt: 1 }, &[1, 2]).blocks.is_empty(), "another tenant's block is no hit");
}

#[test]
fn equal_tokens_after_another_beginning_are_no_hit() {
    let mut kv = cache(4, 2);
    let _table = filled(&mut kv, &[1, 2, 3, 4]);
    assert_eq!(kv.find_prefix(SCOPE, &[3, 4]).blocks.len(), 0);
    assert_eq!(kv.find_prefix(SCOPE, &[1, 2, 3, 4]).blocks.len(), 2);
}

#[test]
fn a_freed_block_is_still_found_and_leaves_the_free_list_on_a_hit() {
    let mut kv = cache(3, 2);
    let mut table = filled(&mut kv, &[1, 2, 3, 4]);
    kv.release(&mut table);
    assert_eq!((kv.num_free_blocks(), kv.num_cached_blocks()), (3, 2));
    assert_eq!(kv.find_prefix(SCOPE, &[1, 2, 3, 4]).num_free, 2);
    let mut table = adopt(&mut kv, &[1, 2, 3, 4]);
    assert_eq!(kv.num_free_blocks(), 1);
    assert_eq!(kv.find_prefix(SCOPE, &[1, 2, 3, 4]).num_free, 0);
    kv.audit([&table].into_iter()).unwrap();
    kv.release(&mut table);
    kv.audit([].into_iter()).unwrap();
}

#[test]
fn reuse_takes_garbage_first_then_the_end_of_the_least_recently_used_text() {
    let mut kv = cache(6, 1);
    let mut old = filled(&mut kv, &[1, 2]);
    let mut recent = filled(&mut kv, &[7, 8]);
    kv.release(&mut old);
    kv.release(&mut recent);
    let found = |kv: &KvCache, tokens: &[u32]| kv.find_prefix(SCOPE, tokens).blocks.len();
    let mut table = BlockTable::default();
    let mut expected = [(2, 2), (2, 2), (1, 2), (0, 2), (0, 1), (0, 0)].into_iter();
    for num_tokens in 1..=6 {
        assert!(kv.grow(&mut table, num_tokens, &mut Vec::new()));
        assert_eq!(Some((found(&kv, &[1, 2]), found(&kv, &[7, 8]))), expected.next());
    }
    assert!(!kv.grow(&mut table, 7, &mut Vec::new()));
    assert_eq!(kv.num_cached_blocks(), 0);
}

#[test]
fn of_two_equal_blocks_one_is_kept_and_both_tables_continue_from_it() {
    let mut kv = cache(8, 2);
    let mut first = filled(&mut kv, &[1, 2, 3]);
    let mut second = filled(&mut kv, &[1, 2, 4, 5]);
    assert_eq!(first.blocks()[0], second.blocks()[0]);
    assert_eq!(kv.ref_count(first.blocks()[0]), 2);
    assert_eq!(kv.num_free_blocks(), 8 - 3);
    kv.audit([&first, &second].into_iter()).unwrap();
    kv.release(&mut first);
    assert_eq!(kv.find_prefix(SCOPE, &[1, 2, 4, 5]).blocks, second.blocks(), "the second's own block is found behind the shared one");
    kv.release(&mut second);
    kv.audit([].into_iter()).unwrap();
}

#[test]
fn forgotten_content_is_not_found_and_its_other_holder_keeps_its_blocks() {
    let mut kv = cache(6, 2);
    let mut kept = filled(&mut kv, &[1, 2, 3, 4]);
    let mut failed = adopt(&mut kv, &[1, 2]);
    kv.forget(failed.blocks());
    kv.release(&mut failed);
    assert!(kv.find_prefix(SCOPE, &[1, 2]).blocks.is_empty());
    assert!(kv.grow(&mut kept, 6, &mut Vec::new()));
    kv.commit(&mut kept, SCOPE, &[1, 2, 3, 4, 5, 6]);
    kv.audit([&kept].into_iter()).unwrap();
    let mut again = filled(&mut kv, &[1, 2]);
    assert_eq!(kv.find_prefix(SCOPE, &[1, 2, 3, 4]).blocks, again.blocks(), "the orphans of the old block do not follow the new one");
    kv.release(&mut again);
    kv.release(&mut kept);
    kv.audit([].into_iter()).unwrap();
}

#[test]
fn colliding_digests_are_a_miss_and_the_newer_content_wins() {
    let mut kv = KvCache::with_faults(KvCacheConfig { num_blocks: 4, block_size: 2, enable_prefix_caching: true }, ALL_COLLIDE);
    // One bit of digest is left: of three contents at least two collide.
    let contents = [[1, 2], [3, 4], [5, 6]];
    let mut tables: Vec<_> = contents.iter().map(|tokens| filled(&mut kv, tokens)).collect();
    assert!(kv.num_cached_blocks() <= 2);
    assert_eq!(kv.find_prefix(SCOPE, &contents[2]).blocks, tables[2].blocks());
    for (tokens, table) in contents.iter().zip(&tables) {
        assert!(kv.find_prefix(SCOPE, tokens).blocks.iter().all(|block| table.blocks().contains(block)));
    }
    tables.iter_mut().for_each(|table| kv.release(table));
    kv.audit([].into_iter()).unwrap();
}

#[test]
fn a_child_of_an_evicted_parent_is_not_found_after_other_tokens_in_the_same_block() {
    let mut prefix = PrefixCache::new(2, 1);
    let (parent, child) = (BlockId(0), BlockId(1));
    assert_eq!(prefix.insert(parent, None, SCOPE, &[1]), Inserted::New { replaced: None });
    assert_eq!(prefix.insert(child, Some(parent), SCOPE, &[9]), Inserted::New { replaced: None });
    assert!(prefix.remove(parent));
    assert_eq!(prefix.get(Some(parent), SCOPE, &[9]), None);
    prefix.insert(parent, None, SCOPE, &[2]);
    assert_eq!(prefix.get(Some(parent), SCOPE, &[9]), None, "the block holds another beginning now");
    prefix.audit().unwrap();
}

#[test]
fn a_block_without_cached_parent_is_not_inserted() {
    let mut prefix = PrefixCache::new(2, 1);
    assert_eq!(prefix.insert(BlockId(1), Some(BlockId(0)), SCOPE, &[1]), Inserted::NoParent);
    assert!(prefix.is_empty());
}

#[test]
fn with_caching_off_nothing_is_found() {
    let mut kv = KvCache::new(KvCacheConfig { num_blocks: 2, block_size: 1, enable_prefix_caching: false });
    let mut table = filled(&mut kv, &[1, 2]);
    assert!(kv.find_prefix(SCOPE, &[1, 2]).blocks.is_empty());
    kv.forget(table.blocks());
    kv.release(&mut table);
    kv.audit([].into_iter()).unwrap();
}

#[test]
fn the_audit_sees_a_leak_and_a_table_that_was_not_counted() {
    let mut kv = cache(4, 1);
    let table = filled(&mut kv, &[1, 2]);
    assert!(kv.audit([].into_iter()).is_err(), "held blocks without a table");
    assert!(kv.audit([&table, &table].into_iter()).is_err(), "two tables, one count");
    kv.audit([&table].into_iter()).unwrap();
}

#[derive(Clone, Debug)]
enum PoolOp {
    Allocate,
    Retain(usize),
    Release(usize, bool),
    ReuseFirst(usize),
}

fn pool_op() -> impl Strategy<Value = PoolOp> {
    prop_oneof![
        3 => Just(PoolOp::Allocate),
        1 => (0..8usize).prop_map(PoolOp::Retain),
        3 => (0..8usize, any::<bool>()).prop_map(|(block, last)| PoolOp::Release(block, last)),
        1 => (0..8usize).prop_map(PoolOp::ReuseFirst),
    ]
}

proptest! {
    /// The linked list against a queue that is searched from the front.
    #[test]
    fn a_pool_behaves_like_a_plain_queue(ops in prop::collection::vec(pool_op(), 0..200)) {
        let mut pool = BlockPool::new(8);
        let mut free: VecDeque<u32> = (0..8).collect();
        let mut counts = [0u32; 8];
        for op in ops {
            match op {
                PoolOp::Allocate => {
                    let expected = free.pop_front();
                    if let Some(block) = expected {
                        counts[block as usize] = 1;
                    }
                    prop_assert_eq!(pool.allocate(), expected.map(BlockId));
                }
                PoolOp::Retain(block) => {
                    free.retain(|&other| other as usize != block);
                    counts[block] += 1;
                    pool.retain(BlockId(block as u32));
                }
                PoolOp::Release(block, last) => {
                    if counts[block] == 1 {
                        if last { free.push_back(block as u32) } else { free.push_front(block as u32) }
                    }
                    counts[block] = counts[block].saturating_sub(1);
                    pool.release(BlockId(block as u32), if last { Reuse::Last } else { Reuse::First });
                }
                PoolOp::ReuseFirst(block) => {
                    if counts[block] == 0 {
                        free.retain(|&other| other as usize != block);
                        free.push_front(block as u32);
                    }
                    pool.reuse_first(BlockId(block as u32));
                }
            }
            prop_assert!(pool.audit().is_ok());
            prop_assert!(pool.free_blocks().map(|block| block.0).eq(free.iter().copied()));
        }
    }

    /// A hit is always a true beginning: the blocks found hold exactly the tokens that were committed into them.
    #[test]
    fn a_hit_is_always_the_same_text(
        texts in prop::collection::vec((prop::collection::vec(0..2u32, 1..12), any::<bool>()), 1..40),
        digest_bits_cut in prop_oneof![Just(0u32), Just(61), Just(63)],
    ) {
        let config = KvCacheConfig { num_blocks: 12, block_size: 2, enable_prefix_caching: true };
        let mut kv = KvCache::with_faults(config, Faults { planted: None, digest_bits_cut });
        let mut content = vec![Vec::new(); 12];
        for (tokens, fails) in texts {
            let hit = kv.find_prefix(SCOPE, &tokens);
            for (index, block) in hit.blocks.iter().enumerate() {
                prop_assert_eq!(&content[block.index()], &tokens[..2 * (index + 1)]);
            }
            let mut table = BlockTable::default();
            kv.adopt(&mut table, hit);
            prop_assert!(kv.grow(&mut table, tokens.len(), &mut Vec::new()));
            for (index, block) in table.blocks().iter().enumerate() {
                content[block.index()] = tokens[..tokens.len().min(2 * (index + 1))].to_vec();
            }
            kv.commit(&mut table, SCOPE, &tokens);
            prop_assert!(kv.audit([&table].into_iter()).is_ok());
            if fails {
                kv.forget(table.blocks());
            }
            kv.release(&mut table);
            prop_assert!(kv.audit([].into_iter()).is_ok());
            prop_assert_eq!(kv.num_free_blocks(), 12);
        }
    }
}
