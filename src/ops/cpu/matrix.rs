//! Weight matrices in panels of 32 outputs, so that a vector lane is an output and K runs along memory.
//!
//! | dtype | one panel | bytes of two k |
//! |---|---|--:|
//! | bf16 | `[k / 2][32 outputs][2 k]` | 128 |
//! | f16 | `[k][32 outputs]` | 128 |
//! | f32 | `[k][32 outputs]` | 256 |
//!
//! Missing outputs of the last panel and the second k of an odd K are zero. A panel is read from start to end, once a step.
//!
//! The rows of a gated feed-forward projection `[gate | up]` are paired: a panel holds 16 outputs of the gate, then the same 16 of `up`, so
//! that the kernel that has both in registers multiplies them.

use super::lanes::{Part, WIDTH};
use super::memory::{Aligned, Arena, SharedMut};
use super::pool::ThreadPool;
use crate::ops::{DType, OpError, TensorData};
use half::{bf16, f16};
use std::sync::Mutex;

/// Outputs in a panel.
pub(super) const PANEL: usize = 32;

/// Which rows of the source a panel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PanelRows {
    /// 32 in their order.
    Plain,
    /// 16 of the first half of the rows, then the same 16 of the second half.
    Paired,
}

impl PanelRows {
    /// Number of panels of a matrix with `outputs` rows.
    fn panels(self, outputs: usize) -> usize {
        match self {
            Self::Plain => outputs.div_ceil(PANEL),
            Self::Paired => (outputs / 2).div_ceil(WIDTH),
        }
    }

    /// The row that lies in `lane` of `panel`.
    fn source(self, panel: usize, lane: usize, outputs: usize) -> Option<usize> {
        let (row, end) = match self {
            Self::Plain => (panel * PANEL + lane, outputs),
            Self::Paired if lane < WIDTH => (panel * WIDTH + lane, outputs / 2),
            Self::Paired => (outputs / 2 + panel * WIDTH + lane - WIDTH, outputs),
        };
        (row < end).then_some(row)
    }
}

/// A weight matrix `[outputs, inputs]` in panels.
pub struct PanelMatrix {
    dtype: DType,
    rows: PanelRows,
    outputs: usize,
    inputs: usize,
    data: Aligned<u8>,
}

impl PanelMatrix {
    /// Rearranges `source`, converting to `dtype` by rounding to nearest even.
    ///
    /// # Errors
    /// [`OpError::Allocation`]; [`OpError::Range`] for a finite value beyond f16.
    pub(super) fn pack(
        source: &TensorData<'_>,
        dtype: DType,
        rows: PanelRows,
        (arena, pool): (&Arena, &ThreadPool),
    ) -> Result<Self, OpError> {
        let (outputs, inputs) = (source.rows(), source.cols());
        let (panels, panel_bytes) = (rows.panels(outputs), inputs.div_ceil(2) * 2 * PANEL * dtype.bytes());
        let mut data = arena.zeroed::<u8>(panels * panel_bytes, "weights")?;
        let (view, failure) = (data.shared(), Mutex::new(None));
        pool.run(&|part: Part| {
            for panel in part.range(panels) {
                // SAFETY: every panel belongs to one part only.
                let bytes = unsafe { view.slice(panel * panel_bytes, panel_bytes) };
                if let Err(error) = pack_panel(source, dtype, (rows, panel), bytes) {
                    *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                }
            }
        });
        match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(Self { dtype, rows, outputs, inputs, data }),
        }
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

    pub(super) fn rows(&self) -> PanelRows {
        self.rows
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.panels(self.outputs)
    }

    /// Bytes of one panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.inputs.div_ceil(2) * 2 * PANEL * self.dtype.bytes()
    }

    /// The bytes of panel `index`.
    pub(super) fn panel(&self, index: usize) -> &[u8] {
        let bytes = self.panel_bytes();
        &self.data.as_slice()[index * bytes..][..bytes]
    }

    /// Widens row `output` (an embedding) to f32.
    pub(super) fn read_row(&self, output: usize, out: &mut [f32]) {
        debug_assert_eq!(self.rows, PanelRows::Plain);
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

fn pack_panel(source: &TensorData<'_>, dtype: DType, (rows, panel): (PanelRows, usize), out: &mut [u8]) -> Result<(), OpError> {
    let mut values = [0.0; PACK_BLOCK];
    for from in (0..source.cols()).step_by(PACK_BLOCK) {
        for lane in 0..PANEL {
            let Some(row) = rows.source(panel, lane, source.rows()) else { continue };
            let values = &mut values[..PACK_BLOCK.min(source.cols() - from)];
            source.read(row, from, values);
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

/// Gathers `tokens` as rows of `out`, `[tokens.len(), inputs]`.
pub(super) fn gather(table: &PanelMatrix, tokens: &[u32], out: SharedMut<'_, f32>, part: Part) {
    let width = table.inputs();
    for row in part.range(tokens.len()) {
        // SAFETY: every row belongs to one part only.
        table.read_row(tokens[row] as usize, unsafe { out.slice(row * width, width) });
    }
}
