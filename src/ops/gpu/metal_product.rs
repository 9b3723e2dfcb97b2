//! Products on Metal, which are kernels as all else: one for few rows, which waits for the weights, and one for many.

use super::device::{Arg, At, DeviceError, Kernel, Launch, Operation, Product};

/// Most rows of the kernel for few: each weight that is read is multiplied so often.
const MOST_VECTORS: usize = 8;
/// Threads of a block of either kernel.
const THREADS: u32 = 128;
/// Outputs of a block of the kernel for few rows.
const VECTOR_OUTPUTS: u32 = 16;
/// Rows and outputs of a block of the kernel for many.
const MATRIX_ROWS: u32 = 64;
const MATRIX_OUTPUTS: u32 = 32;

/// Alignment of rows that are read 16 bytes at a time, which they are where `inputs` is a multiple of 8.
const CHUNK: usize = 16;

fn size(value: usize) -> u32 {
    u32::try_from(value).ok().filter(|&value| i32::try_from(value).is_ok()).expect("sizes of a product are below 2^31")
}

/// The kernel for so many rows, and its grid.
fn kernel<M>(product: &Product<'_, M>) -> (Kernel, [u32; 3]) {
    let Product { rows, outputs, half, .. } = *product;
    let kernel = |operation, queries| Kernel { operation, half, head_dim: 0, queries };
    if rows <= MOST_VECTORS {
        return (kernel(Operation::Matvec, rows.next_power_of_two()), [size(outputs).div_ceil(VECTOR_OUTPUTS), 1, 1]);
    }
    (kernel(Operation::Matmul, 0), [size(outputs).div_ceil(MATRIX_OUTPUTS), size(rows).div_ceil(MATRIX_ROWS), 1])
}

/// Sends what computes `product`: one launch, or none where there is nothing to compute.
///
/// # Errors
/// That of `send`.
///
/// # Panics
/// When `inputs` is a multiple of 8, and rows yet do not start where 16 bytes can be read.
pub(super) fn launches<M>(
    product: &Product<'_, M>,
    mut send: impl FnMut(&Launch<'_, M>) -> Result<(), DeviceError>,
) -> Result<(), DeviceError> {
    let Product { weight, x, out, rows, inputs, outputs, is_added, .. } = *product;
    if rows == 0 || outputs == 0 {
        return Ok(());
    }
    check_alignment(product);
    let args = [Arg::At(weight), Arg::At(x), Arg::At(out), int(rows), int(inputs), int(outputs), int(usize::from(is_added))];
    let (kernel, grid) = kernel(product);
    send(&Launch { kernel, grid, threads: THREADS, args: &args })
}

/// Sends what computes a product of few rows whose sums, gates before values, go through SwiGLU to `out`. False for more rows.
///
/// # Errors
/// That of `send`.
///
/// # Panics
/// As [`launches`].
pub(super) fn swiglu<M>(
    product: &Product<'_, M>,
    out: At<'_, M>,
    send: impl FnOnce(&Launch<'_, M>) -> Result<(), DeviceError>,
) -> Result<bool, DeviceError> {
    let Product { weight, x, rows, inputs, half, .. } = *product;
    let width = product.outputs / 2;
    if rows == 0 || rows > MOST_VECTORS || width == 0 {
        return Ok(false);
    }
    check_alignment(product);
    let args = [Arg::At(weight), Arg::At(x), Arg::At(out), int(rows), int(inputs), int(width)];
    let kernel = Kernel { operation: Operation::MatvecSwiglu, half, head_dim: 0, queries: rows.next_power_of_two() };
    send(&Launch { kernel, grid: [size(width).div_ceil(VECTOR_OUTPUTS), 1, 1], threads: THREADS, args: &args })?;
    Ok(true)
}

fn int<'a, M>(value: usize) -> Arg<'a, M> {
    Arg::Int(size(value).cast_signed())
}

fn check_alignment<M>(product: &Product<'_, M>) {
    let is_aligned = |at: At<'_, M>| at.offset.is_multiple_of(CHUNK);
    let is_right = !product.inputs.is_multiple_of(8) || is_aligned(product.weight) && is_aligned(product.x);
    assert!(is_right, "a product of memory that is not aligned");
}

#[cfg(test)]
mod tests {
    use super::super::device::{Device, Half};
    use super::super::emulated::{Checks, EmulatedDevice, HostMemory, Language};
    use super::super::memory::{download_values, upload_values};
    use super::*;
    use crate::ops::tests::noise;

    /// Kernel and grid of a product.
    fn chosen(rows: usize, outputs: usize) -> Vec<(String, [u32; 3])> {
        let at = At::start(&());
        let product = Product { weight: at, x: at, out: at, rows, inputs: 40, outputs, half: Half::F16, is_added: false };
        let mut chosen = Vec::new();
        launches(&product, |launch| {
            chosen.push((launch.kernel.to_string(), launch.grid));
            Ok(())
        })
        .unwrap();
        chosen
    }

    #[test]
    fn few_rows_are_vectors_and_many_a_matrix() {
        assert_eq!(chosen(1, 16), [("matvec_f16_1".to_owned(), [1, 1, 1])]);
        assert_eq!(chosen(3, 17), [("matvec_f16_4".to_owned(), [2, 1, 1])]);
        assert_eq!(chosen(8, 1280), [("matvec_f16_8".to_owned(), [80, 1, 1])]);
        assert_eq!(chosen(9, 1280), [("matmul_f16".to_owned(), [40, 1, 1])]);
        assert_eq!(chosen(65, 33), [("matmul_f16".to_owned(), [2, 2, 1])]);
        assert_eq!(chosen(0, 16), []);
    }

    /// A product on the emulated device, where every access is checked and every allocation ends with its last value.
    struct Case {
        half: Half,
        inputs: usize,
        outputs: usize,
        /// `[outputs, inputs]`, as rounded to `half`.
        weight: Vec<f32>,
    }

    impl Case {
        fn new(half: Half, inputs: usize, outputs: usize) -> Self {
            Self { half, inputs, outputs, weight: rounded(half, &noise(1, outputs * inputs)) }
        }

        fn halves(&self, device: &EmulatedDevice, values: &[f32]) -> HostMemory {
            let memory = device.allocate(values.len() * 2, "halves").unwrap();
            let bytes: Vec<u8> = values.iter().flat_map(|&value| self.half.bytes(value)).collect();
            device.upload(&bytes, At::start(&memory)).unwrap();
            memory
        }

        /// What is found for the rows `x`, with `before` in the place of the result if it is added to that.
        fn found(&self, x: &[f32], before: Option<&[f32]>) -> Vec<f32> {
            let device = EmulatedDevice::new(Language::Metal, Checks::On);
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

    #[test]
    fn products_of_any_shape_are_those_of_the_definition() {
        let shapes =
            [(1, 1), (3, 17), (7, 33), (8, 4), (31, 16), (33, 5), (40, 65), (64, 32), (257, 31), (1001, 3), (3071, 15), (3072, 13)];
        for half in [Half::Bf16, Half::F16] {
            for (inputs, outputs) in shapes {
                let case = Case::new(half, inputs, outputs);
                for rows in (1..=9).chain(63..=65) {
                    let x = rounded(half, &noise(2, rows * inputs));
                    let before = noise(3, rows * outputs);
                    let wanted = case.wanted(&x);
                    for before in [None, Some(&before[..])] {
                        let found = case.found(&x, before);
                        let wanted = wanted.iter().enumerate().map(|(i, sum)| sum + before.map_or(0.0, |before| f64::from(before[i])));
                        let worst = found.iter().zip(wanted).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
                        assert!(worst < 1e-6 * inputs as f64, "{half:?} {rows}x{inputs}x{outputs}: off by {worst}");
                        assert!(found.iter().all(|value| value.is_finite()), "{half:?} {rows}x{inputs}x{outputs}: not a number");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_whatever_rows_stand_beside_it() {
        for (inputs, outputs) in [(37, 19), (328, 33)] {
            let case = Case::new(Half::Bf16, inputs, outputs);
            let x = noise(2, 65 * inputs);
            // Of vectors and of matrices: one kernel's sums are in another order than the other's.
            let (vectors, matrices) = (case.bits(&x[..8 * inputs]), case.bits(&x));
            for rows in 1..8 {
                let first = 8 - rows;
                assert_eq!(case.bits(&x[first * inputs..8 * inputs]), vectors[first..], "{rows} rows of {inputs}");
            }
            for (first, rows) in [(0, 9), (5, 33), (1, 64)] {
                assert_eq!(case.bits(&x[first * inputs..][..rows * inputs]), matrices[first..first + rows], "{rows} rows of {inputs}");
            }
        }
    }

    #[test]
    fn garbage_in_a_row_stays_there() {
        let case = Case::new(Half::F16, 72, 35);
        for rows in [3, 64] {
            let clean = noise(2, rows * 72);
            let mut dirty = clean.clone();
            dirty[(rows - 1) * 72..].fill(f32::NAN);
            let (clean, dirty) = (case.bits(&clean), case.bits(&dirty));
            assert_eq!(clean[..rows - 1], dirty[..rows - 1], "{rows} rows");
        }
    }
}
