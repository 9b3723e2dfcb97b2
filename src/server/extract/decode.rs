//! Gives a JSON object its wire type and names the parameter when it cannot.
//!
//! A key is known, known but not implemented (refused by name unless its value means "off"), or unknown (refused with the most similar known
//! name). Nothing is silently ignored.

use super::objects::Objects;
use crate::api::chat::ChatRequest;
use crate::api::completion::CompletionRequest;
use crate::api::tokens::{DetokenizeRequest, TokenizeRequest};
use crate::server::error::ApiError;
use serde::de::value::Error as ProbeError;
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde_json::{Map, Value, json};

/// A request that can be decoded.
pub trait WireRequest: DeserializeOwned {
    /// Parameters of the OpenAI API and of its extensions that are not implemented for this request.
    const NOT_IMPLEMENTED: &'static [&'static str];
}

/// Not implemented for either API: extras of other servers.
macro_rules! not_implemented {
    ($($own:literal),* $(,)?) => {
        &[
            "detokenize", "guided_choice", "guided_decoding_backend", "guided_grammar", "guided_json", "guided_regex",
            "kv_transfer_params", "length_penalty", "logits_processors", "moderation",
            "prompt_cache_options", "prompt_cache_retention", "repetition_detection", "request_id",
            "use_beam_search", "vllm_xargs", $($own),*
        ]
    };
}

impl WireRequest for CompletionRequest {
    const NOT_IMPLEMENTED: &'static [&'static str] = not_implemented!["suffix", "prompt_embeds"];
}

impl WireRequest for TokenizeRequest {
    const NOT_IMPLEMENTED: &'static [&'static str] = &["chat_template", "media_io_kwargs", "mm_processor_kwargs"];
}

impl WireRequest for DetokenizeRequest {
    const NOT_IMPLEMENTED: &'static [&'static str] = &[];
}

impl WireRequest for ChatRequest {
    const NOT_IMPLEMENTED: &'static [&'static str] = not_implemented![
        "add_special_tokens",
        "audio",
        "best_of",
        "chat_template",
        "documents",
        "echo",
        "enable_thinking",
        "function_call",
        "functions",
        "include_reasoning",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "modalities",
        "prediction",
        "reasoning",
        "reasoning_effort",
        "thinking",
        "verbosity",
        "web_search_options",
    ];
}

/// Decodes a request.
///
/// # Errors
/// 400 that names the parameter: unknown, not implemented, of the wrong type.
pub fn decode<T: WireRequest>(mut object: Map<String, Value>) -> Result<T, ApiError> {
    let known = field_names::<T>();
    let mut switched_off = Vec::new();
    for (key, value) in &object {
        if known.contains(&key.as_str()) {
            continue;
        }
        if !T::NOT_IMPLEMENTED.contains(&key.as_str()) {
            return Err(ApiError::Unknown { param: key.clone(), nearest: meant(key, known).or_else(|| nearest(key, known)) });
        }
        if !means_off(key, value) {
            return Err(ApiError::unsupported(key, instead(key)));
        }
        switched_off.push(key.clone());
    }
    for key in switched_off {
        object.remove(&key);
    }
    serde_path_to_error::deserialize(Objects(Value::Object(object))).map_err(|error| {
        let (param, detail) = (error.path().to_string(), error.into_inner().to_string());
        if detail.starts_with("unknown field") {
            let nearest = meant(&param, INNER);
            return ApiError::Unknown { param, nearest };
        }
        wrong_type(param, &detail)
    })
}

/// An error about a type, in the words of JSON.
fn wrong_type(param: String, detail: &str) -> ApiError {
    let Some((found, expected)) = detail.rsplit_once(", expected ") else {
        return ApiError::WrongType { param, detail: detail.to_owned() };
    };
    let found = match found {
        "invalid type: sequence" => "invalid type: array",
        "invalid type: map" => "invalid type: object",
        other => other,
    };
    let expected = match expected {
        "a sequence" => "an array",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    ApiError::WrongType { param, detail: format!("{found}, expected {expected}") }
}

/// Keys that are not known in one place, and what is known instead.
const MEANT: [(&str, &str); 2] = [("max_completion_tokens", "max_tokens"), ("tool_choice.name", "tool_choice.function.name")];

/// What inner keys may be meant for.
const INNER: &[&str] = &["tool_choice.function.name"];

/// What a key is meant for that other servers, or other requests, have.
fn meant(key: &str, known: &[&str]) -> Option<&'static str> {
    MEANT.into_iter().find(|(other, name)| *other == key && known.contains(name)).map(|(_, name)| name)
}

/// What to use instead of a parameter that is not implemented; empty if there is nothing.
fn instead(key: &str) -> &'static str {
    match key {
        "functions" => "use 'tools'",
        "function_call" => "use 'tool_choice'",
        "guided_json" | "guided_regex" | "guided_choice" | "guided_grammar" => "use 'structured_outputs'",
        _ => "",
    }
}

/// Whether a parameter that is not implemented has a value that asks for nothing.
fn means_off(key: &str, value: &Value) -> bool {
    match (key, value) {
        (_, Value::Null) => true,
        ("detokenize", value) => *value == json!(true),
        (_, Value::Bool(false)) => true,
        ("function_call", value) => *value == json!("none"),
        ("modalities", value) => *value == json!(["text"]),
        (_, Value::Array(items)) => items.is_empty(),
        _ => false,
    }
}

/// The most similar name, if it is similar enough to be meant.
pub fn nearest(key: &str, known: &'static [&'static str]) -> Option<&'static str> {
    // Longer keys are not compared: nobody mistypes that much, and the distance is quadratic.
    if key.len() > 64 {
        return None;
    }
    let scored = known.iter().map(|name| (strsim::jaro_winkler(key, name), *name));
    scored.filter(|(score, _)| *score > 0.84).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// The names of a struct's fields as serde knows them: derived code hands them to the deserializer.
pub fn field_names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // The probe always ends in an error, after it has seen the names.
    let _ = T::deserialize(NameProbe(&mut names));
    names
}

struct NameProbe<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for NameProbe<'_> {
    type Error = ProbeError;

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, fields: &'static [&'static str], _: V) -> Result<V::Value, ProbeError> {
        *self.0 = fields;
        Err(de::Error::custom("names only"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ProbeError> {
        Err(de::Error::custom("names only"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(body: Value) -> Result<CompletionRequest, ApiError> {
        let Value::Object(object) = body else { panic!() };
        decode(object)
    }

    fn chat(body: Value) -> Result<ChatRequest, ApiError> {
        let Value::Object(object) = body else { panic!() };
        decode(object)
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest_known_one() {
        let unknown = |key: &str| match completion(json!({key: 1})) {
            Err(ApiError::Unknown { param, nearest }) if param == key => nearest,
            other => panic!("{key}: {other:?}"),
        };
        assert_eq!(unknown("max_token"), Some("max_tokens"));
        assert_eq!(unknown("temprature"), Some("temperature"));
        assert_eq!(unknown("zzz"), None);
        assert_eq!(unknown("max_completion_tokens"), Some("max_tokens"));
        assert_eq!(unknown(&"n".repeat(1_000_000)), None);
        assert!(matches!(completion(json!({"zzz": null})), Err(ApiError::Unknown { .. })));
    }

    #[test]
    fn what_is_not_implemented_is_refused_unless_it_is_off() {
        for off in [json!({"suffix": null}), json!({"use_beam_search": null})] {
            assert_eq!(completion(off).unwrap(), CompletionRequest::default());
        }
        assert_eq!(chat(json!({"functions": [], "function_call": "none", "modalities": ["text"]})).unwrap(), ChatRequest::default());
        for (key, value) in [("suffix", json!("x")), ("suffix", json!("")), ("use_beam_search", json!(true))] {
            assert_eq!(completion(json!({key: value})), Err(ApiError::unsupported(key, "")));
        }
        assert_eq!(chat(json!({"functions": [{}]})), Err(ApiError::unsupported("functions", "use 'tools'")));
        assert_eq!(chat(json!({"function_call": "auto"})), Err(ApiError::unsupported("function_call", "use 'tool_choice'")));
        for guided in ["guided_json", "guided_regex", "guided_choice", "guided_grammar"] {
            assert_eq!(completion(json!({guided: "x"})), Err(ApiError::unsupported(guided, "use 'structured_outputs'")));
        }
        assert_eq!(chat(json!({"echo": true})), Err(ApiError::unsupported("echo", "")));
    }

    #[test]
    fn a_wrong_type_names_the_parameter() {
        let param = |e: ApiError| match e {
            ApiError::WrongType { param, .. } => param,
            other => panic!("{other:?}"),
        };
        assert_eq!(param(completion(json!({"temperature": "hot"})).unwrap_err()), "temperature");
        assert_eq!(param(completion(json!({"stop": 5})).unwrap_err()), "stop");
        assert_eq!(param(completion(json!({"stream_options": {"include_usage": 1}})).unwrap_err()), "stream_options.include_usage");
        assert_eq!(param(completion(json!({"logit_bias": {"5": "x"}})).unwrap_err()), "logit_bias.5");
        assert_eq!(param(chat(json!({"messages": [{"role": "user"}, {"role": 7}]})).unwrap_err()), "messages[1].role");
        assert_eq!(param(chat(json!({"messages": "hi"})).unwrap_err()), "messages");
        assert_eq!(param(chat(json!({"messages": [{"role": "user", "content": 1}]})).unwrap_err()), "messages[0].content");
    }

    /// A struct takes an array for its fields in their order, as serde's derived code has it: `["user", "hi"]` was a message.
    #[test]
    fn an_array_is_no_object() {
        let refused = |error: ApiError| match error {
            ApiError::WrongType { param, detail } => (param, detail),
            other => panic!("{other:?}"),
        };
        for (body, wanted) in [
            (json!({"messages": [["user", "hi"]]}), "messages[0]"),
            (json!({"response_format": ["json_object", null]}), "response_format"),
            (json!({"response_format": {"type": "json_schema", "json_schema": ["n", null, {}, null]}}), "response_format.json_schema"),
            (json!({"tools": [["function", ["f", null, null, null]]]}), "tools[0]"),
            (json!({"tools": [{"type": "function", "function": ["f", null, null, null]}]}), "tools[0].function"),
            (json!({"stream": true, "stream_options": [null, null, null]}), "stream_options"),
            (json!({"structured_outputs": [null, "a", null, null, null, null, null]}), "structured_outputs"),
            (json!({"tool_choice": {"type": "function", "function": ["f"]}}), "tool_choice.function"),
            (json!({"messages": [{"role": "user", "content": [["text", "hi"]]}]}), "messages[0].content[0]"),
            (json!({"metadata": [1]}), "metadata"),
        ] {
            let (param, detail) = refused(chat(body.clone()).unwrap_err());
            assert_eq!((param.as_str(), detail.as_str()), (wanted, "invalid type: array, expected an object"), "{body}");
        }
        let (param, detail) = refused(chat(json!({"tool_choice": ["function", ["f"]]})).unwrap_err());
        assert!(param == "tool_choice" && detail.contains("an object that names a function"), "{detail}");
        let (_, detail) = refused(chat(json!({"messages": {"role": "user"}})).unwrap_err());
        assert_eq!(detail, "invalid type: object, expected an array");
        let (_, detail) = refused(chat(json!({"user": {"a": 1}})).unwrap_err());
        assert_eq!(detail, "invalid type: object, expected a string");
    }

    #[test]
    fn keys_of_choices_and_parts_keep_their_path() {
        let error = chat(json!({"tool_choice": {"type": "function", "name": "f"}})).unwrap_err();
        assert_eq!(error.to_string(), "unknown parameter 'tool_choice.name': did you mean 'tool_choice.function.name'?");
        let wrong = chat(json!({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]})).unwrap_err();
        assert!(matches!(&wrong, ApiError::WrongType { param, .. } if param == "messages[0].content[0].text"), "{wrong:?}");
    }

    #[test]
    fn keys_of_inner_objects_are_unknown_by_their_path() {
        let unknown = |param: &str| Err(ApiError::Unknown { param: param.to_owned(), nearest: None });
        assert_eq!(
            completion(json!({"stream_options": {"usage": 1}})),
            unknown("stream_options.usage").map(|()| CompletionRequest::default())
        );
        let messages = json!([{"role": "user", "content": "a", "zz": 1}]);
        assert_eq!(chat(json!({"messages": messages})), unknown("messages[0].zz").map(|()| ChatRequest::default()));
        let error = chat(json!({"messages": [1]})).unwrap_err().to_string();
        assert!(error.ends_with("expected an object") && error.contains("messages[0]"), "{error}");
    }

    #[test]
    fn no_parameter_is_both_known_and_not_implemented() {
        for name in CompletionRequest::NOT_IMPLEMENTED {
            assert!(!field_names::<CompletionRequest>().contains(name), "{name}");
        }
        for name in ChatRequest::NOT_IMPLEMENTED {
            assert!(!field_names::<ChatRequest>().contains(name), "{name}");
        }
        assert!(field_names::<ChatRequest>().contains(&"messages"));
    }
}
