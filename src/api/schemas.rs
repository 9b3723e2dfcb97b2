//! Schemas of the OpenAPI document that derived code cannot write.

use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};

/// A schema as it stands in the document.
pub(super) fn of_json(json: Value) -> RefOr<Schema> {
    RefOr::T(serde_json::from_value(json).expect("what this module writes is a schema"))
}

/// `prompt` of completions.
pub(super) fn prompt() -> RefOr<Schema> {
    let text = json!({"type": "string", "minLength": 1});
    let token = json!({"type": "integer", "format": "int64", "minimum": 0});
    let tokens = json!({"type": "array", "items": token, "minItems": 1});
    let described = |mut schema: Value, description: &str| {
        schema["description"] = Value::from(description);
        schema
    };
    of_json(json!({
        "description": "The prompt of a completion: one text, several texts, the token ids of one prompt, or those of several.",
        "example": "Once upon a time",
        "oneOf": [
            described(text.clone(), "One text."),
            {"type": "array", "items": text, "minItems": 1, "description": "Several texts."},
            described(tokens.clone(), "Token ids of one prompt."),
            {"type": "array", "items": tokens, "minItems": 1, "description": "Token ids of several prompts."},
        ],
    }))
}

/// `stop`.
pub(super) fn stop() -> RefOr<Schema> {
    let text = json!({"type": "string", "minLength": 1, "maxLength": 4096});
    of_json(json!({
        "description": "One stop string or several.",
        "oneOf": [text, {"type": "array", "items": text, "maxItems": 64, "description": "Several, at most 64."}],
    }))
}

/// `content` of a message.
pub(super) fn message_content() -> RefOr<Schema> {
    let part = json!({
        "type": "object",
        "description": "One part of a message's content. Only `{\"type\": \"text\", \"text\": …}` is understood.",
        "required": ["type", "text"],
        "properties": {
            "type": {"type": "string", "enum": ["text"], "description": "The kind of part."},
            "text": {"type": "string", "description": "The text."},
        },
        "additionalProperties": false,
    });
    of_json(json!({
        "description": "Content of a message: a text, or parts, joined without a separator.",
        "oneOf": [{"type": "string", "description": "A text."}, {"type": "array", "items": part, "minItems": 1, "description": "Parts."}],
    }))
}

/// `logit_bias`.
pub(super) fn logit_bias() -> RefOr<Schema> {
    of_json(json!({
        "type": ["object", "null"],
        "description": "Added to the logits, by token id, each in -100..=100.",
        "additionalProperties": {"type": "number", "format": "double", "minimum": -100, "maximum": 100},
        "propertyNames": {"type": "string", "pattern": "^[0-9]{1,10}$"},
    }))
}

/// `bad_words`.
pub(super) fn bad_words() -> RefOr<Schema> {
    of_json(json!({
        "type": ["array", "null"],
        "description": "Words that are not generated, at most 64: the last token of one is masked after the others.",
        "items": {"type": "string", "minLength": 1},
        "maxItems": 64,
    }))
}

/// `service_tier`.
pub(super) fn service_tier() -> RefOr<Schema> {
    of_json(json!({"type": ["string", "null"], "description": "Without effect.", "enum": ["auto", "default", null]}))
}
