//! How much a step must read and compute at least, and which limit of the machine its arithmetic has.

use super::report::{Instruction, Limits};
use super::statistics::Summary;
use crate::model::openelm::OpenElmConfig;
use crate::ops::WeightType;
use crate::ops::cpu::limits::LimitRound;
use crate::runner::paged::ModelInfo;

/// The arithmetic of `vdpbf16ps`; every other one multiplies f32, where it does not multiply bytes.
const DOT_ARITHMETIC: &str = "cpu-bf16dot";

/// What a step of the model costs at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Work {
    /// Parameters that every row is multiplied with.
    layers: f64,
    /// Parameters that a row is multiplied with whose logits are wanted.
    head: f64,
    /// Bytes of both.
    pub(super) weight_bytes: f64,
    /// Bytes of keys and values of one token.
    kv_bytes: f64,
}

impl Work {
    /// Of a model as it was loaded.
    pub(super) fn of(config: &OpenElmConfig, info: &ModelInfo) -> Self {
        let (layers, head) = (config.layer_matrix_parameters() as f64, config.head_parameters() as f64);
        let bytes_per_parameter = info.weight_bytes as f64 / info.parameters as f64;
        Self { layers, head, weight_bytes: (layers + head) * bytes_per_parameter, kv_bytes: info.kv_bytes_per_token as f64 }
    }

    /// Operations of the matrices for `rows` rows, of which `logits` get logits. Attention is not counted.
    pub(super) fn flops(&self, rows: usize, logits: usize) -> f64 {
        2.0 * (self.layers * rows as f64 + self.head * logits as f64)
    }

    /// Bytes that one step of decode reads for `sequences` of `context` tokens each.
    pub(super) fn bytes(&self, sequences: usize, context: usize) -> f64 {
        self.weight_bytes + self.kv_bytes * (sequences * context) as f64
    }
}

/// What multiplies and adds in the products with most weights of a model.
pub(super) fn instruction(info: &ModelInfo) -> Instruction {
    match info.weight_types.first() {
        Some(WeightType::Blocks(_)) => Instruction::Int8Dot,
        _ if info.product_arithmetic == DOT_ARITHMETIC => Instruction::Bf16Dot,
        _ => Instruction::F32Fma,
    }
}

impl Instruction {
    /// Operations a second at most.
    pub(super) fn peak(self, limits: &LimitRound) -> f64 {
        match self {
            Self::F32Fma => limits.f32_fma_flops,
            // A kernel that uses the instruction was chosen because the CPU has it.
            Self::Bf16Dot => limits.bf16_dot_flops.unwrap_or(limits.f32_fma_flops),
            Self::Int8Dot => limits.int8_dot_ops.unwrap_or(limits.f32_fma_flops),
        }
    }

    /// The same over all rounds, 10^9 operations a second.
    pub(super) fn gflops(self, limits: &Limits) -> Option<&Summary> {
        match self {
            Self::F32Fma => Some(&limits.f32_fma_gflops),
            Self::Bf16Dot => limits.bf16_dot_gflops.as_ref(),
            Self::Int8Dot => limits.int8_dot_gops.as_ref(),
        }
    }

    /// Its name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32Fma => "f32 FMA",
            Self::Bf16Dot => "vdpbf16ps",
            Self::Int8Dot => "8-bit products",
        }
    }
}

#[cfg(test)]
impl Work {
    /// Of so many parameters in layers and head, and bytes of both and of a token's keys and values.
    pub(super) fn new((layers, head): (f64, f64), weight_bytes: f64, kv_bytes: f64) -> Self {
        Self { layers, head, weight_bytes, kv_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModelFiles, ModelSource, TokenizerSource};
    use crate::ops::cpu::CpuBackend;
    use crate::ops::{Backend as _, BlockFormat, DType};
    use crate::runner::paged::{RunnerOptions, load};

    const LIMITS: LimitRound = LimitRound { read_bytes_per_s: 1.0, f32_fma_flops: 2.0, bf16_dot_flops: Some(3.0), int8_dot_ops: None };

    #[test]
    fn rows_and_logits_are_counted_apart() {
        let work = Work::new((100.0, 10.0), 220.0, 4.0);
        assert_eq!((work.flops(1, 1), work.flops(512, 1)), (220.0, 102_420.0));
        assert_eq!((work.bytes(1, 0), work.bytes(2, 8)), (220.0, 284.0));
    }

    #[test]
    fn the_arithmetic_of_products_tells_the_instruction() {
        let arithmetic = |backend: &CpuBackend, weights: DType| backend.arithmetic(&[weights.into()], DType::F32.into());
        let instruction = |product_arithmetic: String| super::instruction(&ModelInfo { product_arithmetic, ..info() });
        for backend in CpuBackend::portable_variants(1) {
            let found = [DType::F32, DType::Bf16, DType::F16].map(|weights| instruction(arithmetic(&backend, weights)));
            assert_eq!(found, [Instruction::F32Fma; 3]);
        }
        for backend in CpuBackend::dot_variants(1) {
            let found = [DType::F32, DType::Bf16, DType::F16].map(|weights| instruction(arithmetic(&backend, weights)));
            assert_eq!(found, [Instruction::F32Fma, Instruction::Bf16Dot, Instruction::F32Fma]);
        }
        let mixed = |weight_types| super::instruction(&ModelInfo { weight_types, ..info() });
        assert_eq!(mixed(vec![BlockFormat::Q4_0.into(), DType::Bf16.into()]), Instruction::Int8Dot);
        assert_eq!(mixed(vec![DType::F32.into(), BlockFormat::Q4_0.into()]), Instruction::F32Fma);
        assert_eq!([Instruction::F32Fma, Instruction::Bf16Dot].map(|instruction| instruction.peak(&LIMITS)), [2.0, 3.0]);
    }

    fn info() -> ModelInfo {
        let files = ModelFiles::open(&ModelSource::Embedded, TokenizerSource::Model).expect("the embedded model");
        load(&files, &RunnerOptions::default()).expect("loaded").1
    }
}
