//! What opening a damaged GGUF file takes of memory is bounded by the bytes of the file, whatever numbers stand in it.

use openelm_server::model::gguf::exercise;
use openelm_server::model::gguf::write::{MetaValue, NewTensor, write};
use openelm_server::ops::DType;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts bytes in use and remembers the most. This file has one test, so nothing else allocates meanwhile.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(IN_USE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes for each byte of the file, and for messages and the small parts of every model.
const MOST_BYTES: (usize, usize) = (32, 128 << 10);

/// A model of one layer with a tokenizer; the number of bytes before its data, too.
fn model() -> (Vec<u8>, usize) {
    let number = |key: &str, value| (format!("openelm.{key}"), MetaValue::U32(value));
    let text = |key: &str, value: &str| (key.to_owned(), MetaValue::Text(value.to_owned()));
    let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab"];
    let metadata = [
        text("general.architecture", "openelm"),
        number("block_count", 1),
        number("context_length", 64),
        number("embedding_length", 32),
        number("feed_forward_length", 32),
        number("attention.head_count", 2),
        number("attention.head_count_kv", 1),
        number("attention.key_length", 16),
        text("tokenizer.ggml.model", "llama"),
        ("tokenizer.ggml.tokens".to_owned(), MetaValue::Texts(tokens.map(str::to_owned).to_vec())),
        ("tokenizer.ggml.scores".to_owned(), MetaValue::F32s((0..8).map(|i| -(i as f32)).collect())),
        ("tokenizer.ggml.token_type".to_owned(), MetaValue::I32s(vec![2, 3, 3, 1, 1, 1, 1, 1])),
    ];
    let shapes: [(&str, &[usize]); 9] = [
        ("token_embd", &[8, 32]),
        ("blk.0.attn_norm", &[32]),
        ("blk.0.attn_qkv", &[64, 32]),
        ("blk.0.attn_output", &[32, 32]),
        ("blk.0.ffn_norm", &[32]),
        ("blk.0.ffn_gate", &[32, 32]),
        ("blk.0.ffn_up", &[32, 32]),
        ("blk.0.ffn_down", &[32, 32]),
        ("output_norm", &[32]),
    ];
    let tensor =
        |(name, shape): (&str, &[usize])| NewTensor { name: format!("{name}.weight"), shape: shape.to_vec(), stored: DType::F32.into() };
    let tensors = shapes.map(tensor);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("model.gguf");
    let data: u64 = tensors.iter().map(|tensor| tensor.bytes().expect("small")).sum();
    write::<openelm_server::model::gguf::GgufError>(&path, &metadata, &tensors, |index, out| {
        Ok(out.write_all(&vec![0; tensors[index].bytes().expect("small") as usize])?)
    })
    .expect("written");
    let bytes = std::fs::read(path).expect("read");
    let header = bytes.len() - data as usize;
    (bytes, header)
}

/// The most bytes in use while `bytes` are opened and read, beyond those before.
fn most_of(bytes: Vec<u8>) -> usize {
    let before = IN_USE.load(Relaxed);
    MOST.store(before, Relaxed);
    let _ = exercise(bytes);
    MOST.load(Relaxed) - before
}

#[test]
fn memory_is_bounded_by_the_file_whatever_its_numbers_are() {
    let (bytes, header) = model();
    exercise(bytes.clone()).expect("the undamaged file");
    let most = bytes.len() * MOST_BYTES.0 + MOST_BYTES.1;
    let mut worst = most_of(bytes.clone());
    for at in 4..header {
        for value in [0_u64, 1 << 16, 1 << 24, 1 << 28, 1 << 31, 1 << 40, 1 << 60, u64::MAX] {
            let mut changed = bytes.clone();
            let length = 8.min(bytes.len() - at);
            changed[at..][..length].copy_from_slice(&value.to_le_bytes()[..length]);
            worst = worst.max(most_of(changed));
        }
        for value in [1_u32 << 10, 1 << 20, 1 << 30, u32::MAX] {
            let mut changed = bytes.clone();
            changed[at..][..4].copy_from_slice(&value.to_le_bytes());
            worst = worst.max(most_of(changed));
        }
    }
    println!("{worst} of at most {most} bytes for a file of {}", bytes.len());
    assert!(worst <= most, "{worst} bytes for a file of {}", bytes.len());
}
