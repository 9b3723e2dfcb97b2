//! `system_fingerprint`: equal fingerprints promise equal answers to equal requests that name their sampling parameters. It covers weights,
//! config, arithmetic, tokenizer and version; not the operator's own defaults and templates, which a request can see or override.

use crate::model::checkpoint::Checkpoint;
use crate::model::{LoadError, LoadProgress, LoadStage, ModelFiles};
use crate::ops::Backend;
use std::sync::{Mutex, PoisonError};

/// Bytes that are hashed between two signs of progress.
const PROGRESS_BYTES: usize = 4 << 20;

/// Hash of all tensors: names, shapes, encodings and bytes.
///
/// # Errors
/// [`LoadError`] when a tensor cannot be read.
pub(super) fn weights_hash<B: Backend>(backend: &B, checkpoint: &Checkpoint, progress: &LoadProgress) -> Result<blake3::Hash, LoadError> {
    progress.begin(LoadStage::Hashing, checkpoint.bytes()?);
    let tensors = checkpoint.names().map(|name| Ok((name, checkpoint.get(name)?))).collect::<Result<Vec<_>, LoadError>>()?;
    let hashes: Vec<Mutex<Option<blake3::Hash>>> = tensors.iter().map(|_| Mutex::new(None)).collect();
    backend.for_each(tensors.len(), &|i| {
        let (name, Some(tensor)) = &tensors[i] else { return };
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{name} {:?} {}\n", tensor.shape, tensor.encoding()).as_bytes());
        for bytes in tensor.bytes().flat_map(|part| part.chunks(PROGRESS_BYTES)) {
            hasher.update(bytes);
            progress.add(bytes.len());
        }
        *hashes[i].lock().unwrap_or_else(PoisonError::into_inner) = Some(hasher.finalize());
    });
    let mut all = blake3::Hasher::new();
    for hash in hashes.into_iter().filter_map(|h| h.into_inner().unwrap_or_else(PoisonError::into_inner)) {
        all.update(hash.as_bytes());
    }
    Ok(all.finalize())
}

/// Hash of the files that turn text into tokens and back.
pub(super) fn text_hash(files: &ModelFiles) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for document in [&files.tokenizer, &files.tokenizer_config, &files.chat_template, &files.generation_config] {
        let bytes = document.as_ref().map_or(&[][..], |document| &document.bytes);
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    hasher.finalize()
}

/// `fp_` and twelve hexadecimal digits over the parts that an answer depends on.
pub(super) fn fingerprint(parts: &[&str]) -> String {
    let digest = blake3::hash(parts.join("\n").as_bytes()).to_hex();
    format!("fp_{}", &digest[..12])
}
