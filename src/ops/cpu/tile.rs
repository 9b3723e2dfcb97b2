//! What every product of a tile of rows with a panel is given, whatever the types of both.

use super::lanes::{ByteLanes, Lanes};
use super::matrix::PANEL;
use super::operand::Factor;

/// Most rows of a tile, over all instruction sets.
pub(super) const MOST_ROWS: usize = 8;

/// The sums of a tile, `[rows][32 outputs]`.
pub(super) type Sums = [[f32; PANEL]; MOST_ROWS];

/// What a tile asks for while it computes.
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    pub(super) from: *const u8,
    /// Bytes for each block of activations.
    pub(super) bytes: usize,
}

impl Prefetch {
    /// Asks for what goes with the next block.
    ///
    /// # Safety
    /// As the methods of [`Lanes`]; the addresses need not be readable.
    #[inline(always)]
    pub(super) unsafe fn step<V: Lanes>(&mut self) {
        for line in (0..self.bytes).step_by(64) {
            // SAFETY: a hint; the instruction set is the caller's promise.
            unsafe { V::prefetch(self.from.wrapping_add(line)) };
        }
        self.from = self.from.wrapping_add(self.bytes);
    }
}

/// One panel of weights and one tile of rows.
#[derive(Clone, Copy)]
pub(super) struct TileInput {
    pub(super) weights: *const u8,
    pub(super) units: *const u32,
    /// Of bytes, else null.
    pub(super) factors: *const Factor,
    /// K.
    pub(super) inputs: usize,
}

/// Weights in panels times units of activations.
pub(super) trait Product {
    /// Inputs that are computed between two prefetches.
    const BLOCK_INPUTS: usize;
    /// Bytes of so many inputs of a panel.
    const BLOCK_BYTES: usize;

    /// Most rows of a tile.
    fn tile_rows<V: ByteLanes>() -> usize;

    /// `R` rows times `16 * H` outputs of a panel, from half `half` on.
    ///
    /// # Safety
    /// The panel and a tile of `R` rows have all inputs; as the methods of [`Lanes`].
    unsafe fn tile<V: ByteLanes, const R: usize, const H: usize>(input: TileInput, half: usize, prefetch: Prefetch, out: &mut Sums);
}
