//! The weights of a load: their hash, the packed file of an earlier start where there is one, and what is kept for the next.
//!
//! Whatever is wrong with the cache is one line in the log; the model is then loaded from its checkpoint.

use super::fingerprint::weights_hash;
use crate::model::checkpoint::Checkpoint;
use crate::model::openelm::{Taken, WeightSource};
use crate::model::weight_cache::{BackgroundWriter, PackedFile, PackedKey, SourceIdentity, WeightCache};
use crate::model::{LoadError, LoadProgress, LoadStage, Storage};
use crate::ops::Backend;
use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

/// What is known of the weights before they are taken over.
pub(super) struct Weights<'a> {
    /// Hash of all tensors of the checkpoint.
    pub(super) hash: blake3::Hash,
    checkpoint: &'a Checkpoint,
    storage: Storage,
    progress: &'a LoadProgress,
    /// Where they are kept, and under what name.
    cache: Option<(WeightCache, PackedKey)>,
    packed: Option<PackedFile>,
}

/// Where loading looks and tells.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Directory of the cache of packed weights; `None` keeps nothing.
    pub(super) weight_cache: Option<&'a Path>,
    pub(super) progress: &'a LoadProgress,
}

impl<'a> Weights<'a> {
    /// Finds the hash of the weights, by reading all of them unless the cache knows it, and their packed file.
    pub(super) fn find<B: Backend>(backend: &B, checkpoint: &'a Checkpoint, storage: Storage, place: Place<'a>) -> Result<Self, LoadError> {
        let progress = place.progress;
        let opened = place.weight_cache.zip(backend.packed_layout()).zip(checkpoint.identity());
        let opened = opened.and_then(|((path, layout), identity)| Some((open(path)?, layout, identity)));
        let Some((cache, layout, identity)) = opened else {
            let hash = weights_hash(backend, checkpoint, progress)?;
            return Ok(Self { hash, checkpoint, storage, progress, cache: None, packed: None });
        };
        let (hash, is_writable) = match cache.known_hash(identity) {
            Some(hash) => (hash, true),
            None => {
                let hash = weights_hash(backend, checkpoint, progress)?;
                (hash, remember(&cache, identity, hash))
            }
        };
        let key = PackedKey { weights: hash, storage, layout };
        let packed = open_packed(&cache, &key, backend, progress);
        // Where the small entry could not be written, nothing larger is tried, and one line in the log is enough.
        Ok(Self { hash, checkpoint, storage, progress, cache: is_writable.then_some((cache, key)), packed })
    }

    /// Where the decoder takes them from.
    pub(super) fn source(&self) -> Result<WeightSource<'_>, LoadError> {
        if self.packed.is_none() {
            self.progress.begin(LoadStage::Packing, self.checkpoint.bytes()?);
        }
        let taken = self.cache.as_ref().map(|_| RefCell::new(Taken::default()));
        Ok(WeightSource {
            checkpoint: self.checkpoint,
            storage: self.storage,
            packed: self.packed.as_ref(),
            progress: self.progress,
            taken,
        })
    }

    /// Writes what had to be arranged, while the model serves; `None` when there is nothing to write or nowhere.
    pub(super) fn keep(self, taken: Option<RefCell<Taken>>) -> Option<BackgroundWriter> {
        let taken = taken?.into_inner();
        let (cache, key) = self.cache.filter(|_| taken.from_checkpoint > 0)?;
        if self.packed.is_some() {
            // It was whole, and yet lacked something: nobody may take it for what is written now.
            cache.discard(&key);
        }
        match cache.write_in_background(key, taken.tensors) {
            Ok(writer) => Some(writer),
            Err(error) => {
                tracing::warn!(reason = %error, "packed weights are not kept");
                None
            }
        }
    }
}

fn open(path: &Path) -> Option<WeightCache> {
    match WeightCache::open(path) {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::warn!(reason = %error, "packed weights are not kept; --weight-cache DIR names another place, or off");
            None
        }
    }
}

/// Whether the hash was noted, or need not be.
fn remember(cache: &WeightCache, identity: &SourceIdentity, hash: blake3::Hash) -> bool {
    let noted = cache.remember(identity, hash);
    if let Err(error) = &noted {
        tracing::warn!(reason = %error, "nothing is kept for the next start; --weight-cache DIR names another place, or off");
    }
    noted.is_ok()
}

fn open_packed<B: Backend>(cache: &WeightCache, key: &PackedKey, backend: &B, progress: &LoadProgress) -> Option<PackedFile> {
    let started = Instant::now();
    match cache.open_file(key, backend, progress) {
        Ok(Some(file)) => {
            tracing::info!(seconds = started.elapsed().as_secs_f64(), "packed weights mapped and verified");
            Some(file)
        }
        Ok(None) => None,
        Err(error) => {
            tracing::warn!(reason = %error, "packed weights are made anew");
            None
        }
    }
}

#[cfg(test)]
mod tests;
