//! Products on Metal, which are kernels as all else: one for few rows, which waits for the weights, and one for many.

use super::device::{Arg, At, DeviceError, Kernel, Launch, Operation, Product};

/// Most rows of the kernel for few: each weight that is read is multiplied so often.
const MOST_VECTORS: usize = 8;
/// Threads of a block of either kernel.
pub(super) const THREADS: u32 = 128;
/// Outputs of a block of the kernel for few rows.
pub(super) const VECTOR_OUTPUTS: u32 = 16;
/// Rows and outputs of a block of the kernel for many.
pub(super) const MATRIX_ROWS: u32 = 64;
pub(super) const MATRIX_OUTPUTS: u32 = 32;

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
    assert!(!product.inputs.is_multiple_of(8) || product.is_aligned(), "a product of memory that is not aligned");
}

#[cfg(test)]
mod tests {
    use super::super::device::Half;
    use super::*;

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
}
