use crate::tokenizer::testing::{DEMO, LLAMA, SMALL, Sample, small_with};
use proptest::prelude::*;
use serde_json::json;
use std::sync::LazyLock;

/// Text in which special tokens, parts of them, spaces and rare characters are all common.
fn text() -> impl Strategy<Value = String> {
    let fragments = [
        "<s>", "</s>", "<unk>", "<|user|>", "<|u|>", "<sp>", "word", "<", ">", "/", "s", "|", " ", "  ", "\n", "a", "ab", "é", "🦙", "▁",
        "<0x0A>",
    ];
    let fragment = prop::sample::select(fragments.to_vec()).prop_map(str::to_owned);
    prop::collection::vec(prop_oneof![3 => fragment, 1 => "[a-z A-Z.,]{0,12}", 1 => "\\PC{0,3}"], 0..12).prop_map(|parts| parts.concat())
}

fn oracle(sample: &Sample, text: &str, add: bool) -> Vec<u32> {
    sample.oracle.encode_fast(text, add).unwrap().get_ids().to_vec()
}

/// A tokenizer of the newer kind: spaces are Metaspace's work, and only the first stretch of text gets one before it.
static METASPACE: LazyLock<Sample> = LazyLock::new(|| {
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    Sample::of_value(&small_with(json!({"normalizer": null, "pre_tokenizer": metaspace, "decoder": metaspace})))
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn encoding_equals_the_library(text in text()) {
        for sample in [&*DEMO, &*LLAMA, &*SMALL, &*METASPACE] {
            prop_assert_eq!(sample.ours.encode(&text, false).unwrap(), oracle(sample, &text, false));
        }
    }

    #[test]
    fn a_prompt_has_exactly_one_bos(text in text(), leading in 0..4_usize) {
        let text = text.trim_start_matches("<s>");
        for sample in [&*DEMO, &*LLAMA, &*SMALL] {
            let ids = sample.ours.encode_prompt(&("<s>".repeat(leading) + text)).unwrap();
            prop_assert_eq!(&ids, &oracle(sample, text, true));
            prop_assert_eq!(&ids, &sample.ours.encode(text, true).unwrap());
            prop_assert_ne!(ids.get(1), Some(&1));
        }
    }

    #[test]
    fn a_text_has_no_fewer_tokens_than_told(text in text(), spaces in 0..60_usize) {
        let text = text + &" ".repeat(spaces) + &"▁".repeat(spaces);
        for sample in [&*DEMO, &*LLAMA] {
            let ids = sample.ours.encode(&text, false).unwrap();
            prop_assert!(sample.ours.fewest_tokens(text.len()) <= ids.len());
        }
    }

    #[test]
    fn text_survives(text in "[a-zA-Z é🦙\n.,]{1,40}") {
        for sample in [&*DEMO, &*LLAMA, &*SMALL] {
            prop_assert_eq!(&sample.ours.decode(&sample.ours.encode_prompt(&text).unwrap(), true), &text);
        }
    }
}

#[test]
fn known_ids() {
    let encode = |text: &str| LLAMA.ours.encode_prompt(text).unwrap();
    assert_eq!(encode("Once upon a time there was"), [1, 9038, 2501, 263, 931, 727, 471]);
    assert_eq!(encode("<s>Once upon a time there was"), [1, 9038, 2501, 263, 931, 727, 471]);
    assert_eq!(LLAMA.ours.encode("</s>\n", false).unwrap(), [2, 29871, 13]);
    assert_eq!(LLAMA.ours.encode("<|user|>", false).unwrap(), [529, 29989, 1792, 29989, 29958]);
    assert_eq!(LLAMA.ours.encode("\n<|user|>", false).unwrap()[2..], [29966, 29989, 1792, 29989, 29958]);
    assert_eq!(encode(""), [1]);
    assert_eq!(LLAMA.ours.encode("", false).unwrap(), [0_u32; 0]);
    assert_eq!(DEMO.ours.encode("<|user|>", false).unwrap(), [3070]);
    assert!(LLAMA.ours.fewest_tokens(1_000_000) > 20_000);
    assert_eq!(METASPACE.ours.fewest_tokens(1_000_000), 0);
}

#[test]
fn a_special_token_that_the_file_has_normalized_is_still_one() {
    let mut json = small_with(json!({}));
    json["added_tokens"].as_array_mut().unwrap().iter_mut().for_each(|token| token["normalized"] = json!(true));
    let sample = Sample::of_value(&json);
    assert_eq!(sample.ours.encode("a</s>", false).unwrap(), SMALL.ours.encode("a</s>", false).unwrap());
    assert_eq!(sample.ours.decode(&[1, 2], false), "<s></s>");
    assert_eq!(sample.ours.decode(&[1, 2], true), "");
}

#[test]
fn hostile_texts_take_linear_time() {
    let texts = ["a".repeat(400_000), " ".repeat(400_000), "</s>".repeat(100_000), "🦙".repeat(100_000), "word".repeat(100_000)];
    for text in texts {
        for sample in [&*DEMO, &*LLAMA, &*SMALL] {
            let started = std::time::Instant::now();
            sample.ours.encode_prompt(&text).unwrap();
            let took = started.elapsed();
            // Quadratic work would take an hour.
            assert!(took.as_secs() < 30, "{:?}… took {took:?}", &text[..8]);
        }
    }
}
