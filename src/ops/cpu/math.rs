//! Functions of lanes, built from correctly rounded operations in a fixed order, so that every instruction set gives the same bits.

use super::lanes::Lanes;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts: the first has few enough bits that `n * LN2_HIGH` is exact for the integers that occur.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Bounds within which 2^n stays a normal number.
const EXP_MIN: f32 = -87.3;
const EXP_MAX: f32 = 88.3;
/// 1/k! for k = 7 … 2: the Taylor series on |r| <= ln 2 / 2, error below 1 ulp after rounding.
const COEFFICIENTS: [f32; 6] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5];

/// e^x; arguments outside -87.3..88.3 give the value at the bound (1.2e-38, 2.2e38), NaN stays NaN.
///
/// # Safety
/// As the methods of [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp<V: Lanes>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let x = V::splat(EXP_MIN).max(x);
        let x = V::splat(EXP_MAX).min(x);
        let n = x.mul(V::splat(LOG2_E)).round();
        let r = n.mul_add(V::splat(-LN2_HIGH), x);
        let r = n.mul_add(V::splat(-LN2_LOW), r);
        let mut p = V::splat(COEFFICIENTS[0]);
        for &c in &COEFFICIENTS[1..] {
            p = p.mul_add(r, V::splat(c));
        }
        let p = p.mul_add(r.mul(r), r).add(V::splat(1.0));
        p.mul(n.exp2_integer())
    }
}

/// x / (1 + e^-x).
///
/// # Safety
/// As the methods of [`Lanes`].
#[inline(always)]
pub(super) unsafe fn silu<V: Lanes>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe { x.div(exp(V::splat(0.0).sub(x)).add(V::splat(1.0))) }
}
