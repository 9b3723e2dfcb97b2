//! The kernels of products beside their definition.

use super::device::{At, Device, Half, Product};
use super::emulated::{Checks, EmulatedDevice, HostMemory, Language};
use super::memory::{download_values, upload_values};
use crate::ops::tests::noise;

/// A product on the emulated device, where every access is checked and every allocation ends with its last value.
struct Case {
    language: Language,
    half: Half,
    inputs: usize,
    outputs: usize,
    /// `[outputs, inputs]`, as rounded to `half`.
    weight: Vec<f32>,
}

impl Case {
    fn new((language, half): (Language, Half), inputs: usize, outputs: usize) -> Self {
        Self { language, half, inputs, outputs, weight: rounded(half, &noise(1, outputs * inputs)) }
    }

    fn halves(&self, device: &EmulatedDevice, values: &[f32]) -> HostMemory {
        let memory = device.allocate(values.len() * 2, "halves").unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|&value| self.half.bytes(value)).collect();
        device.upload(&bytes, At::start(&memory)).unwrap();
        memory
    }

    /// What is found for the rows `x`, with `before` in the place of the result if it is added to that.
    fn found(&self, x: &[f32], before: Option<&[f32]>) -> Vec<f32> {
        let device = EmulatedDevice::new(self.language, Checks::On);
        let rows = x.len() / self.inputs;
        let garbage = vec![f32::NAN; rows * self.outputs];
        let (weight, x) = (self.halves(&device, &self.weight), self.halves(&device, x));
        let out = upload_values(&device, before.unwrap_or(&garbage), "sums").unwrap();
        let (weight, x, place) = (At::start(&weight), At::start(&x), At::start(&out));
        let Self { half, inputs, outputs, .. } = *self;
        device.multiply(&Product { weight, x, out: place, rows, inputs, outputs, half, is_added: before.is_some() }).unwrap();
        download_values(&device, &out, rows * outputs).unwrap()
    }

    fn bits(&self, x: &[f32]) -> Vec<Vec<u32>> {
        let found = self.found(x, None);
        found.chunks(self.outputs).map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
    }

    /// Sums in f64.
    fn wanted(&self, x: &[f32]) -> Vec<f64> {
        let dot = |row: &[f32], weights: &[f32]| row.iter().zip(weights).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
        x.chunks(self.inputs).flat_map(|row| self.weight.chunks(self.inputs).map(move |weights| dot(row, weights))).collect()
    }
}

fn rounded(half: Half, values: &[f32]) -> Vec<f32> {
    values.iter().map(|&value| half.value(half.bytes(value))).collect()
}

/// Rows of a product that kernels compute, and of two that are computed by one kernel.
fn rows(language: Language) -> (Vec<usize>, usize) {
    match language {
        Language::Cuda => ((1..=2).collect(), 2),
        Language::Metal => ((1..=9).chain(63..=65).collect(), 8),
    }
}

fn check_shapes(language: Language, shapes: &[(usize, usize)]) {
    for (half, &(inputs, outputs)) in [Half::Bf16, Half::F16].into_iter().flat_map(|half| shapes.iter().map(move |shape| (half, shape))) {
        let case = Case::new((language, half), inputs, outputs);
        for rows in rows(language).0 {
            let x = rounded(half, &noise(2, rows * inputs));
            let before = noise(3, rows * outputs);
            let wanted = case.wanted(&x);
            for before in [None, Some(&before[..])] {
                let found = case.found(&x, before);
                let wanted = wanted.iter().enumerate().map(|(i, sum)| sum + before.map_or(0.0, |before| f64::from(before[i])));
                let worst = found.iter().zip(wanted).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
                let name = format!("{language:?} {half:?} {rows}x{inputs}x{outputs}");
                assert!(worst < 1e-6 * inputs as f64, "{name}: off by {worst}");
                assert!(found.iter().all(|value| value.is_finite()), "{name}: not a number");
            }
        }
    }
}

#[test]
fn products_of_any_shape_are_those_of_the_definition() {
    for language in Language::ALL {
        let shapes =
            [(1, 1), (3, 17), (7, 33), (8, 4), (31, 16), (33, 5), (40, 65), (64, 32), (257, 31), (1001, 3), (3071, 15), (3072, 13)];
        check_shapes(language, &shapes);
    }
}

/// Where a block takes an output instead of a warp.
#[test]
fn products_of_long_rows_are_those_of_the_definition() {
    check_shapes(Language::Cuda, &[(2047, 3), (2048, 5), (2049, 2), (2056, 7), (4099, 3), (5120, 9), (12_288, 2)]);
}

#[test]
fn a_row_has_the_same_bits_whatever_rows_stand_beside_it() {
    for language in Language::ALL {
        let most = rows(language).1;
        for (inputs, outputs) in [(37, 19), (328, 33), (2056, 5)] {
            let case = Case::new((language, Half::Bf16), inputs, outputs);
            let x = noise(2, 65 * inputs);
            // Of vectors and of matrices: one kernel's sums are in another order than the other's.
            let vectors = case.bits(&x[..most * inputs]);
            for rows in 1..most {
                let first = most - rows;
                assert_eq!(case.bits(&x[first * inputs..most * inputs]), vectors[first..], "{language:?} {rows} rows of {inputs}");
            }
            if language == Language::Metal && inputs < 1000 {
                let matrices = case.bits(&x);
                for (first, rows) in [(0, 9), (5, 33), (1, 64)] {
                    assert_eq!(case.bits(&x[first * inputs..][..rows * inputs]), matrices[first..first + rows], "{rows} rows of {inputs}");
                }
            }
        }
    }
}

#[test]
fn garbage_in_a_row_stays_there() {
    for (language, rows) in [(Language::Cuda, 2), (Language::Metal, 3), (Language::Metal, 64)] {
        let case = Case::new((language, Half::F16), 72, 35);
        let clean = noise(2, rows * 72);
        let mut dirty = clean.clone();
        dirty[(rows - 1) * 72..].fill(f32::NAN);
        let (clean, dirty) = (case.bits(&clean), case.bits(&dirty));
        assert_eq!(clean[..rows - 1], dirty[..rows - 1], "{language:?}, {rows} rows");
    }
}
