//! `POST /agents/{slug}/upload`: another name of `upload-code` in the imitated service's documentation

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};

use super::{
    AgentPath,
    upload_code::{self, UploadForm, UploadQuery, UploadResponse},
};
use crate::castari::{
    Castari,
    caller::CastariCaller,
    error::ApiError,
    extract::{Path, Query},
};

/// The same as `POST /api/v1/agents/{slug}/upload-code`.
#[utoipa::path(
    post, path = "/api/v1/agents/{slug}/upload", operation_id = "upload_code_alias", tag = "agents",
    params(AgentPath, UploadQuery), request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, body = UploadResponse, description = "Uploaded, and deployed if asked"),
        (status = 202, body = UploadResponse, description = "Uploaded, still building"),
        (status = 400, description = "The archive or its project cannot be deployed (`archive_refused`, `manifest_missing` …)"),
        (status = 413, description = "Larger than 100 MiB (`body_too_large`)"),
    ),
)]
pub(crate) async fn handler(
    state: State<Castari>,
    caller: CastariCaller,
    path: Path<AgentPath>,
    query: Query<UploadQuery>,
    request: Request,
) -> Result<(StatusCode, Json<UploadResponse>), ApiError> {
    upload_code::handler(state, caller, path, query, request).await
}
