//! `GET /v1/models` and `GET /v1/models/{id}`.

use crate::api::common::ObjectKind;
use crate::api::error::ErrorBody;
use crate::api::models::{Model, ModelList};
use crate::server::App;
use crate::server::error::ApiError;
use crate::server::json::Json;
use crate::server::model_card::ModelCard;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use std::sync::Arc;

/// Lists the served model under each of its names.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "listModels",
    tag = "models",
    responses(
        (status = 200, description = "The models.", body = ModelList),
        (status = 401, description = "No API key, or a wrong one.", body = ErrorBody),
    )
)]
pub async fn list(State(app): State<Arc<App>>) -> Json<ModelList> {
    let card = &app.state.model;
    Json(ModelList { object: ObjectKind::List, data: card.names.iter().map(|name| model(card, name)).collect() })
}

/// Describes one model. Names may contain slashes.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    operation_id = "retrieveModel",
    tag = "models",
    params(("id" = String, Path, description = "A name of the served model.")),
    responses(
        (status = 200, description = "The model.", body = Model),
        (status = 401, description = "No API key, or a wrong one.", body = ErrorBody),
        (status = 404, description = "No such model.", body = ErrorBody),
    )
)]
pub async fn get(State(app): State<Arc<App>>, uri: Uri, id: Result<Path<String>, PathRejection>) -> Result<Json<Model>, ApiError> {
    let card = &app.state.model;
    // What does not decode to text is no name of a model.
    let undecoded = |_| uri.path().trim_start_matches("/v1/models/").to_owned();
    let id = id.map_or_else(undecoded, |Path(id)| id);
    if card.names.contains(&id) {
        Ok(Json(model(card, &id)))
    } else {
        Err(ApiError::ModelNotFound { model: id, served: card.names.clone() })
    }
}

fn model(card: &ModelCard, name: &str) -> Model {
    Model {
        id: name.to_owned(),
        object: ObjectKind::Model,
        created: card.created,
        owned_by: "openelm-server".to_owned(),
        root: card.names.first().cloned().unwrap_or_default(),
        parent: None,
        max_model_len: card.max_model_len as u64,
        chat_template: card.chat_template.clone(),
        system_fingerprint: card.fingerprint.clone(),
    }
}
