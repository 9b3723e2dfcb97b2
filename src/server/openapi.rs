//! The OpenAPI document, generated from the routes and the wire types.
//!
//! `openapi.yaml` at the root of the repository is this document: a test compares them. `openelm-server openapi > openapi.yaml` writes it anew.

use super::examples::Examples;
use super::routes::{chat, completions, models, operations, probes, render, tokens};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "openelm-server",
        description = "OpenAI-compatible inference for OpenELM models. In requests `null` means the default of a field, and keys that are unknown or not implemented are refused by name.",
    ),
    paths(
        completions::create,
        chat::create,
        render::completion,
        render::chat,
        tokens::tokenize,
        tokens::detokenize,
        tokens::info,
        models::list,
        models::get,
        probes::health,
        probes::livez,
        probes::readyz,
        probes::startupz,
        operations::metrics,
        operations::version,
        operations::openapi,
    ),
    modifiers(&Security, &Examples),
    security(("api_key" = []), ()),
    tags(
        (name = "generation", description = "Text from the model."),
        (name = "tokens", description = "Texts to tokens and back."),
        (name = "models", description = "What is served."),
        (name = "operations", description = "For probes, dashboards and tools."),
    )
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("One of the keys given by `--api-key`; not needed if there are none."))
            .build();
        openapi.components.get_or_insert_default().add_security_scheme("api_key", SecurityScheme::Http(scheme));
    }
}

/// The document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// The document as YAML, as it stands in `openapi.yaml`.
///
/// # Errors
/// If it cannot be encoded, which a test rules out.
pub fn document_yaml() -> Result<String, String> {
    document().to_yaml().map_err(|error| format!("the OpenAPI document cannot be encoded: {error}"))
}

/// The document as JSON.
///
/// # Errors
/// If it cannot be encoded, which a test rules out.
pub fn document_json() -> Result<String, String> {
    document().to_json().map_err(|error| format!("the OpenAPI document cannot be encoded: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_document_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        let matches = committed == document_yaml().unwrap();
        assert!(matches, "openapi.yaml is out of date: run `cargo run -- openapi > openapi.yaml`");
    }

    #[test]
    fn operation_ids_are_unique() {
        let document = serde_json::to_value(document()).unwrap();
        let paths = document["paths"].as_object().unwrap().values();
        let mut ids: Vec<&str> =
            paths.flat_map(|path| path.as_object().unwrap().values().filter_map(|o| o["operationId"].as_str())).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), count), (16, 16));
    }
}
