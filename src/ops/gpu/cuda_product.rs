//! Products on CUDA: few rows are a kernel of ours, which waits for the weights alone; more are cuBLAS's.

use super::device::{Arg, At, DeviceError, Half, Kernel, Launch, Operation, Product};

/// Most rows of our kernel. With four, cuBLAS's is faster (measured on an H100, benches/RESULTS.md).
const MOST_VECTORS: usize = 2;
/// Warps of a block, each with one output, unless rows of the weights are longer than a warp takes alone.
pub(super) const WARPS: u32 = 4;
pub(super) const LONGEST: usize = 2048;

/// Sends the kernel that computes `product`, if it is one for it; else `None`.
pub(super) fn few_rows<M>(
    product: &Product<'_, M>,
    send: impl FnOnce(&Launch<'_, M>) -> Result<(), DeviceError>,
) -> Option<Result<(), DeviceError>> {
    let shape = Shape::of(product)?;
    let [rows, inputs, outputs] = shape.args(product.outputs)?;
    let is_added = Arg::Int(i32::from(product.is_added));
    let args = [Arg::At(product.weight), Arg::At(product.x), Arg::At(product.out), rows, inputs, outputs, is_added];
    Some(send(&shape.launch(Operation::Matvec, product.outputs, &args)?))
}

/// The same for a product whose sums go through SwiGLU to `out`.
pub(super) fn few_rows_swiglu<M>(
    product: &Product<'_, M>,
    out: At<'_, M>,
    send: impl FnOnce(&Launch<'_, M>) -> Result<(), DeviceError>,
) -> Option<Result<(), DeviceError>> {
    let (shape, width) = (Shape::of(product)?, product.outputs / 2);
    let [rows, inputs, width_arg] = shape.args(width)?;
    let args = [Arg::At(product.weight), Arg::At(product.x), Arg::At(out), rows, inputs, width_arg];
    Some(send(&shape.launch(Operation::MatvecSwiglu, width, &args)?))
}

/// A product that is one for our kernels.
struct Shape {
    rows: usize,
    inputs: usize,
    half: Half,
}

impl Shape {
    fn of<M>(product: &Product<'_, M>) -> Option<Self> {
        let Product { rows, inputs, half, .. } = *product;
        ((1..=MOST_VECTORS).contains(&rows) && product.is_aligned()).then_some(Self { rows, inputs, half })
    }

    fn args<M>(&self, outputs: usize) -> Option<[Arg<'_, M>; 3]> {
        let int = |value: usize| i32::try_from(value).ok().map(Arg::Int);
        Some([int(self.rows)?, int(self.inputs)?, int(outputs)?])
    }

    /// `None` where there is nothing to compute.
    fn launch<'a, M>(&self, operation: Operation, outputs: usize, args: &'a [Arg<'a, M>]) -> Option<Launch<'a, M>> {
        let outputs = u32::try_from(outputs).ok()?;
        let blocks = if self.inputs > LONGEST { outputs } else { outputs.div_ceil(WARPS) };
        let kernel = Kernel { operation, half: self.half, head_dim: 0, queries: self.rows.next_power_of_two() };
        (blocks > 0).then_some(Launch { kernel, grid: [blocks, 1, 1], threads: 32 * WARPS, args })
    }
}
