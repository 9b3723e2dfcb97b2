//! The decoder beside known logits, a decoder in plain candle operations, and itself in other batches and chunks.

mod golden;
mod load;
mod oracle;
mod shapes;
