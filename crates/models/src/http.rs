//! The HTTP client that all providers share: pooled connections, and trust in the host's authorities.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Longest wait for a connection, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The extra authorities are not PEM, or hold no certificate.
    #[error("the extra certificate authorities cannot be read: {0}; expected a PEM file with at least one certificate")]
    ExtraCa(String),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Builds the client. One per process is right: its pool keeps connections to the providers open.
///
/// Trusted are the host's own authorities (or a built-in list, where the host has none), and those in `extra_ca`,
/// a PEM file's content. No answer is decompressed and no redirect followed: a provider that redirects a paid
/// request is misconfigured, and its answer is passed on.
///
/// # Errors
/// When `extra_ca` holds no certificate or TLS cannot be set up.
#[expect(clippy::disallowed_methods, reason = "this is the one place that builds a client")]
pub fn http_client(extra_ca: Option<&[u8]>) -> Result<reqwest::Client, ClientError> {
    // A second installation fails and changes nothing, which is all we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut roots = rustls::RootCertStore::empty();
    // Single unreadable certificates of the host are no reason to refuse the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(pem) = extra_ca {
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| ClientError::ExtraCa(error.to_string()))?;
            roots.add(certificate).map_err(|error| ClientError::ExtraCa(error.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(ClientError::ExtraCa("it holds no certificate".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(Duration::from_secs(90))
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("backlot/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| ClientError::Tls(describe(&error)))
}

/// How long the answer asks to wait before the next try: `retry-after-ms`, or `retry-after` in seconds or as a date.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let positive = |number: f64| Duration::try_from_secs_f64(number).ok();
    if let Some(wait) = text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()) {
        return positive(wait / 1000.0);
    }
    let wait = text("retry-after")?;
    if let Ok(seconds) = wait.parse::<f64>() {
        return positive(seconds);
    }
    // The answer's own date is the provider's clock, so that ours need not agree with it.
    let until = jiff::fmt::rfc2822::parse(wait).ok()?;
    let now = jiff::fmt::rfc2822::parse(text("date")?).ok()?;
    let seconds = until.timestamp().as_second().saturating_sub(now.timestamp().as_second());
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// An error of the HTTP client with its causes and without the address, which may hold credentials.
pub(crate) fn describe(error: &reqwest::Error) -> String {
    let mut words = if error.is_connect() {
        "cannot connect to the provider".to_owned()
    } else if error.is_body() || error.is_decode() {
        "the connection to the provider broke".to_owned()
    } else {
        "the request to the provider failed".to_owned()
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !said.contains("://") && !words.ends_with(&said) {
            words.push_str(": ");
            words.push_str(&said);
        }
        cause = inner.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        pairs.collect()
    }

    #[test]
    fn retry_after_in_all_its_forms() {
        let wait = |pairs| retry_after(&headers(pairs));
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(wait(&[("retry-after", "0.5")]), Some(Duration::from_millis(500)));
        assert_eq!(wait(&[("retry-after-ms", "250"), ("retry-after", "9")]), Some(Duration::from_millis(250)));
        let date = [("retry-after", "Tue, 24 Nov 2026 10:00:30 GMT"), ("date", "Tue, 24 Nov 2026 10:00:00 GMT")];
        assert_eq!(wait(&date), Some(Duration::from_secs(30)));
        for nonsense in ["", "-1", "soon", "NaN", "inf", "1e300"] {
            assert_eq!(retry_after(&headers(&[("retry-after", nonsense)])), None, "{nonsense:?}");
        }
        assert_eq!(wait(&[]), None);
    }

    #[test]
    fn a_client_is_built_with_and_without_extra_authorities() {
        assert!(http_client(None).is_ok());
        assert!(matches!(http_client(Some(b"not PEM")), Err(ClientError::ExtraCa(_))));
    }
}
