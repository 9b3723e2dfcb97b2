//! Logits, and what is wanted of them, as launches.

use super::backend::{Call, int, start};
use super::device::{Arg, At, Device, Operation};
use super::matrix::GpuMatrix;
use super::memory::{GpuOperand, bytes_of, bytes_of_mut};
use super::{GpuBackend, LOGIT_ROWS, Scratch};
#[cfg(test)]
use crate::ops::Backend;
use crate::ops::{RowTasks, TASK_WORDS};

/// Threads of a block that puts rows together.
const ROW_THREADS: u32 = 128;
/// Threads of a block that answers a task.
pub(super) const CHOOSE_THREADS: u32 = 1024;

/// What logits are made of.
pub(super) struct Head<'a, D: Device> {
    pub(super) matrix: &'a GpuMatrix<D::Memory>,
    /// All rows of the step.
    pub(super) x: &'a GpuOperand<D::Memory>,
    /// For rows that are put together.
    pub(super) room: &'a GpuOperand<D::Memory>,
}

impl<D: Device> Head<'_, D> {
    /// Rows of logits that can be computed at once.
    fn at_once(&self) -> usize {
        (self.room.values / self.matrix.inputs.max(1)).clamp(1, LOGIT_ROWS)
    }

    /// # Panics
    /// When a row is not there.
    fn check(&self, rows: &[u32]) {
        assert!(rows.iter().all(|&row| (row as usize + 1) * self.matrix.inputs <= self.x.values), "logits of a row that is not there");
    }
}

/// Where tasks are on the device, in words, and what they are about.
struct TaskPlaces {
    first_task: usize,
    first_extra: usize,
    answer_words: usize,
    vocabulary: usize,
}

impl<D: Device> GpuBackend<D> {
    /// Logits of rows, to the host.
    pub(super) fn logits_to_host(&self, head: &Head<'_, D>, rows: &[u32], out: &mut [f32]) {
        head.check(rows);
        for (rows, out) in rows.chunks(head.at_once()).zip(out.chunks_mut(head.at_once() * head.matrix.outputs)) {
            self.some_logits(head, rows, out);
        }
    }

    /// Sends tasks about rows of logits.
    pub(super) fn answer_tasks(&self, head: &Head<'_, D>, tasks: &mut RowTasks) {
        head.check(tasks.rows());
        self.with_scratch(|scratch| {
            let needs = &scratch.needs;
            assert!(tasks.len() <= needs.rows && head.matrix.outputs == needs.vocabulary, "{} tasks, {needs:?}", tasks.len());
            scratch.answer_words = tasks.answer_words();
            let places = self.send_tasks(scratch, tasks, head.matrix.outputs);
            for first in (0..tasks.len()).step_by(head.at_once()) {
                let count = head.at_once().min(tasks.len() - first);
                let rows = At { memory: &scratch.tasks, offset: first * size_of::<u32>() };
                self.send_logits(scratch, head, (rows, count));
                self.send_answers(scratch, &places, (first, count));
            }
        });
    }

    /// Sends the logits of `count` rows, at most [`LOGIT_ROWS`], whose indices are at `rows`.
    fn send_logits(&self, scratch: &Scratch<D>, head: &Head<'_, D>, (rows, count): (At<'_, D::Memory>, usize)) {
        let Head { matrix, x, room } = *head;
        let args = [start(&x.memory), Arg::At(rows), start(&room.memory), int(matrix.inputs)];
        let (kernel, grid) = (self.kernel(Operation::Gather), [count as u32, 1, 1]);
        self.send(&Call { kernel, grid, threads: ROW_THREADS, args: &args });
        self.multiply(matrix, room, count, (&scratch.logits, false));
    }

    /// Logits of up to [`LOGIT_ROWS`] rows, to the host.
    fn some_logits(&self, head: &Head<'_, D>, rows: &[u32], out: &mut [f32]) {
        self.with_scratch(|scratch| {
            self.attempt(|| self.device.upload(bytes_of(rows), At::start(&scratch.chosen)));
            self.send_logits(scratch, head, (At::start(&scratch.chosen), rows.len()));
            self.attempt(|| self.device.download(At::start(&scratch.logits), bytes_of_mut(out)));
        });
    }

    /// Sends the answers to `count` tasks, from number `first` on, about the logits that are there.
    fn send_answers(&self, scratch: &Scratch<D>, tasks: &TaskPlaces, (first, count): (usize, usize)) {
        let at = |memory, words: usize| Arg::At(At { memory, offset: words * size_of::<u32>() });
        let args = [
            start(&scratch.logits),
            at(&scratch.tasks, tasks.first_task + first * TASK_WORDS),
            at(&scratch.tasks, tasks.first_extra),
            at(&scratch.answers, first * tasks.answer_words),
            int(tasks.vocabulary),
            int(tasks.answer_words),
        ];
        let kernel = self.kernel(Operation::Choose);
        self.send(&Call { kernel, grid: [count as u32, 1, 1], threads: CHOOSE_THREADS, args: &args });
    }

    /// Uploads tasks; where they are.
    fn send_tasks(&self, scratch: &Scratch<D>, tasks: &mut RowTasks, vocabulary: usize) -> TaskPlaces {
        let answer_words = tasks.answer_words();
        let (words, first_task, first_extra) = tasks.upload();
        self.attempt(|| self.device.upload(bytes_of(words), At::start(&scratch.tasks)));
        TaskPlaces { first_task, first_extra, answer_words, vocabulary }
    }

    /// Answers tasks about these logits, one row each.
    #[cfg(test)]
    pub(crate) fn answer_from(&self, logits: &[f32], tasks: &mut RowTasks) {
        self.with_scratch(|scratch| {
            let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_ne_bytes()).collect();
            self.attempt(|| self.device.upload(&bytes, At::start(&scratch.logits)));
            let places = self.send_tasks(scratch, tasks, logits.len() / tasks.len());
            self.send_answers(scratch, &places, (0, tasks.len()));
        });
        let returning = self.send_back(tasks);
        self.receive(returning, tasks).expect("the device answers");
    }
}
