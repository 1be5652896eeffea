//! The API document of this face: generated from the handlers, committed as `openapi.json`, checked by a test.

use utoipa::{
    Modify, OpenApi,
    openapi::{
        self, ContentBuilder, Ref, RefOr, ResponseBuilder, Server,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::error::{ErrorResponse, ValidationErrorResponse, ValidationItem};

/// What the document says besides its operations.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Backlot: castari",
        description = "Deploy agent code into sandboxes and invoke it. Errors are `{\"detail\", \"code\"}`; status 422 has a \
                       list of fields as `detail`. Every answer carries `X-Request-Id`, `X-RateLimit-Limit`, \
                       `X-RateLimit-Remaining` and `X-RateLimit-Reset`."
    ),
    components(schemas(ErrorResponse, ValidationErrorResponse, ValidationItem)),
    modifiers(&Shared),
)]
pub(crate) struct Document;

/// What all operations have in common, said once.
struct Shared;

impl Modify for Shared {
    fn modify(&self, document: &mut openapi::OpenApi) {
        document.servers = Some(vec![Server::new("/castari")]);
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(
            "bearer",
            SecurityScheme::Http(
                HttpBuilder::new()
                    .scheme(HttpAuthScheme::Bearer)
                    .description(Some("An API key (`cast_…`) or an access token; `X-API-Key` is accepted as an alias."))
                    .build(),
            ),
        );
        document.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    }
}

/// Adds the error answers, which are the same everywhere, to every operation.
pub(crate) fn complete(mut document: openapi::OpenApi) -> openapi::OpenApi {
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            add_errors(operation);
        }
    }
    document
}

fn add_errors(operation: &mut Operation) {
    let error = |description: &str, schema: &str| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
        ResponseBuilder::new().description(description).content("application/json", content).build()
    };
    let takes_input =
        operation.request_body.is_some() || operation.parameters.as_ref().is_some_and(|all| !all.is_empty());
    let responses = &mut operation.responses.responses;
    for (status, response) in responses.iter_mut() {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
        {
            *response = error(&response.description, "ErrorResponse");
        }
    }
    if takes_input {
        responses.insert("422".into(), error("Wrong fields, all of them", "ValidationErrorResponse").into());
    }
    responses.insert(
        "default".into(),
        error(
            "401 `unauthorized`, 403 `insufficient_scope`, 404 `…_not_found`, 429 `rate_limited`, 500 `internal`",
            "ErrorResponse",
        )
        .into(),
    );
}
