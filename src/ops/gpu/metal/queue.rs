//! The queue of a Metal device: dispatches go into one open command buffer, one after another, and are sent when it is full or someone waits.

use super::memory::{MetalMemory, Object, check};
use super::{call, pipelines::Pipeline};
use crate::ops::gpu::device::{Arg, At, DeviceError};
use objc2_metal::{
    MTLBlitCommandEncoder, MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandEncoder, MTLCommandQueue, MTLComputeCommandEncoder, MTLSize,
};
use std::collections::VecDeque;
use std::ptr::NonNull;

/// Dispatches of a command buffer: enough that sending one costs little beside them, few enough that the GPU starts while most of a step is
/// still being encoded.
const MOST_DISPATCHES: usize = 64;

/// See the module.
pub(super) struct Queue {
    queue: Object<dyn MTLCommandQueue>,
    open: Option<Open>,
    /// Sent, and not known to have ended.
    sent: VecDeque<Object<dyn MTLCommandBuffer>>,
    /// How many were sent in all.
    count: u64,
}

// SAFETY: Metal's objects belong to no thread; command buffers and encoders must not be used by two at a time, and whoever has the queue, has it
// alone.
unsafe impl Send for Queue {}

/// A command buffer that is being filled.
struct Open {
    buffer: Object<dyn MTLCommandBuffer>,
    /// Its dispatches run in their order: the encoder is a serial one.
    encoder: Option<Object<dyn MTLComputeCommandEncoder>>,
    dispatches: usize,
}

impl Open {
    fn encoder(&mut self) -> Result<&Object<dyn MTLComputeCommandEncoder>, DeviceError> {
        if self.encoder.is_none() {
            self.encoder = Some(self.buffer.computeCommandEncoder().ok_or_else(|| call("computeCommandEncoder", "refused"))?);
        }
        Ok(self.encoder.as_ref().expect("made above"))
    }

    /// Ends what was encoded so far: Metal takes no new encoder, and no end of the buffer, before that.
    fn end_encoding(&mut self) {
        if let Some(encoder) = self.encoder.take() {
            encoder.endEncoding();
        }
    }
}

impl Queue {
    pub(super) fn new(queue: Object<dyn MTLCommandQueue>) -> Self {
        Self { queue, open: None, sent: VecDeque::new(), count: 0 }
    }

    /// Whether nothing that was asked for can still be going on.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() && self.sent.is_empty()
    }

    fn open(&mut self) -> Result<&mut Open, DeviceError> {
        if self.open.is_none() {
            let buffer = self.queue.commandBuffer().ok_or_else(|| call("commandBuffer", "refused"))?;
            self.open = Some(Open { buffer, encoder: None, dispatches: 0 });
        }
        Ok(self.open.as_mut().expect("made above"))
    }

    /// Sends the open command buffer. Returns the number of the last one that was sent.
    pub(super) fn commit(&mut self) -> u64 {
        if let Some(mut open) = self.open.take() {
            open.end_encoding();
            open.buffer.commit();
            self.sent.push_back(open.buffer);
            self.count += 1;
        }
        self.count
    }

    /// Waits for all that was asked for, and tells the first failure of it.
    pub(super) fn wait(&mut self) -> Result<(), DeviceError> {
        let last = self.commit();
        self.wait_for(last)
    }

    /// Waits for what was sent up to command buffer `number`, and tells the first failure of it.
    pub(super) fn wait_for(&mut self, number: u64) -> Result<(), DeviceError> {
        let ended = self.count - self.sent.len() as u64;
        let mut outcome = Ok(());
        for buffer in self.sent.drain(..number.saturating_sub(ended) as usize) {
            buffer.waitUntilCompleted();
            outcome = outcome.and(outcome_of(&buffer));
        }
        outcome
    }

    /// Encodes a dispatch.
    pub(super) fn send(
        &mut self,
        pipeline: &Pipeline,
        (grid, threads): ([u32; 3], u32),
        args: &[Arg<'_, MetalMemory>],
    ) -> Result<(), DeviceError> {
        let open = self.open()?;
        let encoder = open.encoder()?;
        encoder.setComputePipelineState(&pipeline.state);
        for (index, arg) in args.iter().enumerate() {
            set(encoder, index, arg);
        }
        let [x, y, z] = grid.map(|blocks| blocks as usize);
        let block = MTLSize { width: threads as usize, height: 1, depth: 1 };
        // The kernel takes these arguments, as its file says; the backend checks that its memory holds what the grid touches.
        encoder.dispatchThreadgroups_threadsPerThreadgroup(MTLSize { width: x, height: y, depth: z }, block);
        self.note_dispatch();
        Ok(())
    }

    /// Counts what was encoded, and sends the command buffer if it is full.
    fn note_dispatch(&mut self) {
        if let Some(open) = &mut self.open {
            open.dispatches += 1;
            if open.dispatches == MOST_DISPATCHES {
                self.commit();
            }
        }
    }

    /// Copies `bytes` bytes, after what was sent before.
    pub(super) fn copy(&mut self, from: At<'_, MetalMemory>, to: At<'_, MetalMemory>, bytes: usize) -> Result<(), DeviceError> {
        let open = self.open()?;
        open.end_encoding();
        let encoder = open.buffer.blitCommandEncoder().ok_or_else(|| call("blitCommandEncoder", "refused"))?;
        // SAFETY: the caller has checked both ranges; the command buffer keeps both buffers until it has ended.
        unsafe {
            let (source, target) = (from.memory.buffer(), to.memory.buffer());
            encoder.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(source, from.offset, target, to.offset, bytes);
        }
        encoder.endEncoding();
        self.note_dispatch();
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // An encoder must not go without its end.
        if let Some(open) = &mut self.open {
            open.end_encoding();
        }
    }
}

fn outcome_of(buffer: &Object<dyn MTLCommandBuffer>) -> Result<(), DeviceError> {
    if buffer.status() != MTLCommandBufferStatus::Error {
        return Ok(());
    }
    let detail = buffer.error().map_or_else(|| "failed, without a reason".to_owned(), |error| error.localizedDescription().to_string());
    Err(call("the GPU", detail))
}

/// Gives the next dispatch its argument `index`.
fn set(encoder: &Object<dyn MTLComputeCommandEncoder>, index: usize, arg: &Arg<'_, MetalMemory>) {
    let number = |bytes: &[u8; 4]| {
        // SAFETY: Metal copies so many bytes before the call returns.
        unsafe { encoder.setBytes_length_atIndex(NonNull::from(bytes).cast(), bytes.len(), index) }
    };
    match arg {
        Arg::At(at) => {
            check(*at, 0);
            // SAFETY: the offset is in the memory, which the command buffer keeps until it has ended.
            unsafe { encoder.setBuffer_offset_atIndex(Some(at.memory.buffer()), at.offset, index) }
        }
        Arg::Int(int) => number(&int.to_ne_bytes()),
        Arg::Float(float) => number(&float.to_ne_bytes()),
    }
}
