//! The operations of a step, as launches.

use super::device::{Arg, At, Device, DeviceError, Kernel, Launch, Operation, Product};
use super::logits::Head;
use super::matrix::{GpuMatrix, half_of};
#[cfg(test)]
use super::memory::download_values;
use super::memory::{GpuBuffer, GpuOperand, GpuPages, GpuRope, GpuVector, bytes_of_mut, download_halves, upload_values};
use super::recorder::{MOST_RECORDINGS, Mode, StepKey};
use super::step::{Capacity, Items, MOST_QUERIES, StepTables, WARPS};
use super::{GpuBackend, HEAD_DIMS, INVARIANT_ROWS, Scratch, Sizes};
use crate::ops::cpu::RopeTable;
use crate::ops::{
    AWAITED_TOKEN, AttentionShape, Backend, KvType, MatrixRows, OpError, PackedBatch, PageShape, QkNorm, RowTasks, StepNeeds, Target,
    TaskLimits, TensorData, WeightType,
};

/// Threads of a block that walks over a row.
const ROW_THREADS: u32 = 128;
/// Threads of a block of RMSNorm and of activations.
pub(super) const WIDE_THREADS: u32 = 256;
/// Threads of a block with a warp for each of [`WARPS`] heads.
pub(super) const HEAD_THREADS: u32 = 32 * WARPS as u32;

type Result<T> = std::result::Result<T, DeviceError>;

/// A launch in the making.
pub(super) struct Call<'a, D: Device> {
    pub(super) kernel: Kernel,
    pub(super) grid: [u32; 3],
    pub(super) threads: u32,
    pub(super) args: &'a [Arg<'a, D::Memory>],
}

pub(super) fn int<M>(value: usize) -> Arg<'static, M> {
    Arg::Int(i32::try_from(value).expect("sizes of a step are below 2^31"))
}

pub(super) fn start<M>(memory: &M) -> Arg<'_, M> {
    Arg::At(At::start(memory))
}

impl<D: Device> GpuBackend<D> {
    pub(super) fn send(&self, call: &Call<'_, D>) {
        let Call { kernel, grid, threads, args } = *call;
        if grid.iter().all(|&blocks| blocks > 0) {
            self.enqueue(|| self.device.launch(&Launch { kernel, grid, threads, args }));
        }
    }

    /// As [`Self::attempt`], for what a recording holds.
    fn enqueue(&self, send: impl FnOnce() -> Result<()>) {
        if !matches!(self.recorder().mode, Mode::Replay(_)) {
            self.attempt(send);
        }
    }

    /// What has failed, if anything. It stays: a device that failed does not come back.
    fn outcome(&self) -> std::result::Result<(), OpError> {
        self.fault().clone().map_or(Ok(()), |fault| Err(fault.into()))
    }

    /// Gives up what a panic left in the making.
    fn drop_recording(&self) {
        let mode = std::mem::take(&mut self.recorder().mode);
        if matches!(mode, Mode::Record(_)) {
            let ended = self.device.end_recording();
            self.attempt(|| ended.map(drop));
        }
    }

    /// Bytes that recordings take in the end.
    fn recordings_bytes(&self) -> u64 {
        MOST_RECORDINGS as u64 * self.device.recording_bytes()
    }

    /// Which recording the step is, if it can be one.
    fn step_key(&self, scratch: &Scratch<D>) -> Option<StepKey> {
        let tables = &scratch.tables;
        // An item of several rows is one block: steps with such items are other launches, though they have as many rows.
        (tables.singles.count == tables.rows).then_some(StepKey { rows: tables.rows, is_split: tables.last_position >= scratch.split })
    }

    /// The products of the first `rows` rows, in as many pieces as invariance takes.
    fn products<'a>(
        &self,
        weight: &'a GpuMatrix<D::Memory>,
        x: &'a GpuOperand<D::Memory>,
        rows: usize,
        (out, is_added): (&'a D::Memory, bool),
    ) -> impl Iterator<Item = Product<'a, D::Memory>> {
        let (inputs, outputs, half) = (weight.inputs, weight.outputs, self.options.half);
        assert!(self.padded(rows) * inputs <= x.values, "a product of {rows} rows");
        let at_once = if self.options.is_batch_invariant { INVARIANT_ROWS } else { rows };
        (0..rows).step_by(at_once.max(1)).map(move |first| Product {
            weight: At::start(&weight.memory),
            x: At { memory: &x.memory, offset: first * inputs * 2 },
            out: At { memory: out, offset: first * outputs * size_of::<f32>() },
            rows: at_once,
            inputs,
            outputs,
            half,
            is_added,
        })
    }

    /// Sends a product of the first `rows` rows.
    pub(super) fn multiply(&self, weight: &GpuMatrix<D::Memory>, x: &GpuOperand<D::Memory>, rows: usize, out: (&D::Memory, bool)) {
        for product in self.products(weight, x, rows, out) {
            self.enqueue(|| self.device.multiply(&product));
        }
    }

    /// Sends a product with SwiGLU, if the device has one launch for it.
    fn is_swiglu_sent(&self, weight: &GpuMatrix<D::Memory>, x: &GpuOperand<D::Memory>, rows: usize, out: &GpuOperand<D::Memory>) -> bool {
        if self.options.is_batch_invariant {
            return false;
        }
        let mut is_sent = false;
        // The place of the sums is not used.
        for product in self.products(weight, x, rows, (&out.memory, false)) {
            self.enqueue(|| {
                is_sent = self.device.multiply_swiglu(&product, At::start(&out.memory))?;
                Ok(())
            });
        }
        is_sent
    }

    fn product(&self, weight: &GpuMatrix<D::Memory>, x: &GpuOperand<D::Memory>, rows: usize, out: (&GpuBuffer<D::Memory>, bool)) {
        assert!(self.padded(rows) * weight.outputs <= out.0.values, "a product of {rows} rows");
        self.multiply(weight, x, rows, (&out.0.memory, out.1));
    }

    /// A product whose sums go through `operation` into an operand, `width` columns wide.
    fn activated(
        &self,
        (weight, width): (&GpuMatrix<D::Memory>, usize),
        x: &GpuOperand<D::Memory>,
        rows: usize,
        (operation, out): (Operation, &GpuOperand<D::Memory>),
    ) {
        self.with_scratch(|scratch| {
            let values = self.padded(rows) * weight.outputs;
            assert!(values <= scratch.product_values && rows * width <= out.values, "an activation of {rows} rows");
            if operation == Operation::Swiglu && self.is_swiglu_sent(weight, x, rows, out) {
                return;
            }
            self.multiply(weight, x, rows, (&scratch.product, false));
            let args = [start(&scratch.product), start(&out.memory), int(width)];
            let grid = [(width as u32).div_ceil(WIDE_THREADS), rows as u32, 1];
            self.send(&Call { kernel: self.kernel(operation), grid, threads: WIDE_THREADS, args: &args });
        });
    }

    /// Uses the memory of the step.
    ///
    /// # Panics
    /// When there is none: [`Backend::reserve`] comes before the first step.
    pub(super) fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch<D>) -> T) -> T {
        work(self.scratch().as_mut().expect("memory is reserved before the first step"))
    }

    fn attention_kernel(&self, operation: Operation, shape: AttentionShape, queries: usize) -> Kernel {
        Kernel { head_dim: shape.head_dim, queries, ..self.kernel(operation) }
    }

    /// Attention of some items, over so many splits of their contexts.
    fn attend(&self, scratch: &Scratch<D>, (items, queries): (Items, usize), attention: &Attention<'_, D>, splits: usize) {
        let (shape, tables) = (attention.shape, &scratch.tables);
        let args = [
            start(&attention.qkv.memory),
            start(&attention.pages.keys),
            start(&attention.pages.values),
            Arg::At(tables.items(items)),
            Arg::At(tables.tables()),
            start(scratch.partial()),
            start(&attention.out.memory),
            int(usize::from(splits > 1)),
            int(shape.q_heads),
            int(shape.kv_heads),
            int(attention.pages.shape.block_size),
            int(scratch.split),
            int(scratch.max_splits),
            Arg::Float(1.0 / (shape.head_dim as f32).sqrt()),
        ];
        let kernel = self.attention_kernel(Operation::PagedAttention, shape, queries);
        let grid = [items.count as u32, shape.kv_heads as u32, splits as u32];
        self.send(&Call { kernel, grid, threads: HEAD_THREADS, args: &args });
    }

    /// Puts the parts of all rows together.
    fn merge(&self, scratch: &Scratch<D>, attention: &Attention<'_, D>) {
        let (shape, tables) = (attention.shape, &scratch.tables);
        let args = [
            start(scratch.partial()),
            Arg::At(tables.positions()),
            start(&attention.out.memory),
            int(shape.q_heads),
            int(scratch.split),
            int(scratch.max_splits),
        ];
        let kernel = self.attention_kernel(Operation::AttentionMerge, shape, 0);
        let grid = [tables.rows as u32, (shape.q_heads as u32).div_ceil(WARPS as u32), 1];
        self.send(&Call { kernel, grid, threads: HEAD_THREADS, args: &args });
    }
}

/// What attention of a layer works on.
struct Attention<'a, D: Device> {
    qkv: &'a GpuBuffer<D::Memory>,
    shape: AttentionShape,
    pages: &'a GpuPages<D::Memory>,
    out: &'a GpuOperand<D::Memory>,
}

impl<D: Device> Backend for GpuBackend<D> {
    type Matrix = GpuMatrix<D::Memory>;
    type Vector = GpuVector<D::Memory>;
    type Buffer = GpuBuffer<D::Memory>;
    type Operand = GpuOperand<D::Memory>;
    type Pages = GpuPages<D::Memory>;
    type Rope = GpuRope<D::Memory>;
    /// Absent after a failure.
    type Returning = Option<D::Returning>;

    fn arithmetic(&self, _weights: &[WeightType], _kv_cache: KvType) -> String {
        let invariant = if self.options.is_batch_invariant { "-invariant" } else { "" };
        let split = Sizes::split(self.options.positions);
        format!("{}-{}-split{split}{invariant}", self.device.arithmetic(), self.options.half.suffix())
    }

    fn reserve(&self, needs: &StepNeeds) -> std::result::Result<(), OpError> {
        let mut scratch = self.scratch();
        if scratch.as_ref().is_none_or(|have| !have.needs.cover(needs)) {
            // What is there makes room first.
            *scratch = None;
            self.recorder().forget();
            *scratch = Some(Scratch::new(&self.device, needs, self.padded(needs.rows))?);
        }
        Ok(())
    }

    fn reserved_bytes(&self, needs: &StepNeeds) -> u64 {
        Sizes::of(needs, self.padded(needs.rows)).bytes(Capacity::new(needs.rows, needs.positions)) + self.recordings_bytes()
    }

    fn taken_bytes(&self) -> std::result::Result<Option<u64>, OpError> {
        let taken = self.free_at_first.saturating_sub(self.device.free_bytes()?);
        Ok(Some(taken + self.recordings_bytes()))
    }

    fn is_done_at_once(&self) -> bool {
        false
    }

    fn begin_step(&self, batch: &PackedBatch) {
        self.drop_recording();
        let key = self.with_scratch(|scratch| {
            self.attempt(|| scratch.tables.upload(&self.device, batch, (scratch.group, scratch.answer_words)));
            self.step_key(scratch)
        });
        let mut recorder = self.recorder();
        recorder.begin(key);
        if matches!(recorder.mode, Mode::Record(_)) {
            self.attempt(|| self.device.begin_recording());
            if self.fault().is_some() {
                recorder.mode = Mode::Send;
            }
        }
    }

    fn end_forward(&self) {
        let mut recorder = self.recorder();
        let (key, is_new) = match std::mem::take(&mut recorder.mode) {
            Mode::Send => return,
            Mode::Record(key) => (key, true),
            Mode::Replay(key) => (key, false),
        };
        if is_new {
            // Also after a failure: the device is not to go on recording.
            let recording = self.device.end_recording();
            self.attempt(|| {
                recorder.kept.insert(key, recording?);
                Ok(())
            });
        }
        if let Some(recording) = recorder.kept.get(&key) {
            self.attempt(|| self.device.replay(recording));
        }
    }

    fn keep_memory(&self) {
        self.recorder().is_on = true;
    }

    #[cfg(test)]
    fn end_step(&self) -> std::result::Result<(), OpError> {
        self.attempt(|| self.device.wait());
        self.outcome()
    }

    fn matrix(&self, source: &TensorData<'_>, _rows: MatrixRows, stored: WeightType) -> std::result::Result<Self::Matrix, OpError> {
        if half_of(stored)? != self.options.half {
            return Err(OpError::Device(format!("weights in {stored}, where everything is {}", self.options.half.dtype())));
        }
        GpuMatrix::upload(&self.device, source, self.options.half)
    }

    fn stored_as(&self, _matrix: &Self::Matrix) -> WeightType {
        self.stored()
    }

    fn vector(&self, values: &[f32]) -> std::result::Result<Self::Vector, OpError> {
        Ok(GpuVector { memory: upload_values(&self.device, values, "gains")?, length: values.len() })
    }

    fn buffer(&self, rows: usize, width: usize) -> std::result::Result<Self::Buffer, OpError> {
        let values = self.padded(rows) * width;
        Ok(GpuBuffer { memory: self.device.allocate(values * size_of::<f32>(), "activations")?, values })
    }

    fn operand(&self, rows: usize, width: usize, _weights: &[WeightType]) -> std::result::Result<Self::Operand, OpError> {
        let values = self.padded(rows) * width;
        Ok(GpuOperand { memory: self.device.allocate(values * 2, "operands of products")?, values })
    }

    fn pages(&self, shape: PageShape) -> std::result::Result<Self::Pages, OpError> {
        let half = self.options.half.dtype();
        if shape.stored != KvType::Scalar(half) {
            return Err(OpError::Device(format!("a KV cache in {} beside weights in {half}: a GPU takes one type for both", shape.stored)));
        }
        let page = || self.device.allocate(shape.elements() * 2, "keys and values");
        Ok(GpuPages { shape, keys: page()?, values: page()? })
    }

    fn rope(&self, positions: usize, head_dim: usize, theta: f64) -> std::result::Result<Self::Rope, OpError> {
        let table = RopeTable::new(positions, head_dim, theta);
        let pairs = |p: usize| {
            let (cos, sin) = table.at(p);
            cos.iter().zip(sin).flat_map(|(&cos, &sin)| [cos, sin])
        };
        let values: Vec<f32> = (0..positions).flat_map(pairs).collect();
        Ok(GpuRope { memory: upload_values(&self.device, &values, "rotary tables")?, head_dim, positions })
    }

    fn embed(&self, table: &Self::Matrix, batch: &PackedBatch, out: &mut Self::Buffer) {
        assert!(batch.rows() * table.inputs <= out.values, "embedding of {} rows", batch.rows());
        let is_known = |&token: &u32| token & AWAITED_TOKEN != 0 || (token as usize) < table.outputs;
        assert!(batch.tokens().iter().all(is_known), "a token outside of the vocabulary");
        self.with_scratch(|scratch| {
            let (tokens, answers) = (Arg::At(scratch.tables.tokens()), start(&scratch.answers));
            let args = [start(&table.memory), tokens, answers, start(&out.memory), int(table.inputs)];
            let (kernel, grid) = (self.kernel(Operation::Embed), [batch.rows() as u32, 1, 1]);
            self.send(&Call { kernel, grid, threads: ROW_THREADS, args: &args });
        });
    }

    fn rms_norm(&self, x: &Self::Buffer, (gain, eps): (&Self::Vector, f32), rows: usize, (out, _): Target<'_, Self>) {
        let width = gain.length;
        assert!(rows * width <= x.values && rows * width <= out.values, "RMSNorm of {rows} rows");
        let args = [start(&x.memory), start(&gain.memory), Arg::Float(eps), start(&out.memory), int(width)];
        let (kernel, grid) = (self.kernel(Operation::RmsNorm), [rows as u32, 1, 1]);
        self.send(&Call { kernel, grid, threads: WIDE_THREADS, args: &args });
    }

    fn linear(&self, weight: &Self::Matrix, x: &Self::Operand, rows: usize, out: &mut Self::Buffer) {
        self.product(weight, x, rows, (out, false));
    }

    fn linear_add(&self, weight: &Self::Matrix, x: &Self::Operand, rows: usize, residual: &mut Self::Buffer) {
        self.product(weight, x, rows, (residual, true));
    }

    fn linear_swiglu(&self, weight: &Self::Matrix, x: &Self::Operand, rows: usize, (out, _): Target<'_, Self>) {
        self.activated((weight, weight.outputs / 2), x, rows, (Operation::Swiglu, out));
    }

    fn linear_silu(&self, weight: &Self::Matrix, x: &Self::Operand, rows: usize, (out, _): Target<'_, Self>) {
        self.activated((weight, weight.outputs), x, rows, (Operation::Silu, out));
    }

    fn qk_norm_rope_store(
        &self,
        qkv: &mut Self::Buffer,
        (shape, norm): (AttentionShape, Option<QkNorm<'_, Self>>),
        rope: &Self::Rope,
        batch: &PackedBatch,
        pages: &mut Self::Pages,
    ) {
        let rows = batch.rows();
        assert!(rows * shape.qkv_width() <= qkv.values && rope.head_dim == shape.head_dim, "q, k, v of {rows} rows");
        self.with_scratch(|scratch| {
            check(shape, &scratch.tables, pages);
            assert!(scratch.tables.last_position < rope.positions, "a position beyond the rotary tables");
            let args = [
                start(&qkv.memory),
                // Without gains any memory will do in their place.
                start(norm.as_ref().map_or(&rope.memory, |norm| &norm.q.memory)),
                start(norm.as_ref().map_or(&rope.memory, |norm| &norm.k.memory)),
                int(usize::from(norm.is_some())),
                Arg::Float(norm.as_ref().map_or(0.0, |norm| norm.eps)),
                start(&rope.memory),
                Arg::At(scratch.tables.positions()),
                Arg::At(scratch.tables.slots()),
                start(&pages.keys),
                start(&pages.values),
                int(shape.q_heads),
                int(shape.kv_heads),
            ];
            let heads = shape.q_heads + 2 * shape.kv_heads;
            let grid = [rows as u32, heads.div_ceil(WARPS) as u32, 1];
            let kernel = self.attention_kernel(Operation::QkNormRopeStore, shape, 0);
            self.send(&Call { kernel, grid, threads: HEAD_THREADS, args: &args });
        });
    }

    fn paged_attention(
        &self,
        qkv: &Self::Buffer,
        shape: AttentionShape,
        batch: &PackedBatch,
        pages: &Self::Pages,
        (out, _): Target<'_, Self>,
    ) {
        let rows = batch.rows();
        assert!(rows * shape.qkv_width() <= qkv.values && rows * shape.q_heads * shape.head_dim <= out.values, "attention of {rows} rows");
        let attention = Attention { qkv, shape, pages, out };
        self.with_scratch(|scratch| {
            check(shape, &scratch.tables, pages);
            assert!(shape.group() <= scratch.group, "{} query heads a kv head, the step was cut for {}", shape.group(), scratch.group);
            let (singles, pieces, wanted) =
                (scratch.tables.singles, scratch.tables.pieces, scratch.tables.last_position / scratch.split + 1);
            assert!(wanted <= scratch.max_splits, "{wanted} splits of a context, room for {}", scratch.max_splits);
            // A recording serves contexts of any length; blocks without work return at once.
            let is_recorded = self.recorder().mode != Mode::Send;
            let splits = if is_recorded && wanted > 1 { scratch.max_splits } else { wanted };
            self.attend(scratch, (singles, 1), &attention, splits);
            self.attend(scratch, (pieces, MOST_QUERIES / WARPS), &attention, splits);
            if splits > 1 {
                self.merge(scratch, &attention);
            }
        });
    }

    fn logits(&self, head: &Self::Matrix, x: &Self::Operand, (rows, room): (&[u32], &mut Self::Operand), out: &mut [f32]) {
        self.logits_to_host(&Head { matrix: head, x, room }, rows, out);
    }

    fn task_limits(&self, rows: usize, vocabulary: usize) -> Option<TaskLimits> {
        Some(TaskLimits::new(rows, vocabulary))
    }

    fn answer(&self, head: &Self::Matrix, x: &Self::Operand, room: &mut Self::Operand, tasks: &mut RowTasks) {
        self.answer_tasks(&Head { matrix: head, x, room }, tasks);
    }

    fn send_back(&self, tasks: &RowTasks) -> Self::Returning {
        let mut returning = None;
        self.with_scratch(|scratch| {
            let bytes = tasks.len() * tasks.answer_words() * size_of::<u32>();
            self.attempt(|| {
                returning = Some(self.device.send_back(At::start(&scratch.answers), bytes)?);
                Ok(())
            });
        });
        returning
    }

    fn receive(&self, returning: Self::Returning, tasks: &mut RowTasks) -> std::result::Result<(), OpError> {
        // What was sent without a failure is told, whatever became of a later step.
        let Some(returning) = returning else { return self.outcome() };
        let received = self.device.receive(returning, bytes_of_mut(tasks.answers_mut()));
        if let Err(error) = &received {
            self.fault().get_or_insert_with(|| error.clone());
        }
        Ok(received?)
    }

    fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        self.host.for_each(count, task);
    }

    fn poison(&self, pages: &mut Self::Pages, blocks: &[u32]) {
        let width = pages.shape.block_size * pages.shape.kv_heads * pages.shape.head_dim;
        let poison = self.options.half.bytes(f32::NAN).repeat(width);
        for &block in blocks {
            for memory in [&pages.keys, &pages.values] {
                self.attempt(|| self.device.upload(&poison, At { memory, offset: block as usize * width * 2 }));
            }
        }
    }

    #[cfg(test)]
    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        self.attempt(|| self.device.upload(&bytes, At::start(&buffer.memory)));
    }

    #[cfg(test)]
    fn read(&self, buffer: &Self::Buffer, count: usize) -> Vec<f32> {
        self.end_step().expect("the step succeeded");
        download_values(&self.device, &buffer.memory, count).expect("the device answers")
    }

    #[cfg(test)]
    fn write_operand(&self, (operand, _): Target<'_, Self>, _width: usize, values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|&value| self.options.half.bytes(value)).collect();
        self.attempt(|| self.device.upload(&bytes, At::start(&operand.memory)));
    }

    fn read_operand(&self, operand: &Self::Operand, rows: usize, width: usize) -> Vec<f32> {
        let found = download_halves(&self.device, &operand.memory, self.options.half, rows * width);
        found.unwrap_or_else(|error| {
            self.attempt(|| Err(error));
            vec![f32::NAN; rows * width]
        })
    }
}

/// What the kernels rely on.
fn check<D: Device>(shape: AttentionShape, tables: &StepTables<D>, pages: &GpuPages<D::Memory>) {
    assert!(HEAD_DIMS.contains(&shape.head_dim), "heads of {}: kernels are built for 32, 64 and 128", shape.head_dim);
    assert!(shape.kv_heads > 0 && shape.q_heads.is_multiple_of(shape.kv_heads), "{} heads over {}", shape.q_heads, shape.kv_heads);
    assert!(shape.group() <= MOST_QUERIES, "{} query heads a kv head", shape.group());
    let page = pages.shape;
    assert_eq!((page.head_dim, page.kv_heads, page.block_size), (shape.head_dim, shape.kv_heads, tables.block_size), "other pages");
    assert!(tables.last_block < page.num_blocks, "block {} of {}", tables.last_block, page.num_blocks);
}
