//! Any bytes as a safetensors file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = openelm_server::model::checkpoint::exercise(bytes);
});
