//! RMSNorm and activations: one row after the other, sixteen lanes at a time.

use super::lanes::{Kernel, Lanes, Part, WIDTH, sum_tree};
use super::math::silu;
use super::memory::{SharedMut, at};

/// `1 / sqrt(mean(x^2) + eps)` of `width` values.
///
/// # Safety
/// `width` values at `x`; as the methods of [`Lanes`].
#[inline(always)]
pub(super) unsafe fn inverse_rms<V: Lanes>(x: *const f32, width: usize, eps: f32) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = V::splat(0.0);
        for i in (0..width).step_by(WIDTH) {
            let v = V::load_first(x.add(i), width - i);
            sums = v.mul_add(v, sums);
        }
        1.0 / (sum_tree(sums.to_array()) / width as f32 + eps).sqrt()
    }
}

/// `out = x * scale * gain`, `width` values.
///
/// # Safety
/// `width` values behind each pointer; as the methods of [`Lanes`].
#[inline(always)]
pub(super) unsafe fn scale_by<V: Lanes>(x: *const f32, gain: *const f32, scale: f32, width: usize, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = V::splat(scale);
        for i in (0..width).step_by(WIDTH) {
            let rest = width - i;
            let v = V::load_first(x.add(i), rest).mul(scale).mul(V::load_first(gain.add(i), rest));
            v.store_first(out.add(i), rest);
        }
    }
}

/// What is normalised, `[rows, width]`.
pub(super) enum NormInput<'a> {
    /// It is only read.
    Plain(&'a [f32]),
    /// `x += delta` first.
    Sum { x: SharedMut<'a, f32>, delta: &'a [f32] },
}

impl NormInput<'_> {
    /// Row `row`, the sum where there is one.
    ///
    /// # Safety
    /// As the methods of [`Lanes`]; the row belongs to the caller's part only.
    #[inline(always)]
    unsafe fn row<V: Lanes>(&self, row: usize, width: usize) -> *const f32 {
        match self {
            Self::Plain(x) => at(x, row * width, width),
            Self::Sum { x, delta } => {
                let (x, delta) = (x.at(row * width, width), at(delta, row * width, width));
                for i in (0..width).step_by(WIDTH) {
                    // SAFETY: both rows were checked for `width` values.
                    unsafe {
                        let sum = V::load_first(x.add(i), width - i).add(V::load_first(delta.add(i), width - i));
                        sum.store_first(x.add(i), width - i);
                    }
                }
                x
            }
        }
    }
}

/// `out = rms_norm(input)`, `[rows, gain.len()]`.
pub(super) struct RmsNorm<'a> {
    pub(super) input: NormInput<'a>,
    pub(super) gain: &'a [f32],
    pub(super) eps: f32,
    pub(super) rows: usize,
    pub(super) out: SharedMut<'a, f32>,
}

impl Kernel for RmsNorm<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(&self, part: Part) {
        let width = self.gain.len();
        for row in part.range(self.rows) {
            let out = self.out.at(row * width, width);
            // SAFETY: all pointers were checked for `width` values; a row belongs to one part only.
            unsafe {
                let x = self.input.row::<V>(row, width);
                scale_by::<V>(x, self.gain.as_ptr(), inverse_rms::<V>(x, width, self.eps), width, out);
            }
        }
    }
}

/// `out = silu(gate) * up` for rows `[gate | up]`, or `silu(gate)` for rows `[gate]`; `width` values each.
pub(super) struct Activation<'a> {
    pub(super) input: &'a [f32],
    pub(super) gated: bool,
    pub(super) width: usize,
    pub(super) rows: usize,
    pub(super) out: SharedMut<'a, f32>,
}

impl Kernel for Activation<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(&self, part: Part) {
        let width = self.width;
        let stride = if self.gated { 2 * width } else { width };
        for row in part.range(self.rows) {
            let (gate, out) = (at(self.input, row * stride, stride), self.out.at(row * width, width));
            // SAFETY: `stride` values at `gate`, `width` at `out`; a row belongs to one part only.
            unsafe {
                for i in (0..width).step_by(WIDTH) {
                    let mut v = silu(V::load_first(gate.add(i), width - i));
                    if self.gated {
                        v = v.mul(V::load_first(gate.add(width + i), width - i));
                    }
                    v.store_first(out.add(i), width - i);
                }
            }
        }
    }
}
