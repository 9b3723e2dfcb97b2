//! Tests of loading, encoding and decoding. The `tokenizers` crate is the oracle where it is right.

mod decode;
mod encode;
mod load;
