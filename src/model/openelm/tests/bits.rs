//! The bits of all logits, recorded once: every instruction set of every processor must give them, and no change of the arithmetic passes
//! unseen. `tests/aarch64.sh` runs this under an emulator.

use super::golden::{Bench, argmax, open};
use crate::model::{ModelFiles, ModelSource, Storage, TokenizerSource};
use crate::ops::cpu::CpuBackend;
use crate::ops::{Backend, BlockFormat, DType, KvType};

/// What [`Backend::arithmetic`] calls the arithmetic that gives [`RECORDED`], and the one that gives [`RECORDED_DOT`].
const ARITHMETIC: &str = "cpu-f32fma";
const DOT_ARITHMETIC: &str = "cpu-bf16dot";
const BYTE_ARITHMETIC: &str = "cpu-f32fma-int8";

/// (model, blocks of weights, dtype of the KV cache, hash as in [`RECORDED`]). What blocks do not divide is f32.
const RECORDED_BLOCKS: [(&str, BlockFormat, DType, &str); 5] = [
    ("tiny-hd64-gqa4", BlockFormat::Q8_0, DType::F32, "a2f68766a3c051a230f111269c9bd52ad460f6570732f5aeb137f08e5d1c99ef"),
    ("tiny-hd64-gqa4", BlockFormat::Q4_0, DType::F32, "3f6d74050f10a1b3bb6b3dc0e31a0a5a5f1609820bf2a2d12f76957ecc509a2a"),
    ("tiny-hd32-gqa2", BlockFormat::Q8_0, DType::Bf16, "ad049eb6d173120f1ab7d229caf89957a19c2c9e648c7ddff093cc2ca879482c"),
    ("embedded", BlockFormat::Q8_0, DType::F32, "59f6f7eade7fec16c5b87c64103733ae14a701775d73bf533e0b03c3689cb0a4"),
    ("embedded", BlockFormat::Q4_0, DType::F16, "d53e3236ea821401e8610e0e8bbaa080adbc8959e227258cf5c9ac666e90aa35"),
];

/// (model, dtype of weights, hash as in [`RECORDED`]), with a KV cache of 8 bits.
const RECORDED_INT8_KV: [(&str, DType, &str); 3] = [
    ("tiny-hd64-gqa4", DType::F32, "a991e22a729dadda7746332a8774fb3c6d0c599a38bd9c7c844c3fd77a6160cd"),
    ("tiny-hd32-gqa2", DType::Bf16, "e988f33c950b610ad359c160c546e6de3dc8b3a8cf6b21ffcafcb5fcb104986e"),
    ("embedded", DType::Bf16, "14ff8d589de5bbbca29c4371bd9045e19580fd737c0494eb9197375f778d9858"),
];

/// As [`RECORDED`], in the arithmetic of `vdpbf16ps`, which every instruction set has spelled out.
const RECORDED_DOT: [(&str, DType, DType, &str); 4] = [
    ("tiny-hd64-gqa4", DType::Bf16, DType::Bf16, "68c1f635dfe72cf85ace25d1e97d2dd38b086451bfd85afb6374830f61277821"),
    ("tiny-hd64-gqa4", DType::F32, DType::Bf16, "cb3b446c8073ac85b7c2f892ddb4901980d1b5dec589c4a2168dcb4229d052e3"),
    ("tiny-hd32-gqa2", DType::Bf16, DType::F32, "b2711d64fdaf376532467d3fc22ea841361431eb523dcfe76d3d5053849ed057"),
    ("embedded", DType::Bf16, DType::Bf16, "8f2e7802a86b44d7e54a43c22103dd50a8226a5bbba74ffdca5e1872fa56a541"),
];

/// (model, dtype of weights, dtype of the KV cache, BLAKE3 of the bits of all logits as little-endian f32).
const RECORDED: [(&str, DType, DType, &str); 20] = [
    ("tiny-hd64-gqa4", DType::Bf16, DType::Bf16, "04e3de606a00fdce11e8b21bfe0a26addb58c9dbdd0d7115edc8cd083a194f61"),
    ("tiny-hd64-gqa4", DType::Bf16, DType::F32, "10c98be0ff25ef075677228e6cbe7cfaa333777f287c76b706bb46ae2033f477"),
    ("tiny-hd64-gqa4", DType::F32, DType::Bf16, "a0a4b3d3a41155512994496b2afa55f0635b3f1bd69dae8567d50e18c6ea6653"),
    ("tiny-hd64-gqa4", DType::F32, DType::F32, "865b9c8f55e5c168b77029bbc43ac28d6088b7df7df530ceae4e11cc45cb867b"),
    ("tiny-hd64-gqa4", DType::F16, DType::F16, "d6496e886610c1f29ef6d623b3bb2f045a8604690e60e93ff376d143c0161902"),
    ("tiny-hd32-gqa2", DType::Bf16, DType::Bf16, "9c6f4c439c6d5ac2f805495b7e6ad6d34680925b4b1b7e7048a06ccf30b82fd9"),
    ("tiny-hd32-gqa2", DType::Bf16, DType::F32, "5d94470eadefb2756b46de7f6e69a49ffd16877711e9ede45b5c7b2e537711f7"),
    ("tiny-hd32-gqa2", DType::F32, DType::Bf16, "71b5c857138c62ccc0b3c029fa478663aee802e3930192263946f62d3913d8aa"),
    ("tiny-hd32-gqa2", DType::F32, DType::F32, "0652fbe19cd95f5df01e42a8ec449b4ff19b63806d390262117670db5e29ffcb"),
    ("tiny-hd32-gqa2", DType::F16, DType::F16, "49466e82f118bb707805789dba49abcab9b6cd776548b7ac95045534e14b1052"),
    ("tiny-hd64-gqa4-bf16", DType::Bf16, DType::Bf16, "ef2dc4fa33a645780f6652f9f136d8a60d458032f721821bb377cccc164a340b"),
    ("tiny-hd64-gqa4-bf16", DType::Bf16, DType::F32, "7f24095923b54b93c4609fd1be994a8847f924cfb0a35e720b2c98924b1296e1"),
    ("tiny-hd64-gqa4-bf16", DType::F32, DType::Bf16, "ef2dc4fa33a645780f6652f9f136d8a60d458032f721821bb377cccc164a340b"),
    ("tiny-hd64-gqa4-bf16", DType::F32, DType::F32, "7f24095923b54b93c4609fd1be994a8847f924cfb0a35e720b2c98924b1296e1"),
    ("tiny-hd64-gqa4-bf16", DType::F16, DType::F16, "ae398e044346a901bb6e03dcd5c41fdd7a4b8aca66ed591fca734e512c6d61f7"),
    ("embedded", DType::Bf16, DType::Bf16, "2535ef6c8b705172d5e3e3a0e6f2311c553828c9cc9537ea551705e82f6aa851"),
    ("embedded", DType::Bf16, DType::F32, "98f8fb2994c224eb5bd7dfb727ef58ffbd1f3481e3a05d2a19217ad0b98ed9a9"),
    ("embedded", DType::F32, DType::Bf16, "2535ef6c8b705172d5e3e3a0e6f2311c553828c9cc9537ea551705e82f6aa851"),
    ("embedded", DType::F32, DType::F32, "98f8fb2994c224eb5bd7dfb727ef58ffbd1f3481e3a05d2a19217ad0b98ed9a9"),
    ("embedded", DType::F16, DType::F16, "7cd256cfe12ff3dfb432b183a0b1c4af0724755c594669d4a63a18bc89f08188"),
];

/// Prompts and the chunk each is computed in: they end in three different tiles of attention.
const PROMPTS: [(usize, usize); 3] = [(70, 16), (33, 7), (5, 5)];

/// Greedy tokens after the prompts.
const DECODE_STEPS: usize = 6;

fn files(name: &str) -> ModelFiles {
    match name {
        "embedded" => ModelFiles::open(&ModelSource::Embedded, TokenizerSource::Model).unwrap(),
        golden => open(golden),
    }
}

fn hash(logits: &[Vec<f32>]) -> String {
    assert!(logits.iter().flatten().all(|v| v.is_finite()), "the bits of a NaN differ between processors");
    let bytes: Vec<u8> = logits.iter().flatten().flat_map(|v| v.to_bits().to_le_bytes()).collect();
    blake3::hash(&bytes).to_hex().to_string()
}

/// Logits of all positions of [`PROMPTS`] in one batch, in chunks, and of greedy steps after them.
fn forward(backend: CpuBackend, name: &str, weights: Storage, kv: KvType) -> Vec<Vec<f32>> {
    let mut bench = Bench::new(backend, &files(name), (weights, kv), PROMPTS.len());
    let vocab = bench.vocab;
    let mut tokens: Vec<Vec<u32>> =
        (0..PROMPTS.len()).map(|i| (0..PROMPTS[i].0).map(|p| 1 + (p * 7 + i * 31) as u32 % 380).collect()).collect();
    let mut logits = vec![Vec::new(); PROMPTS.len()];
    let mut done = [0; PROMPTS.len()];
    while (0..PROMPTS.len()).any(|i| done[i] < PROMPTS[i].0 + DECODE_STEPS) {
        let end = |i: usize| tokens[i].len().min(done[i] + PROMPTS[i].1);
        let slices: Vec<_> = (0..PROMPTS.len()).filter(|&i| done[i] < end(i)).map(|i| (i, &tokens[i][done[i]..end(i)], done[i])).collect();
        let computed: Vec<_> = slices.iter().map(|slice| (slice.0, slice.1.len())).zip(bench.step(&slices)).collect();
        for ((i, count), rows) in computed {
            done[i] += count;
            if done[i] == tokens[i].len() && done[i] < PROMPTS[i].0 + DECODE_STEPS {
                tokens[i].push(argmax(&rows[rows.len() - vocab..]) as u32);
            }
            logits[i].extend(rows);
        }
    }
    logits
}

#[test]
fn logits_have_the_recorded_bits_in_every_instruction_set() {
    check(ARITHMETIC, CpuBackend::portable_variants, &RECORDED.map(|(name, dtype, kv, hash)| (name, dtype.into(), kv.into(), hash)));
}

#[test]
fn dot_products_have_the_recorded_bits_in_every_instruction_set() {
    check(DOT_ARITHMETIC, CpuBackend::dot_variants, &RECORDED_DOT.map(|(name, dtype, kv, hash)| (name, dtype.into(), kv.into(), hash)));
}

#[test]
fn products_of_bytes_have_the_recorded_bits_in_every_instruction_set() {
    let storage = |format| Storage { dtype: DType::F32, quantization: Some(format), keeps_blocks: true };
    let recorded = RECORDED_BLOCKS.map(|(name, format, kv, hash)| (name, storage(format), kv.into(), hash));
    check(BYTE_ARITHMETIC, CpuBackend::portable_variants, &recorded);
}

#[test]
fn an_eight_bit_kv_cache_has_the_recorded_bits_in_every_instruction_set() {
    check(ARITHMETIC, CpuBackend::portable_variants, &RECORDED_INT8_KV.map(|(name, dtype, hash)| (name, dtype.into(), KvType::Int8, hash)));
}

fn check(arithmetic: &str, variants: fn(usize) -> Vec<CpuBackend>, recorded: &[(&str, Storage, KvType, &str)]) {
    let mut wrong = Vec::new();
    for &(name, weights, kv, wanted) in recorded {
        for cpu in variants(2) {
            assert_eq!(
                cpu.arithmetic(&[weights.of(DType::F32.into(), 32)], kv),
                arithmetic,
                "another name for the arithmetic goes with other hashes in {}",
                file!()
            );
            let isa = cpu.isa();
            let found = hash(&forward(cpu, name, weights, kv));
            println!("{name} {weights} kv {kv} {isa}: {found}");
            if found != wanted {
                wrong.push(format!("{name}, weights {weights}, KV {kv}, {isa}: {found}, recorded {wanted}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "logits have other bits than the recorded ones:\n{}\n\
         If only some instruction sets are named, their kernels are wrong. If all are and the arithmetic was changed on purpose, put the new \
         hashes into {}, and give the arithmetic another name there and in CpuBackend::arithmetic (now {arithmetic}): it is part of \
         system_fingerprint, which must not promise the answers of another arithmetic. If a model's files were changed, its hashes alone \
         are to be replaced.",
        wrong.join("\n"),
        file!(),
    );
}
