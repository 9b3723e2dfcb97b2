//! The decoder beside known logits, a decoder in plain candle operations, itself in other batches and chunks, and its recorded bits.

mod bits;
mod gguf;
mod golden;
mod gpu;
mod load;
mod oracle;
mod shapes;
