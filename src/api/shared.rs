//! The parameters that both APIs have, written once: the macros put them into either request, so that its schema is flat.

use serde::Deserialize;
use utoipa::ToSchema;

/// Hands the fields that both APIs have to the macro `$apply`, after what is in the braces.
macro_rules! shared_fields {
    ($apply:ident { $($before:tt)* }) => {
        $apply! {
            { $($before)* }
            /// A name of the served model; the served one if absent.
            model: Option<String>,
            /// 0 = the most likely token always. Default from the model's generation_config, else 1.
            #[serde(default, deserialize_with = "crate::api::number::float")]
            #[schema(minimum = 0, maximum = 2)]
            temperature: Option<f64>,
            /// Nucleus sampling. 0 = the most likely token alone.
            #[serde(default, deserialize_with = "crate::api::number::float")]
            #[schema(minimum = 0, maximum = 1)]
            top_p: Option<f64>,
            /// Sample among the `k` most likely tokens; -1 and 0 = all.
            #[serde(default, deserialize_with = "crate::api::number::integer")]
            #[schema(minimum = -1)]
            top_k: Option<i64>,
            /// Sample among tokens at least this times as likely as the most likely one.
            #[serde(default, deserialize_with = "crate::api::number::float")]
            #[schema(minimum = 0, maximum = 1)]
            min_p: Option<f64>,
            /// Choices for each prompt.
            #[serde(default, deserialize_with = "crate::api::number::integer")]
            #[schema(minimum = 1, default = 1)]
            n: Option<i64>,
            /// Strings that end a choice; they are not part of the text.
            stop: Option<crate::api::input::Stop>,
            /// The same seed gives the same text.
            #[serde(default, deserialize_with = "crate::api::number::integer")]
            seed: Option<i64>,
            /// Answer with server-sent events.
            #[schema(default = false)]
            stream: Option<bool>,
            /// Only with `stream`.
            stream_options: Option<crate::api::common::StreamOptions>,
            /// Lowers the logit of every token generated before.
            #[serde(default, deserialize_with = "crate::api::number::float")]
            #[schema(minimum = -2, maximum = 2)]
            presence_penalty: Option<f64>,
            /// Lowers the logit of a token for each time it was generated before.
            #[serde(default, deserialize_with = "crate::api::number::float")]
            #[schema(minimum = -2, maximum = 2)]
            frequency_penalty: Option<f64>,
            /// Divides (or multiplies, if negative) the logits of tokens in the prompt and the text. 1 = off.
            #[serde(default, deserialize_with = "crate::api::number::float")]
            #[schema(minimum = 0.01, maximum = 100)]
            repetition_penalty: Option<f64>,
            /// Added to the logits, by token id, each in -100..=100.
            #[schema(schema_with = crate::api::schemas::logit_bias)]
            logit_bias: Option<crate::api::common::LogitBias>,
            /// Go on after an end-of-sequence token.
            #[schema(default = false)]
            ignore_eos: Option<bool>,
            /// No end-of-sequence token before so many tokens.
            #[serde(default, deserialize_with = "crate::api::number::integer")]
            #[schema(minimum = 0, default = 0)]
            min_tokens: Option<i64>,
            /// Tokens that end a choice; they are not part of the text. At most 1024.
            #[serde(default, deserialize_with = "crate::api::number::integers")]
            #[schema(value_type = Option<Vec<u32>>, max_items = 1024)]
            stop_token_ids: Option<Vec<i64>>,
            /// Keep the stop string at the end of the text.
            #[schema(default = false)]
            include_stop_str_in_output: Option<bool>,
            /// Words that are not generated, at most 64: the last token of one is masked after the others.
            #[schema(schema_with = crate::api::schemas::bad_words)]
            bad_words: Option<Vec<String>>,
            /// Only these tokens are generated.
            #[serde(default, deserialize_with = "crate::api::number::integers")]
            #[schema(value_type = Option<Vec<u32>>, min_items = 1)]
            allowed_token_ids: Option<Vec<i64>>,
            /// Leave special tokens out of the text.
            #[schema(default = true)]
            skip_special_tokens: Option<bool>,
            /// What the answer must look like.
            response_format: Option<crate::api::format::ResponseFormat>,
            /// What the answer must look like; not with `response_format`.
            structured_outputs: Option<crate::api::format::StructuredOutputs>,
            /// With log-probabilities: list these tokens, at most 128, in place of the likeliest ones.
            #[serde(default, deserialize_with = "crate::api::number::integers")]
            #[schema(value_type = Option<Vec<u32>>, max_items = 128)]
            logprob_token_ids: Option<Vec<i64>>,
            /// Who goes first when some must wait: lower ones do. A unit counts as ten seconds of waiting, so that nobody waits for ever.
            #[serde(default, deserialize_with = "crate::api::number::integer")]
            #[schema(minimum = -100, maximum = 100, default = 0)]
            priority: Option<i64>,
            /// Tokens between two chunks of a choice; the first one comes at once. Only with `stream`.
            #[serde(default, deserialize_with = "crate::api::number::integer")]
            #[schema(minimum = 1, default = 1)]
            stream_interval: Option<i64>,
            /// Tell in `prompt_progress` of chunks how far the prompt is computed. Only with `stream`.
            #[schema(default = false)]
            return_progress: Option<bool>,
            /// Accepted, without effect: special tokens have no spaces between them.
            spaces_between_special_tokens: Option<bool>,
            /// Write tokens of log-probabilities as `token_id:7`.
            #[schema(default = false)]
            return_tokens_as_token_ids: Option<bool>,
            /// Cut each prompt to so many tokens instead of refusing it; -1 = to what fits.
            #[serde(default, deserialize_with = "crate::api::number::integer")]
            #[schema(minimum = -1)]
            truncate_prompt_tokens: Option<i64>,
            /// Where prompts are cut: at the `left` or at the `right`.
            #[schema(value_type = Option<crate::api::common::Side>, default = "left")]
            truncation_side: Option<String>,
            /// Only requests with the same salt (and API key) share the prefix cache.
            #[schema(min_length = 1, max_length = 1024)]
            cache_salt: Option<String>,
            /// Milliseconds after which the request ends with an error. The header `Request-Timeout-Ms` says the same; the shorter counts.
            #[serde(default, deserialize_with = "crate::api::number::integer")]
            #[schema(minimum = 1, maximum = 86_400_000)]
            timeout_ms: Option<i64>,
            /// Log-probabilities of the prompt's tokens, with so many alternatives; not with `stream`.
            #[serde(default, deserialize_with = "crate::api::number::integer")]
            #[schema(minimum = 0, maximum = 20)]
            prompt_logprobs: Option<i64>,
            /// Return the token ids of prompt and text.
            #[schema(default = false)]
            return_token_ids: Option<bool>,
            /// `auto` or `default`; without effect.
            #[schema(schema_with = crate::api::schemas::service_tier)]
            service_tier: Option<String>,
            /// Accepted, without effect.
            user: Option<String>,
            /// Accepted, without effect.
            safety_identifier: Option<String>,
            /// Accepted, without effect.
            prompt_cache_key: Option<String>,
            /// Accepted, without effect.
            store: Option<bool>,
            /// Accepted, without effect.
            #[schema(value_type = Option<Object>)]
            metadata: Option<crate::api::common::Metadata>,
            /// Whether a message may have several tool calls. Without effect where there are no tools.
            #[schema(default = true)]
            parallel_tool_calls: Option<bool>,
        }
    };
}

/// Defines a request: its own fields, then those that both APIs have.
macro_rules! request {
    ({ $(#[$outer:meta])* $name:ident { $($own:tt)* } } $($(#[$meta:meta])* $field:ident: $type:ty,)*) => {
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        $(#[$outer])*
        pub struct $name {
            $($own)*
            $($(#[$meta])* pub $field: $type,)*
        }

        impl $name {
            /// Takes out what both APIs have.
            pub fn take_shared(&mut self) -> $crate::api::shared::SharedRequest {
                $crate::api::shared::SharedRequest { $($field: self.$field.take(),)* }
            }
        }
    };
}

/// Defines [`SharedRequest`].
macro_rules! shared_request {
    ({} $($(#[$meta:meta])* $field:ident: $type:ty,)*) => {
        /// The parameters that both APIs have, as the client wrote them.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
        pub struct SharedRequest {
            $($(#[$meta])* pub $field: $type,)*
        }
    };
}

shared_fields!(shared_request {});

pub(super) use {request, shared_fields};
