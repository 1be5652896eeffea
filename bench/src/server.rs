//! A real server process with an account and, if wanted, a deployed agent.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

/// A running server. Dropping it kills it.
pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
    pub(crate) key: String,
    /// From starting the process to its ready line.
    pub(crate) start: Duration,
    _data: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start(program: &Path, provider: Option<&str>) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let begin = Instant::now();
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--rate-limits", "off", "--data"])
            .arg(data.path().join("data"))
            .env_remove("ANTHROPIC_API_KEY")
            .env_remove("OPENAI_API_KEY")
            .env("BACKLOT_LOG", "error")
            .stdout(Stdio::piped());
        if let Some(url) = provider {
            command.env("ANTHROPIC_API_KEY", "provider-key").env("ANTHROPIC_BASE_URL", url);
        }
        let mut process = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let out = process.stdout.take().context("no standard output")?;
        let ready = BufReader::new(out).lines().next().context("the server did not start")??;
        let start = begin.elapsed();
        let url = ready.strip_prefix("backlot ready on ").context("no ready line")?.to_owned();
        let mut server = Self { process, url, key: String::new(), start, _data: data };
        let answer = server
            .post(
                "/caster/api/v1/auth/register",
                &json!({ "email": "bench@example.org", "password": "a long password" }),
            )
            .await?;
        answer["api_key"].as_str().context("no key")?.clone_into(&mut server.key);
        Ok(server)
    }

    /// Resident memory in megabytes.
    pub(crate) fn memory(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes / 1024.0)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let response = http()?.post(format!("{}{path}", self.url)).bearer_auth(&self.key).json(body).send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "{path} answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Creates and deploys an agent of one file.
    pub(crate) async fn deploy(&self, name: &str, file: &str, program: &str) -> anyhow::Result<()> {
        let manifest = json!({ "name": name, "version": "1.0.0", "runtime": "node", "entrypoint": file }).to_string();
        let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (path, content) in [("castari.json", manifest.as_str()), (file, program)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, content.as_bytes())?;
        }
        let archive = archive.into_inner()?.finish()?;
        self.post("/castari/api/v1/agents", &json!({ "name": name, "slug": name, "source_type": "local" })).await?;
        let part = reqwest::multipart::Part::bytes(archive).file_name("code.tar.gz");
        let response = http()?
            .post(format!("{}/castari/api/v1/agents/{name}/upload-code", self.url))
            .bearer_auth(&self.key)
            .multipart(reqwest::multipart::Form::new().part("file", part))
            .send()
            .await?;
        let status = response.status();
        ensure!(status.is_success(), "deploying answered {status}: {}", response.text().await?);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _already_dead = self.process.kill();
        let _already_reaped = self.process.wait();
    }
}

/// A client of its own, so that its connections are not those of another measurement.
pub(crate) fn http() -> anyhow::Result<reqwest::Client> {
    Ok(backlot_models::http::http_client(None)?)
}
