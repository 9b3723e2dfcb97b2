//! Any bytes as a GGUF file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = openelm_server::model::gguf::exercise(bytes.to_vec());
});
