//! The decoder in plain candle tensor operations, without cache or batching: the oracle of the backends.

use crate::model::openelm::OpenElmConfig;
use crate::model::{ModelFiles, ModelSource, TokenizerSource};
use candle_core::{D, DType, Device, Result, Tensor};
use std::collections::HashMap;

/// All weights as f32 tensors.
pub(super) struct Oracle {
    config: OpenElmConfig,
    weights: HashMap<String, Tensor>,
}

impl Oracle {
    pub(super) fn load(files: &ModelFiles) -> Result<Self> {
        let config = files.config().expect("config");
        let mut weights = HashMap::new();
        for name in files.checkpoint.names() {
            let tensor = files.checkpoint.get(name).expect("dtype").expect("present");
            let values = tensor.data().expect("matrix").to_f32();
            weights.insert(name.to_string(), Tensor::from_vec(values, tensor.shape.clone(), &Device::Cpu)?);
        }
        Ok(Self { config, weights })
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        x.matmul(&self.weights[name].t()?)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        candle_nn::ops::rms_norm(&x.contiguous()?, &self.weights[name], self.config.norm_eps)
    }

    /// `[positions, head_dim / 2]` cosines and sines.
    fn rope_tables(&self, positions: usize) -> Result<(Tensor, Tensor)> {
        let half = self.config.head_dim / 2;
        let theta = self.config.rope_theta;
        let angle = |p: usize, j: usize| (p as f64 * theta.powf(-((2 * j) as f64) / self.config.head_dim as f64)) as f32;
        let angles: Vec<f32> = (0..positions).flat_map(|p| (0..half).map(move |j| angle(p, j))).collect();
        let angles = Tensor::from_vec(angles, (positions, half), &Device::Cpu)?;
        Ok((angles.cos()?, angles.sin()?))
    }

    /// Logits `[positions, vocab]`.
    pub(super) fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        let (c, t) = (&self.config, ids.len());
        let (cos, sin) = self.rope_tables(t)?;
        let mask: Vec<f32> = (0..t).flat_map(|i| (0..t).map(move |j| if j <= i { 0.0 } else { f32::NEG_INFINITY })).collect();
        let mask = Tensor::from_vec(mask, (t, t), &Device::Cpu)?;
        let mut x = self.weights["transformer.token_embeddings.weight"].index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        for i in 0..c.layers.len() {
            let name = |part: &str| format!("transformer.layers.{i}.{part}.weight");
            let (shape, f) = (c.attention(i), c.layers[i].ffn_dim);
            let qkv = self.linear(&self.norm(&x, &name("attn_norm"))?, &name("attn.qkv_proj"))?;
            let qkv = qkv.reshape((t, shape.q_heads + 2 * shape.kv_heads, c.head_dim))?;
            let (mut q, mut k) = (qkv.narrow(1, 0, shape.q_heads)?, qkv.narrow(1, shape.q_heads, shape.kv_heads)?);
            let v = qkv.narrow(1, shape.q_heads + shape.kv_heads, shape.kv_heads)?;
            if c.normalize_qk {
                (q, k) = (self.norm(&q, &name("attn.q_norm"))?, self.norm(&k, &name("attn.k_norm"))?);
            }
            let heads_first = |x: &Tensor| x.transpose(0, 1)?.unsqueeze(0)?.contiguous();
            let q = candle_nn::rotary_emb::rope(&heads_first(&q)?, &cos, &sin)?.squeeze(0)?;
            let k = candle_nn::rotary_emb::rope(&heads_first(&k)?, &cos, &sin)?.squeeze(0)?;
            let spread = |x: &Tensor| {
                let wide = x.unsqueeze(1)?.expand((shape.kv_heads, shape.group(), t, c.head_dim))?;
                wide.contiguous()?.reshape((shape.q_heads, t, c.head_dim))
            };
            let (k, v) = (spread(&k)?, spread(&v.transpose(0, 1)?.contiguous()?)?);
            let scores = (q.matmul(&k.t()?.contiguous()?)? / (c.head_dim as f64).sqrt())?.broadcast_add(&mask)?;
            let attended = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
            let attended = attended.transpose(0, 1)?.contiguous()?.reshape((t, shape.q_heads * c.head_dim))?;
            x = (x + self.linear(&attended, &name("attn.out_proj"))?)?;
            let wide = self.linear(&self.norm(&x, &name("ffn_norm"))?, &name("ffn.proj_1"))?;
            let active = if c.ffn_with_glu { (wide.narrow(1, 0, f)?.silu()? * wide.narrow(1, f, f)?)? } else { wide.silu()? };
            x = (x + self.linear(&active, &name("ffn.proj_2"))?)?;
        }
        let head = if c.tied_head { "transformer.token_embeddings.weight" } else { "lm_head.weight" };
        self.linear(&self.norm(&x, "transformer.norm.weight")?, head)?.to_dtype(DType::F32)
    }
}

#[test]
fn backends_agree_with_plain_candle_operations_on_the_demo_model() {
    use crate::ops::{DType, cpu::CpuBackend, reference::ReferenceBackend};
    let files = ModelFiles::open(&ModelSource::Embedded, TokenizerSource::Model).unwrap();
    let ids: Vec<u32> = (0..150u32).map(|i| 3 + i * 37 % 3000).collect();
    let wanted = Oracle::load(&files).unwrap().forward(&ids).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let cpu = super::golden::all_logits(
        CpuBackend::new(crate::ops::cpu::CpuKernels::Portable, 2).unwrap(),
        &files,
        (DType::F32, DType::F32),
        &[(&ids, 150)],
    );
    let reference = super::golden::all_logits(ReferenceBackend, &files, (DType::F32, DType::F32), &[(&ids, 150)]);
    for found in [&cpu[0], &reference[0]] {
        let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "logits differ by {worst}");
    }
}
