//! Weight matrices in panels of 32 outputs, so that a vector lane is an output and K runs along memory.
//!
//! | dtype | one panel | bytes of two k |
//! |---|---|--:|
//! | bf16 | `[k / 2][32 outputs][2 k]` | 128 |
//! | f16 | `[k][32 outputs]` | 128 |
//! | f32 | `[k][32 outputs]` | 256 |
//!
//! Missing outputs of the last panel and the second k of an odd K are zero. A panel is read from start to end, once a step.

use super::lanes::{Lanes, Part};
use super::memory::{Aligned, SharedMut};
use super::pool::ThreadPool;
use crate::ops::{DType, OpError, TensorData, WeightBytes};
use half::{bf16, f16};
use std::sync::Mutex;

/// Outputs in a panel.
pub(super) const PANEL: usize = 32;

/// Name and version of this arrangement in files. Whoever changes a byte of it raises the number; a test watches the bytes.
pub(super) const LAYOUT: &str = "panel32-v1";

/// A weight matrix `[outputs, inputs]` in panels.
pub struct PanelMatrix {
    dtype: DType,
    outputs: usize,
    inputs: usize,
    data: WeightBytes,
}

impl PanelMatrix {
    /// Rearranges `source`, converting to `dtype` by rounding to nearest even.
    ///
    /// # Errors
    /// [`OpError::Allocation`]; [`OpError::Range`] for a finite value beyond f16.
    pub(super) fn pack(source: &TensorData<'_>, dtype: DType, pool: &ThreadPool) -> Result<Self, OpError> {
        let (outputs, inputs) = (source.rows(), source.cols());
        let panel_bytes = panel_bytes(inputs, dtype);
        let mut data = Aligned::<u8>::zeroed(outputs.div_ceil(PANEL) * panel_bytes, "weights")?;
        let (view, failure) = (data.shared(), Mutex::new(None));
        pool.run(&|part: Part| {
            for panel in part.range(outputs.div_ceil(PANEL)) {
                // SAFETY: every panel belongs to one part only.
                let bytes = unsafe { view.slice(panel * panel_bytes, panel_bytes) };
                if let Err(error) = pack_panel(source, dtype, panel, bytes) {
                    *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                }
            }
        });
        match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(Self { dtype, outputs, inputs, data: data.into() }),
        }
    }

    /// Takes over panels `[outputs, inputs]` that [`Self::pack`] made once; `None` when their length is not the one of the shape.
    pub(super) fn from_packed((outputs, inputs): (usize, usize), dtype: DType, data: WeightBytes) -> Option<Self> {
        let width = inputs.checked_next_multiple_of(2)?.checked_mul(PANEL * dtype.bytes())?;
        let wanted = outputs.div_ceil(PANEL).checked_mul(width)?;
        (data.as_slice().len() == wanted).then_some(Self { dtype, outputs, inputs, data })
    }

    /// All panels.
    pub(super) fn bytes(&self) -> &WeightBytes {
        &self.data
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Bytes of one panel.
    pub(super) fn panel_bytes(&self) -> usize {
        panel_bytes(self.inputs, self.dtype)
    }

    /// The bytes of panel `index`.
    pub(super) fn panel(&self, index: usize) -> &[u8] {
        let bytes = self.panel_bytes();
        &self.data.as_slice()[index * bytes..][..bytes]
    }

    /// Widens row `output` (an embedding) to f32.
    pub(super) fn read_row(&self, output: usize, out: &mut [f32]) {
        let (panel, lane) = (self.panel(output / PANEL), output % PANEL);
        for (k, value) in out.iter_mut().enumerate() {
            let at = offset(self.dtype, k, lane);
            *value = match self.dtype {
                DType::F32 => f32::from_le_bytes([panel[at], panel[at + 1], panel[at + 2], panel[at + 3]]),
                DType::Bf16 => bf16::from_le_bytes([panel[at], panel[at + 1]]).to_f32(),
                DType::F16 => f16::from_le_bytes([panel[at], panel[at + 1]]).to_f32(),
            };
        }
    }
}

fn panel_bytes(inputs: usize, dtype: DType) -> usize {
    inputs.div_ceil(2) * 2 * PANEL * dtype.bytes()
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

fn pack_panel(source: &TensorData<'_>, dtype: DType, panel: usize, out: &mut [u8]) -> Result<(), OpError> {
    let mut values = [0.0; PACK_BLOCK];
    for from in (0..source.cols()).step_by(PACK_BLOCK) {
        for lane in 0..PANEL.min(source.rows() - panel * PANEL) {
            let values = &mut values[..PACK_BLOCK.min(source.cols() - from)];
            source.read(panel * PANEL + lane, from, values);
            match dtype {
                DType::F32 => scatter(values, |k| offset(dtype, from + k, lane), |v| v.to_le_bytes(), out),
                DType::Bf16 => scatter(values, |k| offset(dtype, from + k, lane), |v| bf16::from_f32(v).to_le_bytes(), out),
                DType::F16 => {
                    let fits = |v: f32| !v.is_finite() || f16::from_f32(v).is_finite();
                    if let Some(&value) = values.iter().find(|&&v| !fits(v)) {
                        return Err(OpError::Range { value, dtype });
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

/// How the matrix kernel reads a panel.
pub(super) trait PanelElement {
    /// Bytes of two k of 32 outputs.
    const PAIR_BYTES: usize;

    /// The lanes of 16 outputs (`half` 0 or 1 of the panel) for an even k and the odd one after it.
    ///
    /// # Safety
    /// `PAIR_BYTES` must be readable at `pair`; as the methods of [`Lanes`].
    unsafe fn pair<V: Lanes>(pair: *const u8, half: usize) -> (V, V);
}

pub(super) struct Bf16Panels;
pub(super) struct F16Panels;
pub(super) struct F32Panels;

impl PanelElement for Bf16Panels {
    const PAIR_BYTES: usize = 128;

    #[inline(always)]
    unsafe fn pair<V: Lanes>(pair: *const u8, half: usize) -> (V, V) {
        // SAFETY: 64 bytes a half.
        unsafe { V::load_bf16_pairs(pair.add(half * 64).cast()) }
    }
}

impl PanelElement for F16Panels {
    const PAIR_BYTES: usize = 128;

    #[inline(always)]
    unsafe fn pair<V: Lanes>(pair: *const u8, half: usize) -> (V, V) {
        // SAFETY: 64 bytes a k, 32 of them a half.
        unsafe { (V::load_f16(pair.add(half * 32).cast()), V::load_f16(pair.add(64 + half * 32).cast())) }
    }
}

impl PanelElement for F32Panels {
    const PAIR_BYTES: usize = 256;

    #[inline(always)]
    unsafe fn pair<V: Lanes>(pair: *const u8, half: usize) -> (V, V) {
        // SAFETY: 128 bytes a k, 64 of them a half.
        unsafe { (V::load(pair.add(half * 64).cast()), V::load(pair.add(128 + half * 64).cast())) }
    }
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

    fn packed(dtype: DType, outputs: usize, inputs: usize) -> PanelMatrix {
        let bytes: Vec<u8> = noise(5, outputs * inputs).iter().flat_map(|v| v.to_le_bytes()).collect();
        let source = TensorData::new(DType::F32, outputs, inputs, &bytes).unwrap();
        PanelMatrix::pack(&source, dtype, &ThreadPool::new(2).unwrap()).unwrap()
    }

    /// Files with the panels of other versions of this program lie in caches: other bytes need another name.
    #[test]
    fn the_bytes_of_the_layout_are_those_of_its_name() {
        assert_eq!(LAYOUT, "panel32-v1");
        let digest = |dtype| blake3::hash(packed(dtype, 33, 7).bytes().as_slice()).to_hex()[..16].to_owned();
        assert_eq!([DType::F32, DType::Bf16, DType::F16].map(digest), ["811ba37ffc49ab1b", "9a225447b3312fb2", "dc31836ff53a8c86"]);
    }

    #[test]
    fn panels_are_taken_back_in_their_own_shape_alone() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for (outputs, inputs) in [(1, 1), (31, 2), (33, 7), (64, 64)] {
                let matrix = packed(dtype, outputs, inputs);
                let again = PanelMatrix::from_packed((outputs, inputs), dtype, matrix.bytes().clone()).unwrap();
                assert_eq!(again.panels(), matrix.panels());
                assert_eq!(again.panel(again.panels() - 1), matrix.panel(matrix.panels() - 1));
                for shape in [(outputs + 32, inputs), (outputs, inputs + 2), (0, inputs), (outputs, usize::MAX), (usize::MAX, inputs)] {
                    assert!(PanelMatrix::from_packed(shape, dtype, matrix.bytes().clone()).is_none(), "{shape:?}");
                }
            }
        }
    }
}
