//! `POST /agents/{slug}/upload-code`

use std::{path::Path as FilePath, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{
        DefaultBodyLimit, FromRequest as _, Multipart, Request, State,
        multipart::{Field, MultipartError},
    },
    http::StatusCode,
};
use backlot_domain::{Error, code_agents::Uploaded};
use serde::Serialize;
use tempfile::TempPath;
use tokio::io::AsyncWriteExt as _;

use super::{AgentPath, AgentStatus, deploy::prefers_async};
use crate::{
    castari::{
        Castari,
        caller::CastariCaller,
        error::{ApiError, Location},
        extract::{Path, Query},
    },
    http::{
        body::announces_more_than,
        fields::{Boolean, Fields, FromFields, Problem},
    },
};

/// Largest archive in bytes (spec/castari.md 3).
const LARGEST_ARCHIVE: usize = 100 * 1024 * 1024;
/// What the multipart form itself may take.
const FORM_OVERHEAD: usize = 64 * 1024;
/// How long a deployment is waited for: shorter than the released client's 300 s (spec/castari.md 8.11).
const WAIT: Duration = Duration::from_secs(280);

/// What to do with the code.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UploadQuery {
    /// `false` keeps the code for the next deployment.
    #[param(default = true)]
    auto_deploy: Option<bool>,
}

impl FromFields for UploadQuery {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { auto_deploy: fields.optional("auto_deploy", Boolean) }
    }
}

/// The form of an upload.
#[derive(Debug, utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the form for the API document; the form itself is streamed")]
pub(crate) struct UploadForm {
    /// The archive: `.tar.gz`, `.tar`, `.tar.zst` or `.zip`, at most 100 MiB.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// The answer to an upload (seed: SDK types, `UploadResponse`).
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct UploadResponse {
    /// The agent.
    agent_id: String,
    /// Content hash of the uploaded tree.
    source_hash: String,
    /// How far the agent has come.
    status: AgentStatus,
    /// The prepared sandbox while deployed.
    sandbox_id: Option<String>,
    /// What happened, for people.
    message: String,
}

impl From<Uploaded> for UploadResponse {
    fn from(uploaded: Uploaded) -> Self {
        Self {
            agent_id: uploaded.agent.id,
            source_hash: uploaded.source_hash,
            status: uploaded.agent.status.into(),
            sandbox_id: uploaded.agent.sandbox_id,
            message: uploaded.message,
        }
    }
}

/// Takes an archive of code as the agent's source and deploys it.
///
/// Waits up to 280 seconds for the deployment; `Prefer: respond-async` does not wait.
#[utoipa::path(
    post, path = "/api/v1/agents/{slug}/upload-code", operation_id = "upload_code", tag = "agents",
    params(AgentPath, UploadQuery), request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, body = UploadResponse, description = "Uploaded, and deployed if asked"),
        (status = 202, body = UploadResponse, description = "Uploaded, still building"),
        (status = 400, description = "The archive or its project cannot be deployed (`archive_refused`, `manifest_missing` …)"),
        (status = 413, description = "Larger than 100 MiB (`body_too_large`)"),
    ),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Result<(StatusCode, Json<UploadResponse>), ApiError> {
    let wait = if prefers_async(request.headers()) { Duration::ZERO } else { WAIT };
    let archive = receive(request, &castari.settings.uploads()).await?;
    let auto_deploy = query.auto_deploy.unwrap_or(true);
    let uploaded =
        castari.domain.code_agents.upload(&caller, &path.slug, archive.to_path_buf(), auto_deploy, wait).await?;
    let status = if uploaded.is_deploying { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    Ok((status, Json(uploaded.into())))
}

/// Streams the part `file` into a temporary file, which is removed when the result is dropped.
async fn receive(request: Request, folder: &FilePath) -> Result<TempPath, ApiError> {
    if announces_more_than(request.headers(), LARGEST_ARCHIVE + FORM_OVERHEAD) {
        return Err(ApiError::too_large());
    }
    let request = bounded(request);
    let missing = || ApiError::field(Location::Body, "file", Problem::Missing);
    let mut form = Multipart::from_request(request, &()).await.map_err(|_| missing())?;
    while let Some(part) = form.next_field().await.map_err(broken)? {
        if part.name() == Some("file") {
            return store(part, folder).await;
        }
    }
    Err(missing())
}

/// Parts before the file count too: a form must not be endless.
fn bounded(request: Request) -> Request {
    let (parts, body): (axum::http::request::Parts, Body) = request.into_parts();
    let body = http_body_util::Limited::new(body, LARGEST_ARCHIVE + FORM_OVERHEAD);
    let mut request = Request::from_parts(parts, Body::new(body));
    // The extractor's own limit is smaller than ours.
    DefaultBodyLimit::disable().apply(&mut request);
    request
}

async fn store(mut part: Field<'_>, folder: &FilePath) -> Result<TempPath, ApiError> {
    let failed = |error: std::io::Error| ApiError::from(Error::from_disk(error));
    let (file, path) = tempfile::Builder::new()
        .prefix("upload-")
        .tempfile_in(folder)
        .map(tempfile::NamedTempFile::into_parts)
        .map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut size = 0;
    while let Some(chunk) = part.chunk().await.map_err(broken)? {
        size += chunk.len();
        if size > LARGEST_ARCHIVE {
            return Err(ApiError::too_large());
        }
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    Ok(path)
}

fn broken(error: MultipartError) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::too_large();
    }
    ApiError::field(
        Location::Body,
        "file",
        Problem::Other(String::from("the multipart form is malformed or incomplete")),
    )
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    async fn status_of(content_type: &str, body: impl Into<Body>) -> Result<Vec<u8>, u16> {
        let folder = tempfile::tempdir().expect("a folder");
        let request = Request::builder()
            .method("POST")
            .header("content-type", content_type)
            .body(body.into())
            .expect("a request");
        match receive(request, folder.path()).await {
            Ok(path) => Ok(std::fs::read(&path).expect("the file")),
            Err(error) => Err(error.into_response().status().as_u16()),
        }
    }

    fn form(name: &str, content: &str) -> String {
        format!(
            "--x\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"code.tar.gz\"\r\n\r\n{content}\r\n--x--\r\n"
        )
    }

    #[tokio::test]
    async fn the_file_is_found_and_stored() {
        assert_eq!(status_of("multipart/form-data; boundary=x", form("file", "abc")).await, Ok(b"abc".to_vec()));
    }

    #[tokio::test]
    async fn forms_without_a_whole_file_are_refused() {
        assert_eq!(status_of("multipart/form-data; boundary=x", form("other", "abc")).await, Err(422));
        assert_eq!(status_of("application/json", "{}").await, Err(422));
        assert_eq!(status_of("multipart/form-data", form("file", "abc")).await, Err(422));
        let cut = form("file", "abc").replace("\r\n--x--\r\n", "");
        assert_eq!(status_of("multipart/form-data; boundary=x", cut).await, Err(422));
    }

    #[tokio::test]
    async fn too_much_is_refused_while_it_streams() {
        let endless = futures::stream::unfold(0_usize, |sent| async move {
            let chunk = match sent {
                0 => bytes::Bytes::from(form("file", "").replace("\r\n--x--\r\n", "")),
                _ => bytes::Bytes::from(vec![0_u8; 1 << 20]),
            };
            Some((Ok::<_, std::io::Error>(chunk), sent + 1))
        });
        assert_eq!(status_of("multipart/form-data; boundary=x", Body::from_stream(endless)).await, Err(413));
    }
}
