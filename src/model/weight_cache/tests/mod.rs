//! The cache of packed weights on files of every kind: whole, damaged, foreign, in the making; alone and with others.

mod damage;
mod files;
mod sources;

use super::writer::write_now;
use super::*;
use crate::ops::DType;
use crate::ops::cpu::{CpuBackend, CpuKernels, PanelMatrix};
use crate::ops::{MatrixRows, TensorData};
use tempfile::TempDir;

/// Shapes whose panels are not full, whose K is odd, and whose bytes are no multiple of a chunk.
const SHAPES: [(usize, usize); 5] = [(1, 1), (33, 7), (64, 64), (31, 130), (1025, 1027)];

pub(super) fn key(weights: u8, dtype: DType) -> PackedKey {
    PackedKey { weights: blake3::hash(&[weights]), storage: dtype.into(), layout: "panel32-v2" }
}

pub(super) fn cache() -> (TempDir, WeightCache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = WeightCache::open(&directory.path().join("made/by/the/cache")).unwrap();
    (directory, cache)
}

pub(super) fn backend() -> CpuBackend {
    CpuBackend::new(CpuKernels::Auto, 2).unwrap()
}

/// Matrices of [`SHAPES`] and a vector.
pub(super) fn tensors(backend: &CpuBackend, dtype: DType, shapes: &[(usize, usize)]) -> (Vec<PanelMatrix>, Vec<PackedTensor>) {
    let mut state = 1_u32;
    let mut value = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    let matrix = |&(rows, cols): &(usize, usize)| {
        let bytes: Vec<u8> = (0..rows * cols).flat_map(|_| value().to_le_bytes()).collect();
        backend.matrix(&TensorData::new(DType::F32, rows, cols, &bytes).unwrap(), MatrixRows::Plain, dtype.into()).unwrap()
    };
    let matrices: Vec<PanelMatrix> = shapes.iter().map(matrix).collect();
    let packed = |(shape, matrix): (&(usize, usize), &PanelMatrix)| {
        PackedTensor::matrix(&format!("matrix {shape:?}"), *shape, backend.packed_bytes(matrix).unwrap())
    };
    let mut tensors: Vec<PackedTensor> = shapes.iter().zip(&matrices).map(packed).collect();
    tensors.insert(1, PackedTensor::vector("gains", &[1.5, -0.0, f32::MIN_POSITIVE]));
    (matrices, tensors)
}

/// A cache with one small packed file.
fn small_file() -> (TempDir, WeightCache, PathBuf) {
    let (directory, cache) = cache();
    let (_, tensors) = tensors(&backend(), DType::Bf16, &SHAPES[..3]);
    let path = write_now(&cache, &key(1, DType::Bf16), &tensors).unwrap();
    (directory, cache, path)
}

fn open(cache: &WeightCache, key: &PackedKey) -> Result<Option<PackedFile>, CacheError> {
    cache.open_file(key, &backend(), &LoadProgress::default())
}

/// Names in the directory of a cache, sorted.
pub(super) fn names(cache: &WeightCache) -> Vec<String> {
    let entries = std::fs::read_dir(cache.directory.path()).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
