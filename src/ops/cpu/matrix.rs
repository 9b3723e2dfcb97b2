//! Weight matrices in panels of 32 outputs, so that a vector lane is an output and K runs along memory.
//!
//! | dtype | one panel | bytes of two k |
//! |---|---|--:|
//! | bf16 | `[k / 2][32 outputs][2 k]` | 128 |
//! | f16 | `[k][32 outputs]` | 128 |
//! | f32 | `[k][32 outputs]` | 256 |
//!
//! Weights in blocks of 32 lie as [`super::block_product`] says.
//!
//! Missing outputs of the last panel and the second k of an odd K are zero. A panel is read from start to end, once a step.
//!
//! The rows of a gated feed-forward projection `[gate | up]` are paired: a panel holds 16 outputs of the gate, then the same 16 of `up`, so
//! that the kernel that has both in registers multiplies them.

use super::block_product::{SCALES_BYTES, block_bytes, quant_bytes};
use super::lanes::{Part, WIDTH};
use super::memory::{Arena, SharedMut};
use super::pool::ThreadPool;
use crate::ops::{BLOCK_VALUES, Block, BlockFormat, DType, MatrixRows, OpError, TensorData, WeightBytes, WeightType};
use half::{bf16, f16};
use std::sync::Mutex;

/// Outputs in a panel.
pub(super) const PANEL: usize = 32;

/// Name and version of this arrangement in files. Whoever changes a byte of it raises the number; a test watches the bytes.
pub(super) const LAYOUT: &str = "panel32-v2";

/// Number of panels of a matrix with `outputs` rows.
fn panels(rows: MatrixRows, outputs: usize) -> usize {
    match rows {
        MatrixRows::Plain => outputs.div_ceil(PANEL),
        MatrixRows::GateUp => (outputs / 2).div_ceil(WIDTH),
    }
}

/// The row of the source that lies in `lane` of `panel`: 32 rows in their order, or 16 of the gate and then the same 16 of `up`.
fn source_row(rows: MatrixRows, (panel, lane): (usize, usize), outputs: usize) -> Option<usize> {
    let (row, end) = match rows {
        MatrixRows::Plain => (panel * PANEL + lane, outputs),
        MatrixRows::GateUp if lane < WIDTH => (panel * WIDTH + lane, outputs / 2),
        MatrixRows::GateUp => (outputs / 2 + panel * WIDTH + lane - WIDTH, outputs),
    };
    (row < end).then_some(row)
}

/// A weight matrix `[outputs, inputs]` in panels.
pub struct PanelMatrix {
    stored: WeightType,
    rows: MatrixRows,
    outputs: usize,
    inputs: usize,
    /// Bytes of one panel.
    panel_bytes: usize,
    data: WeightBytes,
}

impl PanelMatrix {
    /// Rearranges `source`, converting to `stored`: numbers are rounded to nearest even, blocks made by their plain rule.
    ///
    /// # Errors
    /// [`OpError::Allocation`]; [`OpError::Range`] for a finite value that the type cannot hold; [`OpError::Blocks`] for rows that blocks do not
    /// divide.
    pub(super) fn pack(
        source: &TensorData<'_>,
        stored: WeightType,
        rows: MatrixRows,
        (arena, pool): (&Arena, &ThreadPool),
    ) -> Result<Self, OpError> {
        let (outputs, inputs) = (source.rows(), source.cols());
        let panel_bytes = panel_bytes(inputs, stored).ok_or(OpError::Blocks { stored, values: inputs })?;
        let panels = panels(rows, outputs);
        let mut data = arena.zeroed::<u8>(panels * panel_bytes, "weights")?;
        let (view, failure) = (data.shared(), Mutex::new(None));
        pool.run(&|part: Part| {
            for panel in part.range(panels) {
                // SAFETY: every panel belongs to one part only.
                let bytes = unsafe { view.slice(panel * panel_bytes, panel_bytes) };
                if let Err(error) = pack_panel(source, stored, (rows, panel), bytes) {
                    *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                }
            }
        });
        match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(Self { stored, rows, outputs, inputs, panel_bytes, data: data.into() }),
        }
    }

    /// Takes over panels `[outputs, inputs]` that [`Self::pack`] made once; `None` when their length is not the one of the shape.
    /// They are copied, so that they lie in huge pages as those of [`Self::pack`] do: a page of a file is 4 KiB.
    pub(super) fn from_packed(
        (outputs, inputs): (usize, usize),
        (rows, stored): (MatrixRows, WeightType),
        data: &WeightBytes,
        (arena, pool): (&Arena, &ThreadPool),
    ) -> Option<Self> {
        let panel_bytes = panel_bytes(inputs, stored)?;
        let (source, wanted) = (data.as_slice(), panels(rows, outputs).checked_mul(panel_bytes)?);
        if source.len() != wanted {
            return None;
        }
        let mut copy = arena.zeroed::<u8>(wanted, "weights").ok()?;
        let view = copy.shared();
        pool.run(&|part: Part| {
            let range = part.range(wanted);
            // SAFETY: every range belongs to one part only.
            unsafe { view.slice(range.start, range.len()) }.copy_from_slice(&source[range]);
        });
        Some(Self { stored, rows, outputs, inputs, panel_bytes, data: copy.into() })
    }

    /// All panels.
    pub(super) fn bytes(&self) -> &WeightBytes {
        &self.data
    }

    pub(super) fn stored(&self) -> WeightType {
        self.stored
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn rows(&self) -> MatrixRows {
        self.rows
    }

    pub(super) fn panels(&self) -> usize {
        panels(self.rows, self.outputs)
    }

    /// Bytes of one panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.panel_bytes
    }

    /// The bytes of panel `index`.
    pub(super) fn panel(&self, index: usize) -> &[u8] {
        &self.data.as_slice()[index * self.panel_bytes..][..self.panel_bytes]
    }

    /// Widens row `output` (an embedding) to f32.
    pub(super) fn read_row(&self, output: usize, out: &mut [f32]) {
        debug_assert_eq!(self.rows, MatrixRows::Plain);
        let (panel, lane) = (self.panel(output / PANEL), output % PANEL);
        match self.stored {
            WeightType::Scalar(dtype) => {
                for (k, value) in out.iter_mut().enumerate() {
                    let at = offset(dtype, k, lane);
                    *value = match dtype {
                        DType::F32 => f32::from_le_bytes([panel[at], panel[at + 1], panel[at + 2], panel[at + 3]]),
                        DType::Bf16 => bf16::from_le_bytes([panel[at], panel[at + 1]]).to_f32(),
                        DType::F16 => f16::from_le_bytes([panel[at], panel[at + 1]]).to_f32(),
                    };
                }
            }
            WeightType::Blocks(format) => {
                for (out, block) in out.as_chunks_mut().0.iter_mut().zip(panel.chunks_exact(block_bytes(format))) {
                    *out = gather_block(format, block, lane).values();
                }
            }
        }
    }
}

/// Bytes of a panel; `None` when blocks do not divide the inputs, or there are too many.
fn panel_bytes(inputs: usize, stored: WeightType) -> Option<usize> {
    match stored {
        WeightType::Scalar(dtype) => inputs.checked_next_multiple_of(2)?.checked_mul(PANEL * dtype.bytes()),
        WeightType::Blocks(format) if inputs.is_multiple_of(BLOCK_VALUES) => (inputs / BLOCK_VALUES).checked_mul(block_bytes(format)),
        WeightType::Blocks(_) => None,
    }
}

/// Byte offset in a panel of input `k` of output `lane`.
fn offset(dtype: DType, k: usize, lane: usize) -> usize {
    match dtype {
        DType::Bf16 => ((k / 2 * PANEL + lane) * 2 + k % 2) * 2,
        DType::F16 => (k * PANEL + lane) * 2,
        DType::F32 => (k * PANEL + lane) * 4,
    }
}

/// Inputs that are packed together: 32 outputs of them stay in the first-level cache while they are written.
const PACK_BLOCK: usize = 32;

fn pack_panel(source: &TensorData<'_>, stored: WeightType, (rows, panel): (MatrixRows, usize), out: &mut [u8]) -> Result<(), OpError> {
    match stored {
        WeightType::Scalar(dtype) => pack_numbers(source, dtype, (rows, panel), out),
        WeightType::Blocks(format) => pack_blocks(source, format, (rows, panel), out),
    }
}

fn pack_numbers(source: &TensorData<'_>, dtype: DType, (rows, panel): (MatrixRows, usize), out: &mut [u8]) -> Result<(), OpError> {
    let mut values = [0.0; PACK_BLOCK];
    for from in (0..source.cols()).step_by(PACK_BLOCK) {
        for lane in 0..PANEL {
            let Some(row) = source_row(rows, (panel, lane), source.rows()) else { continue };
            let values = &mut values[..PACK_BLOCK.min(source.cols() - from)];
            source.read(row, from, values);
            match dtype {
                DType::F32 => scatter(values, |k| offset(dtype, from + k, lane), |v| v.to_le_bytes(), out),
                DType::Bf16 => scatter(values, |k| offset(dtype, from + k, lane), |v| bf16::from_f32(v).to_le_bytes(), out),
                DType::F16 => {
                    let fits = |v: f32| !v.is_finite() || f16::from_f32(v).is_finite();
                    if let Some(&value) = values.iter().find(|&&v| !fits(v)) {
                        return Err(OpError::Range { value, stored: dtype.into() });
                    }
                    scatter(values, |k| offset(dtype, from + k, lane), |v| f16::from_f32(v).to_le_bytes(), out);
                }
            }
        }
    }
    Ok(())
}

/// Writes `convert(values[k])` at `place(k)`.
fn scatter<const N: usize>(values: &[f32], place: impl Fn(usize) -> usize, convert: impl Fn(f32) -> [u8; N], out: &mut [u8]) {
    for (k, &value) in values.iter().enumerate() {
        let at = place(k);
        out[at..at + N].copy_from_slice(&convert(value));
    }
}

fn pack_blocks(source: &TensorData<'_>, format: BlockFormat, (rows, panel): (MatrixRows, usize), out: &mut [u8]) -> Result<(), OpError> {
    for (index, out) in out.chunks_exact_mut(block_bytes(format)).enumerate() {
        for lane in 0..PANEL {
            let Some(row) = source_row(rows, (panel, lane), source.rows()) else { continue };
            let block = source.block(row, index, format);
            if !block.is_finite() {
                let mut values = [0.0; BLOCK_VALUES];
                source.read(row, index * BLOCK_VALUES, &mut values);
                let largest = values.into_iter().fold(0.0_f32, |a, v| if v.abs() > a.abs() { v } else { a });
                let value = values.into_iter().find(|value| !value.is_finite()).unwrap_or(largest);
                return Err(OpError::Range { value, stored: format.into() });
            }
            scatter_block(format, &block, lane, out);
        }
    }
    Ok(())
}

/// Where a format keeps the scale of output `lane` in a block of a panel.
fn scale_at(format: BlockFormat, lane: usize) -> usize {
    quant_bytes(format) + 2 * lane
}

/// Writes a block of output `lane` into the block of its panel.
fn scatter_block(format: BlockFormat, block: &Block, lane: usize, out: &mut [u8]) {
    let scale = scale_at(format, lane);
    out[scale..scale + 2].copy_from_slice(&block.scale.to_le_bytes());
    let unit = |unit: usize| (unit * PANEL + lane) * 4;
    match format {
        BlockFormat::Q8_0 => {
            for (i, q) in block.q.as_chunks::<4>().0.iter().enumerate() {
                out[unit(i)..unit(i) + 4].copy_from_slice(&q.map(|q| (q as u8) ^ 0x80));
            }
        }
        BlockFormat::Q4_0 | BlockFormat::Q4_1 => {
            let offset = if format == BlockFormat::Q4_0 { 8 } else { 0 };
            let (low, high) = block.q.split_at(BLOCK_VALUES / 2);
            for (i, (low, high)) in low.as_chunks::<4>().0.iter().zip(high.as_chunks::<4>().0).enumerate() {
                let bytes: [u8; 4] = std::array::from_fn(|k| (low[k] + offset) as u8 | ((high[k] + offset) as u8) << 4);
                out[unit(i)..unit(i) + 4].copy_from_slice(&bytes);
            }
            if format == BlockFormat::Q4_1 {
                out[scale + SCALES_BYTES..][..2].copy_from_slice(&block.minimum.to_le_bytes());
            }
        }
    }
}

/// The block of output `lane` that [`scatter_block`] wrote.
fn gather_block(format: BlockFormat, panel: &[u8], lane: usize) -> Block {
    let half = |at: usize| f16::from_le_bytes([panel[at], panel[at + 1]]);
    let (scale, mut q) = (scale_at(format, lane), [0; BLOCK_VALUES]);
    let byte = |k: usize| panel[(k / 4 * PANEL + lane) * 4 + k % 4];
    match format {
        BlockFormat::Q8_0 => q.iter_mut().enumerate().for_each(|(k, q)| *q = (byte(k) ^ 0x80) as i8),
        BlockFormat::Q4_0 | BlockFormat::Q4_1 => {
            let offset = if format == BlockFormat::Q4_0 { 8 } else { 0 };
            for k in 0..BLOCK_VALUES / 2 {
                q[k] = (byte(k) & 15) as i8 - offset;
                q[k + BLOCK_VALUES / 2] = (byte(k) >> 4) as i8 - offset;
            }
        }
    }
    let minimum = if format == BlockFormat::Q4_1 { half(scale + SCALES_BYTES) } else { f16::ZERO };
    Block { scale: half(scale), minimum, q }
}

/// Gathers `tokens` as rows of `out`, `[tokens.len(), inputs]`.
pub(super) fn gather(table: &PanelMatrix, tokens: &[u32], out: SharedMut<'_, f32>, part: Part) {
    let width = table.inputs();
    for row in part.range(tokens.len()) {
        // SAFETY: every row belongs to one part only.
        table.read_row(tokens[row] as usize, unsafe { out.slice(row * width, width) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::noise;

    const BLOCKS: [BlockFormat; 3] = [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4_1];

    fn packed(stored: impl Into<WeightType>, rows: MatrixRows, (outputs, inputs): (usize, usize)) -> PanelMatrix {
        let bytes: Vec<u8> = noise(5, outputs * inputs).iter().flat_map(|v| v.to_le_bytes()).collect();
        let source = TensorData::new(DType::F32, outputs, inputs, &bytes).unwrap();
        PanelMatrix::pack(&source, stored.into(), rows, (&Arena::default(), &ThreadPool::new(2).unwrap())).unwrap()
    }

    /// Files with the panels of other versions of this program lie in caches: other bytes need another name.
    #[test]
    fn the_bytes_of_the_layout_are_those_of_its_name() {
        assert_eq!(LAYOUT, "panel32-v2");
        let digest = |dtype| blake3::hash(packed(dtype, MatrixRows::Plain, (33, 7)).bytes().as_slice()).to_hex()[..16].to_owned();
        assert_eq!([DType::F32, DType::Bf16, DType::F16].map(digest), ["811ba37ffc49ab1b", "9a225447b3312fb2", "dc31836ff53a8c86"]);
        let paired = packed(DType::Bf16, MatrixRows::GateUp, (34, 7));
        assert_eq!(blake3::hash(paired.bytes().as_slice()).to_hex()[..16], *"1925be62006abe92");
        let digest = |format| blake3::hash(packed(format, MatrixRows::GateUp, (34, 64)).bytes().as_slice()).to_hex()[..16].to_owned();
        assert_eq!(BLOCKS.map(digest), ["018bdc85891c0c8c", "5d34cd134c4586ab", "8c74792639394450"]);
    }

    #[test]
    fn a_row_of_blocks_is_read_as_it_was_quantised() {
        for format in BLOCKS {
            let (outputs, inputs) = (33, 96);
            let matrix = packed(format, MatrixRows::Plain, (outputs, inputs));
            for (row, values) in noise(5, outputs * inputs).chunks_exact(inputs).enumerate() {
                let wanted = values.as_chunks().0.iter().flat_map(|block| format.quantize(block).values());
                let mut found = vec![0.0; inputs];
                matrix.read_row(row, &mut found);
                assert_eq!(found, wanted.collect::<Vec<_>>(), "{format} {row}");
            }
        }
    }

    #[test]
    fn rows_that_blocks_do_not_divide_are_refused() {
        let bytes = vec![0; 2 * 33 * 4];
        let source = TensorData::new(DType::F32, 2, 33, &bytes).unwrap();
        let (arena, pool) = (Arena::default(), ThreadPool::new(1).unwrap());
        let packed = PanelMatrix::pack(&source, BlockFormat::Q8_0.into(), MatrixRows::Plain, (&arena, &pool));
        assert!(matches!(packed.err(), Some(OpError::Blocks { values: 33, .. })));
    }

    #[test]
    fn panels_are_taken_back_in_their_own_shape_alone() {
        let (arena, pool) = (Arena::default(), ThreadPool::new(2).unwrap());
        let scalars =
            [(DType::F32.into(), MatrixRows::Plain), (DType::Bf16.into(), MatrixRows::GateUp), (DType::F16.into(), MatrixRows::Plain)];
        let blocks = BLOCKS.map(|format| (WeightType::Blocks(format), MatrixRows::GateUp));
        for (stored, rows) in scalars.into_iter().chain(blocks) {
            for (outputs, inputs) in [(2, 1), (30, 2), (34, 7), (64, 64), (34, 96)] {
                if stored.row_bytes(inputs).is_none() {
                    continue;
                }
                let matrix = packed(stored, rows, (outputs, inputs));
                let taken = |shape| PanelMatrix::from_packed(shape, (rows, stored), matrix.bytes(), (&arena, &pool));
                let again = taken((outputs, inputs)).unwrap();
                assert_eq!(again.bytes().as_slice(), matrix.bytes().as_slice());
                assert_eq!(again.panels(), matrix.panels());
                assert_eq!(again.panel(again.panels() - 1), matrix.panel(matrix.panels() - 1));
                for shape in [
                    (outputs + 64, inputs),
                    (outputs, inputs + 32),
                    (outputs, inputs + 2),
                    (0, inputs),
                    (outputs, usize::MAX),
                    (usize::MAX, inputs),
                ] {
                    assert!(taken(shape).is_none(), "{shape:?}");
                }
            }
        }
    }
}
