//! A download that goes on where it stopped: after a broken connection at once, after a killed process next time.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::{OnProgress, Phase, Progress, PullError};

/// A connection that brings nothing for this long is given up.
const STALL: Duration = Duration::from_secs(60);

/// So many failures in a row without a single new byte end the download.
const ATTEMPTS: u32 = 4;

/// Downloads `url` into `part`, behind what is there already. At most `limit` bytes.
pub(super) async fn download(
    http: &Client,
    url: &Url,
    part: &Path,
    limit: u64,
    on_progress: &OnProgress,
) -> Result<(), PullError> {
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(part)
        .await
        .map_err(PullError::io("create", part))?;
    let mut transfer = Transfer { http, url, part, limit, on_progress, done: 0 };
    transfer.done = file.metadata().await.map_err(PullError::io("read", part))?.len();
    let mut failures = 0;
    loop {
        let before = transfer.done;
        match transfer.attempt(&mut file).await {
            Ok(()) => {
                file.sync_all().await.or_else(unsupported_is_fine).map_err(PullError::io("write", part))?;
                return Ok(());
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Broken(reason)) => {
                failures = if transfer.done > before { 1 } else { failures + 1 };
                if failures >= ATTEMPTS {
                    return Err(PullError::Network {
                        host: host(url),
                        reason,
                        kept: transfer.done,
                        part: part.to_owned(),
                    });
                }
                tracing::debug!(%reason, bytes = transfer.done, "the download broke off and is continued");
                if transfer.done == before {
                    tokio::time::sleep(Duration::from_millis(250 << failures)).await;
                }
            }
        }
    }
}

/// Why one attempt ended.
enum Failure {
    /// Another attempt may succeed.
    Broken(String),
    /// No attempt will.
    Final(PullError),
}

struct Transfer<'a> {
    http: &'a Client,
    url: &'a Url,
    part: &'a Path,
    limit: u64,
    on_progress: &'a OnProgress,
    /// Bytes in the part file.
    done: u64,
}

impl Transfer<'_> {
    async fn attempt(&mut self, file: &mut File) -> Result<(), Failure> {
        let mut request = self.http.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        if self.done > 0 {
            request = request.header(RANGE, format!("bytes={}-", self.done));
        }
        let answer = match tokio::time::timeout(STALL, request.send()).await {
            Ok(answer) => answer.map_err(|error| self.unreachable(&error))?,
            Err(_) => return Err(Failure::Broken(format!("no answer in {} s", STALL.as_secs()))),
        };
        let total = match answer.status() {
            StatusCode::OK => {
                // From the beginning: the server does not know ranges, or none was asked for.
                self.restart_at(file, 0).await?;
                number(&answer, CONTENT_LENGTH.as_str())
            }
            StatusCode::PARTIAL_CONTENT => match content_range(&answer) {
                Some((start, total)) if start == self.done => {
                    self.restart_at(file, start).await?;
                    total
                }
                _ => {
                    self.restart_at(file, 0).await?;
                    return Err(Failure::Broken("the server sent another part than the one asked for".into()));
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE => {
                if content_range_total(&answer) == Some(self.done) {
                    return Ok(()); // all of it was here already
                }
                self.restart_at(file, 0).await?;
                return Err(Failure::Broken("what was kept does not belong to this download".into()));
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Failure::Broken(format!("the server answered {}", status.as_u16())));
            }
            status => {
                return Err(Failure::Final(PullError::Refused {
                    host: host(self.url),
                    status: status.as_u16(),
                    file: self.url.path_segments().and_then(Iterator::last).unwrap_or_default().to_owned(),
                }));
            }
        };
        if total.is_some_and(|total| total > self.limit) {
            return Err(Failure::Final(PullError::TooLarge { limit: self.limit }));
        }
        self.receive(file, answer, total).await
    }

    async fn receive(&mut self, file: &mut File, answer: Response, total: Option<u64>) -> Result<(), Failure> {
        let mut body = answer.bytes_stream();
        loop {
            let chunk = match tokio::time::timeout(STALL, body.next()).await {
                Err(_) => return Err(self.broken(file, format!("nothing came for {} s", STALL.as_secs())).await),
                Ok(None) => break,
                Ok(Some(Err(error))) => return Err(self.broken(file, chain(&error)).await),
                Ok(Some(Ok(chunk))) => chunk,
            };
            if self.done + chunk.len() as u64 > self.limit {
                return Err(Failure::Final(PullError::TooLarge { limit: self.limit }));
            }
            file.write_all(&chunk).await.map_err(|error| self.unwritable(error))?;
            self.done += chunk.len() as u64;
            (self.on_progress)(Progress { phase: Phase::Downloading, done: self.done, total });
        }
        file.flush().await.map_err(|error| self.unwritable(error))?;
        match total {
            Some(total) if self.done != total => {
                Err(self.broken(file, format!("the connection ended after {} of {total} bytes", self.done)).await)
            }
            _ => Ok(()),
        }
    }

    /// Writes out what arrived before another attempt; a disk that is full then is the true reason.
    async fn broken(&self, file: &mut File, reason: String) -> Failure {
        match file.flush().await {
            Ok(()) => Failure::Broken(reason),
            Err(error) => self.unwritable(error),
        }
    }

    async fn restart_at(&mut self, file: &mut File, start: u64) -> Result<(), Failure> {
        if start < self.done {
            file.set_len(start).await.or_else(unsupported_is_fine).map_err(|error| self.unwritable(error))?;
        }
        file.seek(std::io::SeekFrom::Start(start)).await.map_err(|error| self.unwritable(error))?;
        self.done = start;
        Ok(())
    }

    fn unwritable(&self, error: std::io::Error) -> Failure {
        Failure::Final(PullError::io("write", self.part)(error))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let reason = chain(error);
        if reason.contains("certificate") {
            return Failure::Final(PullError::Certificate { host: host(self.url), reason });
        }
        if error.is_builder() || error.is_redirect() {
            return Failure::Final(PullError::Network {
                host: host(self.url),
                reason,
                kept: self.done,
                part: self.part.to_owned(),
            });
        }
        Failure::Broken(reason)
    }
}

/// Special files cannot be synchronised or shortened; that is no reason to fail.
fn unsupported_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::InvalidInput { Ok(()) } else { Err(error) }
}

/// The host of an address, which may carry credentials elsewhere.
fn host(url: &Url) -> String {
    url.host_str().unwrap_or("the server").to_owned()
}

/// An error with its causes, without the address (it may carry credentials).
fn chain(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() {
        "timed out".to_owned()
    } else if error.is_connect() {
        "no connection".to_owned()
    } else {
        "the connection broke".to_owned()
    };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn number(answer: &Response, header: &str) -> Option<u64> {
    answer.headers().get(header)?.to_str().ok()?.trim().parse().ok()
}

/// Start and total of `Content-Range: bytes start-end/total`; the total may be unknown (`*`).
fn content_range(answer: &Response) -> Option<(u64, Option<u64>)> {
    let value = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

/// Total of `Content-Range: bytes */total`, as it comes with status 416.
fn content_range_total(answer: &Response) -> Option<u64> {
    answer.headers().get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes */")?.trim().parse().ok()
}
