//! Dtypes and borrowed tensors, as a checkpoint gives them.

use super::blocks::{BLOCK_VALUES, Block, BlockFormat};
use half::{bf16, f16};
use std::borrow::Cow;

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit IEEE.
    F32,
    /// 16-bit brain float.
    Bf16,
    /// 16-bit IEEE.
    F16,
}

impl DType {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        })
    }
}

/// How the weights of a matrix are stored: one by one, or in blocks of 32 along a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// Each weight a number.
    Scalar(DType),
    /// Blocks with a scale.
    Blocks(BlockFormat),
}

impl WeightType {
    /// Bytes of `values` weights of a row; `None` when blocks do not divide them, or the number is too large.
    pub fn row_bytes(self, values: usize) -> Option<usize> {
        match self {
            Self::Scalar(dtype) => values.checked_mul(dtype.bytes()),
            Self::Blocks(format) if values.is_multiple_of(BLOCK_VALUES) => (values / BLOCK_VALUES).checked_mul(format.bytes()),
            Self::Blocks(_) => None,
        }
    }
}

impl WeightType {
    /// The type of a matrix whose parts have these: theirs, or the smallest that holds all of them well.
    pub fn of_parts(parts: impl Iterator<Item = Self>) -> Self {
        let widest = |a: Self, b: Self| match (a, b) {
            _ if a == b => a,
            (Self::Scalar(_), Self::Scalar(_)) => DType::F32.into(),
            _ => BlockFormat::Q8_0.into(),
        };
        parts.reduce(widest).unwrap_or(DType::F32.into())
    }
}

impl From<DType> for WeightType {
    fn from(dtype: DType) -> Self {
        Self::Scalar(dtype)
    }
}

impl From<BlockFormat> for WeightType {
    fn from(format: BlockFormat) -> Self {
        Self::Blocks(format)
    }
}

impl std::fmt::Display for WeightType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scalar(dtype) => dtype.fmt(f),
            Self::Blocks(format) => format.fmt(f),
        }
    }
}

/// Which row of a stored part a row of the matrix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// The same one.
    Plain,
    /// Within each head of `head_dim` rows, rows `j` and `j + head_dim / 2` of the matrix are stored as neighbours: files for code that
    /// rotates neighbouring pairs.
    InterleavedHalves {
        /// Rows of a head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// Where row `row` of the matrix is stored.
    fn stored_row(self, row: usize) -> usize {
        match self {
            Self::Plain => row,
            Self::InterleavedHalves { head_dim } => {
                let (head, i) = (row / head_dim, row % head_dim);
                head * head_dim + 2 * (i % (head_dim / 2)) + i / (head_dim / 2)
            }
        }
    }

    /// The row of the matrix that is stored as row `stored`.
    pub fn row_of(self, stored: usize) -> usize {
        match self {
            Self::Plain => stored,
            Self::InterleavedHalves { head_dim } => {
                let (head, i) = (stored / head_dim, stored % head_dim);
                head * head_dim + i / 2 + (i % 2) * (head_dim / 2)
            }
        }
    }
}

/// Some rows of a matrix as they lie in a checkpoint: row-major, little-endian, of any alignment.
#[derive(Clone, Debug)]
pub struct TensorRows<'a> {
    stored: WeightType,
    rows: usize,
    order: RowOrder,
    /// Bytes of a row.
    stride: usize,
    bytes: Cow<'a, [u8]>,
}

impl<'a> TensorRows<'a> {
    /// Wraps `rows` rows of `cols` values; `None` when `bytes` have another length, or the order does not divide the rows.
    pub fn new(stored: WeightType, (rows, cols): (usize, usize), order: RowOrder, bytes: Cow<'a, [u8]>) -> Option<Self> {
        let stride = stored.row_bytes(cols)?;
        let ordered = match order {
            RowOrder::Plain => true,
            RowOrder::InterleavedHalves { head_dim } => head_dim > 0 && head_dim.is_multiple_of(2) && rows.is_multiple_of(head_dim),
        };
        (bytes.len() == rows.checked_mul(stride)? && ordered).then_some(Self { stored, rows, order, stride, bytes })
    }

    /// The bytes of a row.
    fn row(&self, row: usize) -> &[u8] {
        &self.bytes[self.order.stored_row(row) * self.stride..][..self.stride]
    }
}

/// A matrix `[rows, cols]`, of one or several parts below each other.
#[derive(Clone, Debug)]
pub struct TensorData<'a> {
    rows: usize,
    cols: usize,
    parts: Vec<TensorRows<'a>>,
}

impl<'a> TensorData<'a> {
    /// Wraps `bytes`, one value after the other; `None` when their number is not `rows * cols` values of `dtype`.
    pub fn new(dtype: DType, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        let part = TensorRows::new(dtype.into(), (rows, cols), RowOrder::Plain, Cow::Borrowed(bytes))?;
        Some(Self { rows, cols, parts: vec![part] })
    }

    /// Puts parts of `cols` values a row below each other; `None` when there is none or one is of another width.
    pub fn stacked(cols: usize, parts: Vec<TensorRows<'a>>) -> Option<Self> {
        let fits = !parts.is_empty() && parts.iter().all(|part| part.stored.row_bytes(cols) == Some(part.stride));
        let rows = parts.iter().map(|part| part.rows).sum();
        fits.then_some(Self { rows, cols, parts })
    }

    /// How the values are stored; of parts that differ, the smallest type that holds all of them well.
    pub fn stored(&self) -> WeightType {
        WeightType::of_parts(self.parts.iter().map(|part| part.stored))
    }

    /// Number of rows (outputs of a linear layer).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs of a linear layer).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes as stored, for hashing: one slice a part.
    pub fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| part.bytes.as_ref())
    }

    /// The part that holds `row`, and which of its rows that is.
    fn part(&self, mut row: usize) -> (&TensorRows<'a>, usize) {
        let part = self.parts.iter().find(|part| {
            let is_here = row < part.rows;
            if !is_here {
                row -= part.rows;
            }
            is_here
        });
        (part.expect("the row is one of the matrix"), row)
    }

    /// Widens values of one row, from column `from` on, to f32. In blocks, `from` and the number of values are multiples of 32.
    ///
    /// # Panics
    /// Outside of the matrix, or off the boundaries of blocks.
    pub fn read(&self, row: usize, from: usize, out: &mut [f32]) {
        let (part, row) = self.part(row);
        let bytes = part.row(row);
        match part.stored {
            WeightType::Scalar(dtype) => {
                let bytes = &bytes[from * dtype.bytes()..][..out.len() * dtype.bytes()];
                match dtype {
                    DType::F32 => widen::<4>(bytes, out, f32::from_le_bytes),
                    DType::Bf16 => widen::<2>(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
                    DType::F16 => widen::<2>(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
                }
            }
            WeightType::Blocks(format) => {
                assert!(from.is_multiple_of(BLOCK_VALUES) && out.len().is_multiple_of(BLOCK_VALUES), "off the boundary of a block");
                let blocks = &bytes[from / BLOCK_VALUES * format.bytes()..];
                for (out, block) in out.as_chunks_mut::<BLOCK_VALUES>().0.iter_mut().zip(blocks.chunks_exact(format.bytes())) {
                    *out = format.unpack(block).values();
                }
            }
        }
    }

    /// Block `index` of a row in `format`: the stored one where it is of this format, else the nearest.
    pub fn block(&self, row: usize, index: usize, format: BlockFormat) -> Block {
        let (part, stored_row) = self.part(row);
        if part.stored == WeightType::Blocks(format) {
            return format.unpack(&part.row(stored_row)[index * format.bytes()..][..format.bytes()]);
        }
        let mut values = [0.0; BLOCK_VALUES];
        self.read(row, index * BLOCK_VALUES, &mut values);
        format.quantize(&values)
    }

    /// All values as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (row, out) in out.chunks_exact_mut(self.cols.max(1)).enumerate() {
            self.read(row, 0, out);
        }
        out
    }
}

fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = convert(*bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_below_each_other_in_their_own_type_and_order() {
        let floats: Vec<u8> = (0..128).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let (mut block, mut blocks) = ([0; 34], Vec::new());
        for row in 0..2 {
            BlockFormat::Q8_0.pack(&Block { scale: f16::ONE, minimum: f16::ZERO, q: [row * 7; BLOCK_VALUES] }, &mut block);
            blocks.extend(block);
        }
        let halves = RowOrder::InterleavedHalves { head_dim: 4 };
        let parts = || {
            let first = TensorRows::new(DType::F32.into(), (4, 32), halves, Cow::Borrowed(&floats)).unwrap();
            let second = TensorRows::new(BlockFormat::Q8_0.into(), (2, 32), RowOrder::Plain, Cow::Borrowed(&blocks)).unwrap();
            vec![first, second]
        };
        let matrix = TensorData::stacked(32, parts()).unwrap();
        let first_of_row: Vec<f32> = matrix.to_f32().chunks_exact(32).map(|row| row[0]).collect();
        // Rows 0, 1, 2, 3 of a head of four are stored as 0, 2, 1, 3.
        assert_eq!(first_of_row, [0.0, 64.0, 32.0, 96.0, 0.0, 7.0]);
        assert_eq!((matrix.rows(), matrix.stored()), (6, BlockFormat::Q8_0.into()));
        assert_eq!(matrix.block(5, 0, BlockFormat::Q8_0).q, [7; BLOCK_VALUES]);
        assert_eq!(matrix.block(5, 0, BlockFormat::Q4_0), BlockFormat::Q4_0.quantize(&[7.0; BLOCK_VALUES]));
        assert!(TensorData::stacked(16, parts()).is_none() && TensorData::stacked(16, Vec::new()).is_none());
    }

    #[test]
    fn an_order_can_be_undone() {
        for order in [RowOrder::Plain, RowOrder::InterleavedHalves { head_dim: 6 }, RowOrder::InterleavedHalves { head_dim: 64 }] {
            assert!(
                (0..192).all(|row| order.row_of(order.stored_row(row)) == row && order.stored_row(order.row_of(row)) == row),
                "{order:?}"
            );
        }
    }

    #[test]
    fn lengths_and_orders_that_do_not_fit_are_refused() {
        let rows =
            |stored: WeightType, shape, order, bytes: usize| TensorRows::new(stored, shape, order, Cow::Owned(vec![0; bytes])).is_some();
        assert!(rows(BlockFormat::Q4_0.into(), (3, 64), RowOrder::Plain, 3 * 36));
        assert!(!rows(BlockFormat::Q4_0.into(), (3, 64), RowOrder::Plain, 3 * 36 - 1));
        assert!(!rows(BlockFormat::Q4_0.into(), (3, 33), RowOrder::Plain, 3 * 36));
        assert!(!rows(DType::F32.into(), (usize::MAX, 2), RowOrder::Plain, 0));
        assert!(!rows(DType::F32.into(), (6, 1), RowOrder::InterleavedHalves { head_dim: 4 }, 24));
        assert!(!rows(DType::F32.into(), (6, 1), RowOrder::InterleavedHalves { head_dim: 0 }, 24));
        assert!(!rows(DType::F32.into(), (6, 1), RowOrder::InterleavedHalves { head_dim: 3 }, 24));
    }
}
