//! The seeds of the fuzzers of `fuzz/`, and what they found to take new ways through the readers of untrusted files: read or refused, and
//! never more.

use openelm_server::model::{checkpoint, gguf};
use std::fs;
use std::path::Path;

/// The inputs of a fuzzer; some at least are whole files.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| fs::read(file.expect("an entry").path()).expect("readable")).collect()
}

#[test]
fn gguf_files_are_read_or_refused() {
    let read = corpus("gguf").into_iter().filter(|bytes| gguf::exercise(bytes.clone()).is_ok()).count();
    assert!(read > 0, "no input is a file that is served");
}

#[test]
fn safetensors_files_are_read_or_refused() {
    let read = corpus("safetensors").into_iter().filter(|bytes| checkpoint::exercise(bytes).is_ok()).count();
    assert!(read > 0, "no input is a file that is served");
}
