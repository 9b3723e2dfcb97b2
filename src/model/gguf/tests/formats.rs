//! Formats without kernels: their values are those of the library that defines them here, on any boundary.

use super::{Draft, open_bytes};
use crate::model::gguf::types::{Foreign, TensorType};
use crate::ops::DType;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

const ALL: [(Foreign, GgmlDType, u32); 5] = [
    (Foreign::Q5_0, GgmlDType::Q5_0, 6),
    (Foreign::Q5_1, GgmlDType::Q5_1, 7),
    (Foreign::Q4K, GgmlDType::Q4K, 12),
    (Foreign::Q5K, GgmlDType::Q5K, 13),
    (Foreign::Q6K, GgmlDType::Q6K, 14),
];

#[test]
fn values_are_the_librarys_on_every_boundary() {
    let values: Vec<f32> = (0..3 * 512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
    let tensor = Tensor::from_vec(values, (3, 512), &Device::Cpu).unwrap();
    for (foreign, ggml, number) in ALL {
        assert_eq!(TensorType::from_number(number), Some(TensorType::Foreign(foreign)));
        let quantised = QTensor::quantize(&tensor, ggml).unwrap();
        let wanted: Vec<f32> = quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let bytes = quantised.data().unwrap();
        assert_eq!(TensorType::Foreign(foreign).row_bytes(512).unwrap() * 3, bytes.len());
        for shift in 0..4 {
            let mut shifted = vec![0; shift];
            shifted.extend(bytes.iter());
            let found = foreign.to_f32(&shifted[shift..], 512).unwrap();
            let found: Vec<f32> = found.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            assert_eq!(found, wanted, "{foreign:?}, {shift} off");
        }
        assert!(foreign.to_f32(&bytes[1..], 512).is_none() && foreign.to_f32(&bytes, 31).is_none());
    }
}

#[test]
fn a_file_in_such_a_format_gives_values_of_f32() {
    let mut draft = Draft::tiny();
    draft.tensor("blk.0.ffn_up.weight").shape = vec![32, 32];
    let mut bytes = draft.bytes();
    // 32 rows of 32 values of Q5_0 take 22 bytes a row, less than what f32 took.
    let name = b"blk.0.ffn_up.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4 + 16;
    assert_eq!(bytes[at..][..4], [0; 4]);
    bytes[at] = 6;
    let model = open_bytes(bytes).unwrap();
    let tensor = model.weights.get("file", "transformer.layers.0.ffn.proj_1.weight").unwrap();
    assert_eq!((tensor.encoding().as_str(), tensor.byte_len()), ("32 rows of float32, 32 rows of q5_0", 32 * (128 + 22)));
    assert_eq!(tensor.data().unwrap().stored(), DType::F32.into());
    assert_eq!(tensor.data().unwrap().rows(), 64);
    assert!(model.weights.formats().ends_with("; 1 q5_0, widened"), "{}", model.weights.formats());
}
