//! The API document of this face: generated from the handlers, committed as `openapi.json`, checked by a test.

use utoipa::{
    Modify, OpenApi,
    openapi::{
        self, ContentBuilder, Ref, RefOr, ResponseBuilder, Server,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::error::ErrorResponse;

/// What the document says besides its operations.
#[derive(OpenApi)]
#[openapi(
    info(title = "Backlot: caster", description = "Publish sites. So far: accounts. Errors are `{\"error\", \"code\"}`."),
    components(schemas(ErrorResponse)),
    modifiers(&Shared),
)]
pub(crate) struct Document;

/// What all operations have in common, said once.
struct Shared;

impl Modify for Shared {
    fn modify(&self, document: &mut openapi::OpenApi) {
        document.servers = Some(vec![Server::new("/caster")]);
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        document.components.get_or_insert_default().add_security_scheme("bearer", SecurityScheme::Http(bearer));
        document.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    }
}

/// Gives every error answer its schema.
pub(crate) fn complete(mut document: openapi::OpenApi) -> openapi::OpenApi {
    let error = |description: &str| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorResponse"))).build();
        ResponseBuilder::new().description(description).content("application/json", content).build()
    };
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            for (status, response) in responses.iter_mut() {
                if let RefOr::T(response) = response
                    && status.starts_with(['4', '5'])
                {
                    *response = error(&response.description);
                }
            }
            responses.insert("default".into(), error("Any other error").into());
        }
    }
    document
}
