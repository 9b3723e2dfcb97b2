//! `/v1/models`, the probes and `/version`.

use super::common::ObjectKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The list of models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: ObjectKind,
    /// One entry per served name.
    pub data: Vec<Model>,
}

/// A model under one of its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// The name to put into `model`.
    pub id: String,
    /// Always `model`.
    pub object: ObjectKind,
    /// Unix time at which the server was started.
    pub created: u64,
    /// Who owns it.
    pub owned_by: String,
    /// The first of the served names.
    pub root: String,
    /// Always null: adapters would name their base here.
    #[schema(required = true)]
    pub parent: Option<String>,
    /// Most tokens of prompt and answer together.
    pub max_model_len: u64,
    /// The chat template in use.
    #[schema(required = true)]
    pub chat_template: Option<String>,
    /// What every answer carries as `system_fingerprint`.
    pub system_fingerprint: String,
}

/// Answer of the probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProbeStatus {
    /// `ok`, `draining`, `failed`, `stalled` or `stopped`.
    pub status: String,
    /// Why it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer of `/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The server's version.
    pub version: String,
}
