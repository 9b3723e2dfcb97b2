//! RMSNorm: one row after the other, sixteen lanes at a time.

use super::lanes::{ByteLanes, Kernel, Lanes, Part, WIDTH, sum_tree};
use super::memory::at;
use super::operand::OperandMut;

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

/// `out = rms_norm(x)` for rows as wide as `gain`, as the next product reads it.
pub(super) struct RmsNorm<'a> {
    pub(super) x: &'a [f32],
    pub(super) gain: &'a [f32],
    pub(super) eps: f32,
    pub(super) out: OperandMut<'a>,
}

impl Kernel for RmsNorm<'_> {
    #[inline(always)]
    unsafe fn run<V: ByteLanes>(&self, part: Part) {
        let (width, layout) = (self.gain.len(), self.out.layout());
        for row in part.range(layout.rows) {
            let (x, gain, place) = (at(self.x, row * width, width), self.gain.as_ptr(), layout.place(row));
            // SAFETY: both were checked for `width` values; a row belongs to one part only.
            unsafe {
                // Weights have streamed through the caches since: what the second pass needs comes while the first one waits for x.
                self.out.prefetch::<V>(place);
                for i in (0..width).step_by(WIDTH) {
                    V::prefetch(gain.add(i).cast());
                }
                let scale = V::splat(inverse_rms::<V>(x, width, self.eps));
                for i in (0..width).step_by(WIDTH) {
                    let v = V::load_first(x.add(i), width - i).mul(scale).mul(V::load_first(gain.add(i), width - i));
                    self.out.put(place, i, v);
                }
            }
        }
    }
}
