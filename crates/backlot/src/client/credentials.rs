//! Which server, with which key: flags, variables, and the file that `backlot login` writes.
//!
//! The file is `$XDG_CONFIG_HOME/backlot/credentials.json` (else `~/.config/…`), mode 0600, written
//! whole and renamed into place. It keeps one entry per server address, so that a key is never sent to a
//! server it was not made for: naming another server with `--url` or `BACKLOT_URL` does not take the key along.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

use super::error::Error;
use crate::cli::{ApiKey, GlobalOptions};

/// Where a server listens when nobody says otherwise.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

/// The credentials file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Store {
    /// The server of the latest login, used when no other is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) default: Option<String>,
    /// One entry per server, by base address without a trailing slash.
    #[serde(default)]
    pub(crate) servers: BTreeMap<String, Entry>,
}

/// What is stored for one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) api_key: ApiKey,
    /// Whose key it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) email: Option<String>,
    /// True when `login` made the key for this machine, so that `logout` should revoke it.
    #[serde(default)]
    pub(crate) created_by_login: bool,
}

/// Where the key in use came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// `--api-key` or a variable.
    Given,
    /// The credentials file.
    File,
}

/// The server and key a command talks with.
#[derive(Debug)]
pub(crate) struct Target {
    /// Base address, without a trailing slash in its path.
    pub(crate) server: Url,
    /// The key and where it came from; None when nobody is signed in.
    pub(crate) key: Option<(ApiKey, Source)>,
}

/// The form in which a server is a key of the file and is printed.
pub(crate) fn server_name(server: &Url) -> &str {
    server.as_str().trim_end_matches('/')
}

/// Reads a server address as a person types it: a missing scheme means http on loopback and https elsewhere.
///
/// # Errors
/// [`Error::Usage`] when it is no http or https address, or carries a user name or a query.
pub(crate) fn parse_server(text: &str) -> Result<Url, Error> {
    let text = text.trim();
    let full = if text.contains("://") {
        text.to_owned()
    } else if text.starts_with("localhost") || text.starts_with("127.") || text.starts_with("[::1]") {
        format!("http://{text}")
    } else {
        format!("https://{text}")
    };
    let wrong = |why: &str| Error::Usage(format!("`{text}` is not a server address: {why}"));
    let mut url = Url::parse(&full).map_err(|e| wrong(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("it must start with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("leave out user names, queries and fragments"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// The path of the credentials file.
///
/// # Errors
/// When neither `XDG_CONFIG_HOME` nor `HOME` is set.
pub(crate) fn path(env: impl Fn(&str) -> Option<String>) -> Result<PathBuf, Error> {
    let set = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // The XDG specification says that a relative path there is to be ignored.
    let base = set("XDG_CONFIG_HOME")
        .filter(|p| p.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".config")))
        .ok_or_else(|| {
            Error::failed_with("there is no home folder to keep credentials in", "set HOME, or use BACKLOT_API_KEY")
        })?;
    Ok(base.join("backlot").join("credentials.json"))
}

impl Store {
    /// Reads the file; an absent one is an empty store.
    ///
    /// # Errors
    /// When the file cannot be read or is not what `login` writes.
    pub(crate) fn load(path: &Path) -> Result<Self, Error> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::file("read", path, e)),
        };
        // The parser's message may quote the text, which holds keys: give only the place.
        serde_json::from_str(&text).map_err(|e| {
            Error::failed_with(
                format!("{} is damaged (line {}, column {})", path.display(), e.line(), e.column()),
                "remove the file and sign in again with `backlot login`",
            )
        })
    }

    /// Writes the file with mode 0600 in a folder of mode 0700: whole or not at all.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Error> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| Error::file("create", folder, e))?;
        let fresh = folder.join(format!(".credentials.{}.new", std::process::id()));
        let mut text = serde_json::to_string_pretty(self).map_err(|e| Error::failed(e.to_string()))?;
        text.push('\n');
        let written = (|| {
            // A left-over of a crashed login may have another mode: never write into it.
            match fs::remove_file(&fresh) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, path)
        })();
        written.map_err(|e| {
            let _ = fs::remove_file(&fresh);
            Error::file("write", path, e)
        })
    }
}

/// True when others than the owner can read the file.
pub(crate) fn readable_by_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0)
}

/// Puts flags, variables and the file together. `env` gives the value of a variable.
///
/// # Errors
/// When an address is not valid or the file is damaged.
pub(crate) fn resolve(
    options: &GlobalOptions,
    store: &Store,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Target, Error> {
    let set = |name: &str| env(name).filter(|v| !v.trim().is_empty());
    // The imitated SDK appends /api/v1 to its address, so that variable points at our castari face.
    let castari = set("CASTARI_API_URL").map(|u| {
        let u = u.trim().trim_end_matches('/');
        u.strip_suffix("/castari").unwrap_or(u).to_owned()
    });
    let named = options.url.clone().filter(|u| !u.trim().is_empty());
    let server = match named.or(castari).or_else(|| store.default.clone()) {
        Some(text) => parse_server(&text)?,
        None => parse_server(DEFAULT_SERVER)?,
    };
    let given = match options.api_key.clone().filter(|k| !k.is_empty()) {
        Some(key) if key.expose() == "-" => Some(read_key_from_stdin()?),
        Some(key) => Some(key),
        None => set("CASTARI_API_KEY").map(|k| ApiKey::new(&k)),
    };
    let key = match given {
        Some(key) => Some((key, Source::Given)),
        None => store.servers.get(server_name(&server)).map(|e| (e.api_key.clone(), Source::File)),
    };
    Ok(Target { server, key })
}

fn read_key_from_stdin() -> Result<ApiKey, Error> {
    let mut text = String::new();
    io::stdin()
        .take(4096)
        .read_to_string(&mut text)
        .map_err(|e| Error::failed(format!("cannot read the key from standard input: {e}")))?;
    let key = ApiKey::new(&text);
    if key.is_empty() {
        return Err(Error::Usage("--api-key - was given, but standard input is empty".into()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    fn store() -> Store {
        let entry = |k: &str| Entry { api_key: ApiKey::new(k), email: None, created_by_login: true };
        Store {
            default: Some("https://one.example.com".into()),
            servers: BTreeMap::from([
                ("https://one.example.com".into(), entry("cast_11111111_a")),
                ("https://two.example.com".into(), entry("cast_22222222_b")),
            ]),
        }
    }

    #[test]
    fn the_file_is_private_and_survives_a_round_trip() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = home.path().join("deep/backlot/credentials.json");
        store().save(&path).expect("save");
        store().save(&path).expect("save over an existing file");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "mode {mode:o}");
        let folder = fs::metadata(path.parent().expect("parent")).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(folder, 0o700, "mode {folder:o}");
        assert!(!readable_by_others(&path));
        let back = Store::load(&path).expect("load");
        assert_eq!(back.servers["https://two.example.com"].api_key.expose(), "cast_22222222_b");
        let left: Vec<_> = fs::read_dir(path.parent().expect("parent")).expect("list").collect();
        assert_eq!(left.len(), 1, "no temporary file stays behind");
    }

    #[test]
    fn a_damaged_file_is_reported_without_its_content() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = home.path().join("credentials.json");
        fs::write(&path, r#"{"servers":{"x":{"api_key":"cast_topsecret"}}"#).expect("write");
        let text = Store::load(&path).expect_err("damaged").to_string();
        assert!(text.contains("damaged") && !text.contains("topsecret"), "{text}");
    }

    #[test]
    fn a_key_is_not_sent_to_another_server() {
        let target = resolve(&GlobalOptions::default(), &store(), none).expect("resolve");
        assert_eq!(server_name(&target.server), "https://one.example.com");
        assert_eq!(target.key.expect("key").0.expose(), "cast_11111111_a");
        let options = GlobalOptions { url: Some("https://evil.example.com/".into()), ..GlobalOptions::default() };
        assert!(resolve(&options, &store(), none).expect("resolve").key.is_none());
    }

    #[test]
    fn flags_beat_variables_and_variables_beat_the_file() {
        let env = |name: &str| match name {
            "CASTARI_API_URL" => Some("https://two.example.com/castari/".to_owned()),
            "CASTARI_API_KEY" => Some("cast_33333333_c".to_owned()),
            _ => None,
        };
        let target = resolve(&GlobalOptions::default(), &store(), env).expect("resolve");
        assert_eq!(server_name(&target.server), "https://two.example.com");
        let (key, source) = target.key.expect("key");
        assert_eq!((key.expose(), source), ("cast_33333333_c", Source::Given));
        let options = GlobalOptions {
            url: Some("http://localhost:9/".into()),
            api_key: Some(ApiKey::new("cast_44444444_d")),
            ..GlobalOptions::default()
        };
        let target = resolve(&options, &store(), env).expect("resolve");
        assert_eq!(server_name(&target.server), "http://localhost:9");
        assert_eq!(target.key.expect("key").0.expose(), "cast_44444444_d");
    }

    #[test]
    fn empty_variables_count_as_unset() {
        let options =
            GlobalOptions { url: Some(String::new()), api_key: Some(ApiKey::new(" ")), ..GlobalOptions::default() };
        let target = resolve(&options, &Store::default(), |_| Some(String::new())).expect("resolve");
        assert_eq!(server_name(&target.server), DEFAULT_SERVER);
        assert!(target.key.is_none());
    }

    #[test]
    fn addresses_are_read_as_people_type_them() {
        let read = |t: &str| parse_server(t).map(|u| server_name(&u).to_owned()).ok();
        assert_eq!(read("localhost:8080").as_deref(), Some("http://localhost:8080"));
        assert_eq!(read("cloud.example.com").as_deref(), Some("https://cloud.example.com"));
        assert_eq!(read("https://x.example.com/base//").as_deref(), Some("https://x.example.com/base"));
        for bad in ["", "ftp://x", "http://", "http://u:p@x", "http://x/?a=b", "http://x y"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_folder_follows_xdg() {
        let env = |pairs: &'static [(&'static str, &'static str)]| {
            move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        };
        let of = |pairs| path(env(pairs)).expect("path");
        assert_eq!(of(&[("HOME", "/h")]), Path::new("/h/.config/backlot/credentials.json"));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]), Path::new("/c/backlot/credentials.json"));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "rel")]), Path::new("/h/.config/backlot/credentials.json"));
        assert!(path(none).is_err());
    }
}
