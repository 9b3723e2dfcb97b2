//! The `openelm-server` binary.

fn main() {}
