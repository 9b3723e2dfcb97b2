//! The config's rules: published sizes, multipliers, scalars, absent keys, and refusals.

use crate::model::openelm::{LayerShape, OpenElmConfig};
use crate::model::{Document, LoadError};
use crate::ops::DType;
use serde_json::{Value, json};

fn parse(config: &Value) -> Result<OpenElmConfig, LoadError> {
    let bytes = config.to_string().into_bytes().into();
    OpenElmConfig::parse(&Document { name: "config.json".to_string(), bytes })
}

/// A config as Apple publishes it, without the lists that follow from the multipliers.
fn published(layers: usize, model_dim: usize, head_dim: usize) -> Value {
    json!({
        "activation_fn_name": "swish", "architectures": ["OpenELMForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "ffn_dim_divisor": 256,
        "ffn_multipliers": [0.5, 4.0], "ffn_with_glu": true, "head_dim": head_dim, "max_context_length": 2048, "model_dim": model_dim,
        "model_type": "openelm", "normalization_layer_name": "rms_norm", "normalize_qk_projections": true, "num_gqa_groups": 4,
        "num_transformer_layers": layers, "qkv_multipliers": [0.5, 1.0], "rope_freq_constant": 10000, "rope_max_length": 4096,
        "share_input_output_layers": true, "torch_dtype": "bfloat16", "vocab_size": 32000
    })
}

#[test]
fn published_sizes_have_the_published_parameter_counts() {
    let sizes = [
        ("270M", 16, 1280, 64, 271_527_168, 16_128, 130),
        ("450M", 20, 1536, 64, 457_179_136, 23_296, 162),
        ("1_1B", 28, 2048, 64, 1_079_891_456, 43_264, 226),
        ("3B", 36, 3072, 128, 3_036_647_424, 83_968, 290),
    ];
    for (name, layers, model_dim, head_dim, parameters, kv_bytes, tensors) in sizes {
        let config = parse(&published(layers, model_dim, head_dim)).unwrap();
        assert_eq!(config.parameters(), parameters, "{name}");
        assert_eq!(config.kv_bytes_per_token(DType::Bf16.into()), kv_bytes, "{name}: KV bytes of a token in 16 bits");
        assert_eq!(config.tensors().len(), tensors, "{name}");
    }
}

#[test]
fn layers_of_the_270m_are_the_published_ones() {
    let config = parse(&published(16, 1280, 64)).unwrap();
    let q: Vec<usize> = config.layers.iter().map(|l| l.q_heads).collect();
    let ffn: Vec<usize> = config.layers.iter().map(|l| l.ffn_dim).collect();
    assert_eq!(q, [12, 12, 12, 12, 12, 16, 16, 16, 16, 16, 16, 16, 20, 20, 20, 20]);
    assert_eq!(ffn, [768, 1024, 1280, 1536, 1792, 2048, 2560, 2816, 3072, 3328, 3584, 3840, 4352, 4608, 4864, 5120]);
    assert!(config.layers.iter().all(|l| l.kv_heads * 4 == l.q_heads));
}

#[test]
fn ffn_of_the_3b_is_the_published_one() {
    let ffn: Vec<usize> = parse(&published(36, 3072, 128)).unwrap().layers.iter().map(|l| l.ffn_dim).take(5).collect();
    assert_eq!(ffn, [1536, 1792, 2048, 2560, 2816]);
}

#[test]
fn stored_lists_win_over_multipliers() {
    let mut config = published(2, 256, 64);
    config["num_query_heads"] = json!([2, 6]);
    config["num_kv_heads"] = json!([1, 3]);
    config["ffn_multipliers"] = json!([1.0, 2.0]);
    let layers = parse(&config).unwrap().layers;
    assert_eq!(layers, [LayerShape { q_heads: 2, kv_heads: 1, ffn_dim: 256 }, LayerShape { q_heads: 6, kv_heads: 3, ffn_dim: 512 }]);
}

#[test]
fn scalars_stand_for_all_layers() {
    let mut config = published(3, 512, 64);
    config["qkv_multipliers"] = json!(1.0);
    config["ffn_multipliers"] = json!(2);
    let layers = parse(&config).unwrap().layers;
    assert_eq!(layers, [LayerShape { q_heads: 8, kv_heads: 2, ffn_dim: 1024 }; 3]);
    config["num_query_heads"] = json!(4);
    config["num_kv_heads"] = json!(4);
    assert_eq!(parse(&config).unwrap().layers, [LayerShape { q_heads: 4, kv_heads: 4, ffn_dim: 1024 }; 3]);
}

#[test]
fn absent_and_null_keys_have_the_class_defaults() {
    for config in [json!({}), json!({"model_dim": null, "head_dim": null, "ffn_multipliers": null})] {
        let config = parse(&config).unwrap();
        assert_eq!((config.model_dim, config.head_dim, config.vocab_size, config.max_context_length), (2048, 128, 32_000, 2048));
        assert_eq!((config.normalize_qk, config.ffn_with_glu, config.tied_head), (false, true, false));
        assert_eq!(config.layers, [LayerShape { q_heads: 16, kv_heads: 16, ffn_dim: 8192 }; 12]);
        assert!(config.tensors().iter().any(|(name, _, _)| name == "lm_head.weight"));
    }
}

#[test]
fn one_end_of_sequence_token_or_a_list() {
    let mut config = published(2, 256, 64);
    assert_eq!(parse(&config).unwrap().eos_token_ids, [2]);
    config["eos_token_id"] = json!([2, 7]);
    assert_eq!(parse(&config).unwrap().eos_token_ids, [2, 7]);
}

#[test]
fn refusals_name_the_key_and_what_is_right() {
    let wrong = [
        ("model_type", json!("llama"), "openelm"),
        ("architectures", json!(["LlamaForCausalLM"]), "OpenELMForCausalLM"),
        ("activation_fn_name", json!("gelu"), "swish"),
        ("normalization_layer_name", json!("layer_norm"), "rms_norm"),
        ("head_dim", json!(72), "a multiple of 16"),
        ("head_dim", json!(-64), "a whole number"),
        ("model_dim", json!(0), "a whole number"),
        ("model_dim", json!("big"), "a whole number"),
        ("vocab_size", json!(1u64 << 60), "a whole number"),
        ("num_transformer_layers", json!(1e9), "a whole number"),
        ("num_transformer_layers", json!(5000), "at most 1024"),
        ("num_query_heads", json!([4]), "a list of 2"),
        ("num_kv_heads", json!([3, 1]), "a divisor"),
        ("ffn_multipliers", json!([1, 2, 3]), "a list of 2"),
        ("ffn_multipliers", json!([1, "x"]), "a number"),
        ("qkv_multipliers", json!(-1), "a number"),
        ("rope_freq_constant", json!(0.5), "above 1"),
        ("rope_scaling", json!({"type": "linear", "factor": 2}), "not supported"),
        ("quantization", json!({"bits": 4, "group_size": 64}), "not supported"),
        ("ffn_with_glu", json!("yes"), "true or false"),
        ("eos_token_id", json!("</s>"), "a token id"),
        ("eos_token_id", json!(32000), "below vocab_size"),
    ];
    for (key, value, wanted) in wrong {
        let mut config = published(2, 256, 64);
        if key != "qkv_multipliers" {
            config["num_query_heads"] = json!([4, 4]);
            config["num_kv_heads"] = json!([1, 1]);
        }
        config[key] = value.clone();
        let message = parse(&config).unwrap_err().to_string();
        assert!(message.starts_with("config.json: ") && message.contains(key) && message.contains(wanted), "{key} {value}: {message}");
    }
}

#[test]
fn a_config_that_is_no_object_is_refused() {
    for bytes in ["[]", "{", "", "\u{feff}{}"] {
        let document = Document { name: "config.json".to_string(), bytes: bytes.as_bytes().to_vec().into() };
        assert!(matches!(OpenElmConfig::parse(&document), Err(LoadError::Json { .. })), "{bytes:?}");
    }
}
