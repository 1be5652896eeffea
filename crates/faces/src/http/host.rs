//! Faces with a host name of their own, where their paths start at `/` (design: "a face can also be given a host name").

use axum::{extract::Request, http::Uri};

/// Host names of faces: `("api.example.com", "/castari")`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts(Vec<(String, &'static str)>);

impl Hosts {
    pub(crate) fn new(hosts: impl IntoIterator<Item = (String, &'static str)>) -> Self {
        Self(hosts.into_iter().map(|(host, prefix)| (host.to_ascii_lowercase(), prefix)).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the face's prefix before the path of a request for its host. Paths that have the prefix already stay.
    pub(crate) fn rewrite<B>(&self, mut request: Request<B>) -> Request<B> {
        let host = request
            .uri()
            .host()
            .or_else(|| request.headers().get(axum::http::header::HOST).and_then(|host| host.to_str().ok()))
            .map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name).to_ascii_lowercase());
        let Some(prefix) = host.and_then(|host| self.0.iter().find(|(name, _)| *name == host)).map(|(_, p)| *p) else {
            return request;
        };
        let path = request.uri().path();
        if path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return request;
        }
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        if let Ok(uri) = format!("{prefix}{target}").parse::<Uri>() {
            *request.uri_mut() = uri;
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(host: &str, target: &str) -> String {
        let hosts = Hosts::new([(String::from("API.example.com"), "/castari")]);
        let request = Request::builder().uri(target).header("host", host).body(()).expect("a request");
        hosts.rewrite(request).uri().to_string()
    }

    #[test]
    fn paths_of_a_face_with_a_host_start_at_the_root() {
        assert_eq!(rewritten("api.example.com", "/api/v1/agents?limit=1"), "/castari/api/v1/agents?limit=1");
        assert_eq!(rewritten("Api.Example.Com:8443", "/"), "/castari/");
        assert_eq!(rewritten("api.example.com", "/castari/api/v1/agents"), "/castari/api/v1/agents");
        assert_eq!(rewritten("other.example.com", "/api/v1/agents"), "/api/v1/agents");
    }
}
