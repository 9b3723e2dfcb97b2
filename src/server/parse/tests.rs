//! Whatever is in a request, it is refused by name or becomes requests the engine accepts.

use super::assemble::{MaxTokens, Wanted, assemble, check_choices};
use super::completion::Completion;
use super::encode::{Encoded, Source};
use super::{Assembled, Bounds, Caller};
use crate::grammar::CallSyntax;
use crate::server::error::ApiError;
use crate::server::extract::decode::{decode, field_names};
use crate::server::model_card::{GenerationDefaults, ModelCard};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::sync::Arc;

fn card() -> ModelCard {
    ModelCard { names: vec!["demo".into()], created: 0, max_model_len: 64, fingerprint: String::new(), chat_template: None }
}

fn parse(object: Map<String, Value>) -> Result<Assembled, ApiError> {
    let (card, defaults) = (card(), GenerationDefaults { eos_token_ids: vec![2], ..GenerationDefaults::default() });
    let bounds = Bounds {
        model: &card,
        defaults: &defaults,
        vocab_size: 100,
        max_choices: 8,
        default_seed: None,
        has_tokenizer: true,
        call_syntax: CallSyntax::TAGS,
    };
    let completion = Completion::parse(decode(object)?, &bounds)?;
    check_choices((completion.parameters.n, completion.best_of), completion.sources.len(), &bounds)?;
    let encoded = completion.sources.into_iter().map(|source| match source {
        Source::Text { text, .. } => {
            Encoded { tokens: text.bytes().map(|b| u32::from(b) % 100).collect(), text: Some(text), param: "prompt" }
        }
        Source::Tokens(ids) => Encoded { tokens: ids.into(), text: None, param: "prompt" },
        Source::Chat(_) => unreachable!(),
    });
    let max_tokens = completion.max_tokens.map_or(MaxTokens::AtMost(16), |tokens| MaxTokens::Given("max_tokens", tokens));
    let wanted = Wanted { max_tokens, logprobs: completion.logprobs, best_of: completion.best_of, echo: completion.echo, calls: None };
    let caller = Caller { request_id: Arc::from("id"), key: None };
    assemble(completion.parameters, encoded.collect(), wanted, &bounds, &caller)
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..300).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3.0..3.0f64).prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[0-9a-b]{0,3}", inner, 0..3).prop_map(|m| json!(m)),
        ]
    })
}

fn field() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(field_names::<crate::api::completion::CompletionRequest>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_request_is_refused_by_name_or_valid(fields in proptest::collection::vec((field(), value()), 0..3), prompt in prop_oneof![Just(json!("ab")), Just(json!([[1, 2], [3]])), value()]) {
        let mut object = Map::from_iter([("prompt".to_owned(), prompt)]);
        object.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        match parse(object.clone()) {
            Err(error) => {
                let body = error.body().error;
                prop_assert!(error.status().is_client_error(), "{error}");
                let root = body.param.as_deref().unwrap_or_default().split(['.', '[']).next().unwrap_or_default().to_owned();
                // Token limits may be named where the default does not fit.
                prop_assert!(object.contains_key(&root), "{error}: {:?}", body.param);
            }
            Ok(Assembled { requests, plan }) => {
                prop_assert!(!requests.is_empty() && requests.len() <= 8);
                prop_assert!(plan.n <= plan.best_of);
                prop_assert_eq!(requests.len(), plan.prompts.len() * plan.best_of as usize);
                for request in &requests {
                    prop_assert!(!request.prompt.is_empty() && request.prompt.iter().all(|&token| token < 100));
                    prop_assert!(request.prompt.len() + request.stop.max_tokens as usize <= 64);
                    prop_assert!(request.stop.max_tokens > 0 || plan.echo);
                    prop_assert!(request.stop.min_tokens <= request.stop.max_tokens);
                    let sampling = &request.sampling;
                    prop_assert!((0.0..=2.0).contains(&sampling.temperature) && (0.0..=1.0).contains(&sampling.top_p));
                    prop_assert!((0.0..=1.0).contains(&sampling.min_p) && sampling.repetition_penalty > 0.0);
                    prop_assert!(sampling.logit_bias.windows(2).all(|pair| pair[0].0 < pair[1].0));
                    prop_assert!(request.logprobs.is_none_or(|n| n <= 20));
                }
            }
        }
    }
}
