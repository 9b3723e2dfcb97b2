use crate::generation::TokenId;
use crate::tokenizer::Detokenizer;
use crate::tokenizer::testing::{DEMO, LLAMA, SMALL, Sample, small_with};
use proptest::prelude::*;
use serde_json::json;
use std::sync::{Arc, LazyLock};

/// The ids a vocabulary of `size` may be asked for: all of them, some beyond, and byte pieces often (runs of them are the hard part).
fn ids(size: usize) -> impl Strategy<Value = Vec<TokenId>> {
    // Bytes of "é", "€", "🦙" and of nothing, so that whole, broken and unfinished characters are all common.
    let bytes = prop::sample::select(b"\xC3\xA9\xE2\x82\xAC\xF0\x9F\xA6\x99\xFF\x80a \n".to_vec()).prop_map(|byte| TokenId::from(byte) + 3);
    let special = 0..3_u32;
    let any = 0..size as u32 + 10;
    prop::collection::vec(prop_oneof![4 => bytes, 1 => special, 4 => any], 0..40)
}

fn deltas(sample: &Sample, ids: &[TokenId], skip: bool) -> String {
    let mut detokenizer = Detokenizer::new(Arc::clone(&sample.ours), skip);
    let text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
    text + &detokenizer.finish()
}

/// Deltas, whole decoding and the oracle agree.
fn agree(sample: &Sample, ids: &[TokenId], skip: bool) -> Result<(), TestCaseError> {
    let expected = sample.oracle.decode(ids, skip).unwrap();
    prop_assert_eq!(&sample.ours.decode(ids, skip), &expected);
    prop_assert_eq!(deltas(sample, ids, skip), expected);
    Ok(())
}

/// [`small`](crate::tokenizer::testing::small) with other decoders.
static OTHER_DECODERS: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    [
        json!(null),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": false}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
        json!({"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]}),
        json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": "a", "start": 3, "stop": 0}]}),
        json!({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"Regex": "a|s"}, "content": "<0x41>"}, {"type": "ByteFallback"}]}),
    ]
    .into_iter()
    .map(|decoder| Sample::of_value(&small_with(json!({"decoder": decoder}))))
    .collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn deltas_equal_the_whole_demo(ids in ids(3072), skip: bool) {
        agree(&DEMO, &ids, skip)?;
    }

    #[test]
    fn deltas_equal_the_whole_llama(ids in ids(32_000), skip: bool) {
        agree(&LLAMA, &ids, skip)?;
    }

    #[test]
    fn deltas_equal_the_whole_small(ids in ids(303), skip: bool) {
        agree(&SMALL, &ids, skip)?;
    }

    #[test]
    fn deltas_equal_the_whole_with_other_decoders(ids in ids(303), skip: bool, which in 0..9_usize) {
        agree(&OTHER_DECODERS[which], &ids, skip)?;
    }

    #[test]
    fn bytes_of_tokens_are_those_of_the_text(text in "\\PC{0,20}") {
        for sample in [&*DEMO, &*LLAMA, &*SMALL] {
            let ids = sample.ours.encode(&text, false).unwrap();
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| sample.ours.token_bytes(id)).collect();
            let expected = if text.is_empty() { String::new() } else { format!(" {text}") };
            // "▁" is how a space is spelled; typed, it becomes one.
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), expected.replace('▁', " "));
        }
    }
}

#[test]
fn a_run_of_bytes_is_text_or_all_replaced() {
    let byte = |byte: u8| u32::from(byte) + 3;
    let llama = byte(0xF0);
    let whole = "🦙".bytes().map(byte).collect::<Vec<_>>();
    assert_eq!(SMALL.ours.decode(&whole, true), "🦙");
    assert_eq!(SMALL.ours.decode(&whole[..3], true), "\u{FFFD}\u{FFFD}\u{FFFD}");
    let spoiled = [&whole[..], &[llama]].concat();
    assert_eq!(SMALL.ours.decode(&spoiled, true), "\u{FFFD}".repeat(5));
}

#[test]
fn a_broken_run_is_not_held_any_longer() {
    let mut detokenizer = Detokenizer::new(Arc::clone(&SMALL.ours), true);
    let pushed: Vec<String> = [0xC3, 0xC3, 0xA9].map(|byte| detokenizer.push(byte + 3)).into();
    assert_eq!(pushed, ["", "\u{FFFD}\u{FFFD}", "\u{FFFD}"]);
    assert_eq!(detokenizer.finish(), "");
}

#[test]
fn a_skipped_token_does_not_end_a_run() {
    let ids = [0xC3 + 3, 2, 0xA9 + 3];
    assert_eq!(SMALL.ours.decode(&ids, true), "é");
    assert_eq!(SMALL.ours.decode(&ids, false), "\u{FFFD}</s>\u{FFFD}");
}

#[test]
fn a_leading_space_is_kept_where_the_prompt_ends_in_text() {
    let ids = LLAMA.ours.encode("there was", false).unwrap();
    let after = |prompt: &[TokenId]| {
        let mut detokenizer = Detokenizer::after_prompt(Arc::clone(&LLAMA.ours), prompt, true);
        let text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        text + &detokenizer.finish()
    };
    assert_eq!(after(&[1, 9038, 2501]), " there was");
    assert_eq!(after(&[1]), "there was");
    assert_eq!(after(&[]), "there was");
}

#[test]
fn prompt_and_answer_read_as_the_whole() {
    let ids = LLAMA.ours.encode_prompt("Once upon a time there was a 🦙.\nIt slept.").unwrap();
    let whole = LLAMA.ours.decode(&ids, true);
    for cut in 2..ids.len() {
        let mut detokenizer = Detokenizer::after_prompt(Arc::clone(&LLAMA.ours), &ids[..cut], true);
        let answer: String = ids[cut..].iter().map(|&id| detokenizer.push(id)).collect();
        let prompt = LLAMA.ours.decode(&ids[..cut], true);
        let text = prompt + &answer + &detokenizer.finish();
        if !text.contains('\u{FFFD}') {
            assert_eq!(text, whole, "cut at {cut}");
        }
    }
}

#[test]
fn single_tokens() {
    let llama = &LLAMA.ours;
    assert_eq!(llama.token_bytes(13), b"\n");
    assert_eq!(llama.token_bytes(0xE2 + 3), [0xE2]);
    assert_eq!(llama.token_text(0xE2 + 3), "\u{FFFD}");
    assert_eq!(llama.token_text(9038), " Once");
    assert_eq!(llama.token_text(2), "</s>");
    assert_eq!(llama.token_bytes(32_000), b"");
    assert_eq!((llama.vocab_size(), DEMO.ours.vocab_size(), SMALL.ours.vocab_size()), (32_000, 3072, 303));
    assert!(llama.is_special(2) && !llama.is_special(13) && !llama.is_special(40_000));
    assert!(DEMO.ours.is_special(3070) && !SMALL.ours.is_special(302));
    assert_eq!(llama.token_id("▁Once"), Some(9038));
}

#[test]
fn long_texts_take_linear_time() {
    // Runs of bytes are the hard case: none of these ends before the text does.
    let ids: Vec<TokenId> = "é".repeat(1_000_000).bytes().map(|byte| TokenId::from(byte) + 3).collect();
    assert_eq!(deltas(&SMALL, &ids, true).len(), 2_000_000);
}
