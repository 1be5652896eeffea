//! Encryption at rest, and the keys that everything else is derived from.
//!
//! The vault holds *master keys*, kept outside the database. A secret is sealed in an envelope: its own random data
//! key encrypts the value, and the newest master key wraps the data key (AES-256-GCM-SIV, which survives a repeated
//! nonce). What a secret belongs to is authenticated with it, so that a ciphertext moved to another row does not open.
//!
//! Master keys have versions. A key file or variable holds one entry per line, `<key>` or `<version>:<key>`, where a
//! key is 32 bytes in hex or base64. To rotate: append a line with a higher version; new secrets use it, old ones keep
//! opening. The lowest version stays, because the sub-keys ([`Vault::derive`]) come from it: without it every API key,
//! session and signed address would turn invalid.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use aes_gcm_siv::{
    Aes256GcmSiv, Key, KeyInit as _, Nonce,
    aead::{Aead as _, Payload},
};
use base64::Engine as _;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::SecretString;
use crate::Ids;

/// 32 bytes that are wiped when dropped.
pub type KeyBytes = Zeroizing<[u8; 32]>;

/// Bytes of a nonce, which precedes every ciphertext.
const NONCE: usize = 12;

/// Why the vault cannot be opened, or a secret in it.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Others may read the key file.
    #[error("the master key {path} may be read by others (mode {mode:04o}); run: chmod 600 {path}", path = path.display())]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file cannot be read or written.
    #[error("cannot {action} the master key {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The key file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The text holds no usable key. The text itself is never part of the message.
    #[error("{place}: {reason}; expected lines of 32 bytes in hex or base64, with an optional `<version>:` before")]
    Format {
        /// Where the text came from.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A secret was sealed with a master key that is not here.
    #[error("the secret was sealed with version {0} of the master key, which is missing; add it to the key file")]
    MissingKey(i64),
    /// A secret does not open: altered, moved to another row, or sealed with another key of the same version.
    #[error("the secret does not open: it was altered, or sealed with another master key")]
    Tampered,
    /// A secret could not be sealed.
    #[error("the secret could not be sealed")]
    Seal,
}

/// A secret as it may be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Nonce and encrypted value.
    pub ciphertext: Vec<u8>,
    /// Nonce and wrapped data key.
    pub data_key: Vec<u8>,
    /// The master key's version.
    pub key_version: i64,
}

/// What a secret belongs to. Authenticated with the secret.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// The account, `usr_…`.
    pub account: &'a str,
    /// The thing inside the account.
    pub owner: &'a str,
    /// The secret's name.
    pub name: &'a str,
}

impl Binding<'_> {
    /// The authenticated bytes: every part preceded by its length, so that no two bindings look alike.
    fn bytes(&self, layer: &str, version: i64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.account.len() + self.owner.len() + self.name.len());
        for part in [layer, self.account, self.owner, self.name] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.extend_from_slice(&version.to_be_bytes());
        bytes
    }
}

/// The master keys.
pub struct Vault {
    keys: BTreeMap<i64, KeyBytes>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("versions", &self.keys.keys()).finish_non_exhaustive()
    }
}

impl Vault {
    /// Reads the master keys from a file, which is created with a fresh key (and mode 0600) when it is absent.
    ///
    /// # Errors
    /// A file that group or others may read, is malformed, or cannot be read or created.
    pub fn open(path: &Path, ids: &dyn Ids) -> Result<Self, VaultError> {
        let fail =
            |action: &'static str| move |source: io::Error| VaultError::File { action, path: path.to_owned(), source };
        if !path.try_exists().map_err(fail("find"))? {
            create(path, ids).map_err(fail("create"))?;
        }
        let metadata = fs::metadata(path).map_err(fail("read"))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(VaultError::Permissions { path: path.to_owned(), mode });
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(fail("read"))?);
        Self::parse(&text, &format!("master key {}", path.display()))
    }

    /// Takes the master keys from text, for example of the variable `BACKLOT_MASTER_KEY`.
    ///
    /// # Errors
    /// [`VaultError::Format`].
    pub fn from_text(text: &str) -> Result<Self, VaultError> {
        Self::parse(text, "given master key")
    }

    fn parse(text: &str, place: &str) -> Result<Self, VaultError> {
        let malformed = |reason: String| VaultError::Format { place: place.to_owned(), reason };
        let mut keys = BTreeMap::new();
        for (index, entry) in text.split_whitespace().enumerate() {
            let (version, key) = match entry.split_once(':') {
                Some((version, key)) => match version.parse::<i64>() {
                    Ok(version) if version > 0 => (version, key),
                    _ => return Err(malformed(format!("entry {} has no positive version", index + 1))),
                },
                None => (1, entry),
            };
            let key = decode_key(key).ok_or_else(|| malformed(format!("entry {} is not 32 bytes", index + 1)))?;
            if keys.insert(version, key).is_some() {
                return Err(malformed(format!("version {version} appears twice")));
            }
        }
        if keys.is_empty() {
            return Err(malformed("holds no key".to_owned()));
        }
        Ok(Self { keys })
    }

    /// Encrypts a value for the place that `binding` names.
    ///
    /// # Errors
    /// [`VaultError::Seal`], for values beyond the cipher's range.
    pub fn seal(&self, ids: &dyn Ids, binding: Binding<'_>, value: &SecretString) -> Result<Sealed, VaultError> {
        let (key_version, master) = self.keys.last_key_value().ok_or(VaultError::Seal)?;
        let mut data_key = KeyBytes::default();
        ids.fill(&mut *data_key);
        Ok(Sealed {
            ciphertext: encrypt(ids, &data_key, value.expose().as_bytes(), &binding.bytes("value", 0))?,
            data_key: encrypt(ids, master, &*data_key, &binding.bytes("key", *key_version))?,
            key_version: *key_version,
        })
    }

    /// Decrypts a value that was sealed for the place that `binding` names.
    ///
    /// # Errors
    /// [`VaultError::MissingKey`] or [`VaultError::Tampered`].
    pub fn open_sealed(&self, binding: Binding<'_>, sealed: &Sealed) -> Result<SecretString, VaultError> {
        let data_key = self.unwrap_key(binding, sealed)?;
        let value = decrypt(&data_key, &sealed.ciphertext, &binding.bytes("value", 0))?;
        let value = std::str::from_utf8(&value).map_err(|_| VaultError::Tampered)?;
        Ok(SecretString::from(value))
    }

    /// Wraps the data key of a secret anew with the newest master key; nothing when it already is.
    ///
    /// # Errors
    /// As [`Vault::open_sealed`].
    pub fn rewrap(&self, ids: &dyn Ids, binding: Binding<'_>, sealed: &Sealed) -> Result<Option<Sealed>, VaultError> {
        let (newest, master) = self.keys.last_key_value().ok_or(VaultError::Seal)?;
        if sealed.key_version == *newest {
            return Ok(None);
        }
        let data_key = self.unwrap_key(binding, sealed)?;
        Ok(Some(Sealed {
            ciphertext: sealed.ciphertext.clone(),
            data_key: encrypt(ids, master, &*data_key, &binding.bytes("key", *newest))?,
            key_version: *newest,
        }))
    }

    /// The version of the key that new secrets are sealed with.
    #[must_use]
    pub fn newest_version(&self) -> i64 {
        self.keys.last_key_value().map_or(0, |(version, _)| *version)
    }

    /// A key for one purpose, for example the signing of addresses. The same purpose gives the same key on every
    /// node and after every start; different purposes give unrelated keys.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> KeyBytes {
        // `parse` lets no vault without keys come to life.
        let root = self.keys.first_key_value().map(|(_, key)| key.clone()).unwrap_or_default();
        mac(&root, &["backlot sub-key", purpose])
    }

    fn unwrap_key(&self, binding: Binding<'_>, sealed: &Sealed) -> Result<KeyBytes, VaultError> {
        let master = self.keys.get(&sealed.key_version).ok_or(VaultError::MissingKey(sealed.key_version))?;
        let bytes = decrypt(master, &sealed.data_key, &binding.bytes("key", sealed.key_version))?;
        let bytes = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| VaultError::Tampered)?;
        Ok(Zeroizing::new(bytes))
    }
}

/// HMAC-SHA-256 over parts, each preceded by its length.
pub(super) fn mac(key: &[u8; 32], parts: &[&str]) -> KeyBytes {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut hmac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(key).expect("32 bytes are a key");
    for part in parts {
        hmac.update(&(part.len() as u64).to_be_bytes());
        hmac.update(part.as_bytes());
    }
    Zeroizing::new(hmac.finalize().into_bytes().into())
}

fn decode_key(text: &str) -> Option<KeyBytes> {
    let mut key = KeyBytes::default();
    if text.len() == 64 {
        hex::decode_to_slice(text, &mut *key).ok()?;
        return Some(key);
    }
    let text = text.trim_end_matches('=');
    let engines = [base64::engine::general_purpose::STANDARD_NO_PAD, base64::engine::general_purpose::URL_SAFE_NO_PAD];
    let bytes = engines.iter().find_map(|engine| engine.decode(text).ok()).map(Zeroizing::new)?;
    key.copy_from_slice(bytes.get(..).filter(|bytes| bytes.len() == 32)?);
    Some(key)
}

fn encrypt(ids: &dyn Ids, key: &[u8; 32], plain: &[u8], binding: &[u8]) -> Result<Vec<u8>, VaultError> {
    let mut nonce = [0_u8; NONCE];
    ids.fill(&mut nonce);
    let encrypted = Aes256GcmSiv::new(Key::<Aes256GcmSiv>::from_slice(key))
        .encrypt(Nonce::from_slice(&nonce), Payload { msg: plain, aad: binding })
        .map_err(|_| VaultError::Seal)?;
    Ok([nonce.as_slice(), &encrypted].concat())
}

fn decrypt(key: &[u8; 32], sealed: &[u8], binding: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let (nonce, encrypted) = sealed.split_at_checked(NONCE).ok_or(VaultError::Tampered)?;
    Aes256GcmSiv::new(Key::<Aes256GcmSiv>::from_slice(key))
        .decrypt(Nonce::from_slice(nonce), Payload { msg: encrypted, aad: binding })
        .map(Zeroizing::new)
        .map_err(|_| VaultError::Tampered)
}

/// Makes the key file appear whole or not at all, and never over another one: two first starts at once end up with
/// the same key.
fn create(path: &Path, ids: &dyn Ids) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut key = KeyBytes::default();
    ids.fill(&mut *key);
    let text = Zeroizing::new(format!("1:{}\n", hex::encode(*key)));
    let draft = folder.join(format!(".master-key-{}", ids.base62(12)));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    })();
    fs::remove_file(&draft)?;
    written?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use proptest::prelude::*;

    use super::{Binding, Sealed, Vault, VaultError};
    use crate::{RandomIds, accounts::SecretString};

    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const BINDING: Binding<'_> = Binding { account: "usr_a", owner: "agt_b", name: "TOKEN" };

    fn vault() -> Vault {
        Vault::from_text(KEY).expect("is a key")
    }

    fn sealed(vault: &Vault) -> Sealed {
        vault.seal(&RandomIds, BINDING, &SecretString::from("hunter2-hunter2")).expect("seals")
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_alone() {
        let vault = vault();
        let sealed = sealed(&vault);
        assert_eq!(vault.open_sealed(BINDING, &sealed).expect("opens").expose(), "hunter2-hunter2");
        for elsewhere in [
            Binding { account: "usr_x", ..BINDING },
            Binding { owner: "agt_x", ..BINDING },
            Binding { name: "TOKEN2", ..BINDING },
            // The same letters, divided otherwise.
            Binding { account: "usr_aa", owner: "gt_b", ..BINDING },
        ] {
            assert!(matches!(vault.open_sealed(elsewhere, &sealed), Err(VaultError::Tampered)), "{elsewhere:?}");
        }
        let other = Vault::from_text(&KEY.replace("00", "ff")).expect("is a key");
        assert!(matches!(other.open_sealed(BINDING, &sealed), Err(VaultError::Tampered)));
    }

    #[test]
    fn the_same_value_never_looks_the_same() {
        let vault = vault();
        assert_ne!(sealed(&vault), sealed(&vault));
    }

    #[test]
    fn rotation_keeps_old_secrets_and_sub_keys() {
        let old = vault();
        let before = sealed(&old);
        let new = Vault::from_text(&format!("1:{KEY}\n2:{}", KEY.replace("00", "ff"))).expect("are keys");
        assert_eq!(new.open_sealed(BINDING, &before).expect("opens").expose(), "hunter2-hunter2");
        assert_eq!(*new.derive("x"), *old.derive("x"));
        let after = new.rewrap(&RandomIds, BINDING, &before).expect("opens").expect("is wrapped anew");
        assert_eq!((after.key_version, &after.ciphertext), (2, &before.ciphertext));
        assert_eq!(new.open_sealed(BINDING, &after).expect("opens").expose(), "hunter2-hunter2");
        assert_eq!(new.rewrap(&RandomIds, BINDING, &after).expect("opens"), None);
        assert!(matches!(old.open_sealed(BINDING, &after), Err(VaultError::MissingKey(2))));
        let confused = Sealed { key_version: 1, ..after };
        assert!(matches!(new.open_sealed(BINDING, &confused), Err(VaultError::Tampered)));
    }

    #[test]
    fn sub_keys_are_stable_and_unrelated() {
        assert_eq!(*vault().derive("signed addresses"), *vault().derive("signed addresses"));
        assert_ne!(*vault().derive("signed addresses"), *vault().derive("access tokens"));
        assert_ne!(hex::encode(*vault().derive("")), KEY);
    }

    #[test]
    fn keys_come_in_hex_and_base64() {
        let same = sealed(&vault());
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        for text in
            [format!(" {KEY}\n"), KEY.to_uppercase(), base64.to_owned(), format!("{base64}="), format!("1:{base64}=")]
        {
            assert!(Vault::from_text(&text).expect("is a key").open_sealed(BINDING, &same).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let two = format!("{KEY} {KEY}");
        for bad in ["", "   ", "hunter2", &KEY[1..], &format!("{KEY}0"), &format!("0:{KEY}"), &format!("x:{KEY}"), &two]
        {
            let error = Vault::from_text(bad).expect_err(bad);
            assert!(matches!(error, VaultError::Format { .. }));
            assert!(!error.to_string().contains("hunter2") && !error.to_string().contains(KEY), "{error}");
        }
        assert!(!format!("{:?}", vault()).contains("0001"));
    }

    #[test]
    fn the_key_file_is_made_once_and_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys/master.key");
        let vaults: Vec<Vault> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| Vault::open(&path, &RandomIds))).collect();
            starts.into_iter().map(|start| start.join().expect("no panic").expect("opens")).collect()
        });
        let first = sealed(&vaults[0]);
        assert!(vaults.iter().all(|vault| vault.open_sealed(BINDING, &first).is_ok()), "all have the same key");
        assert!(Vault::open(&path, &RandomIds).expect("opens").open_sealed(BINDING, &first).is_ok());
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        let files: Vec<_> = fs::read_dir(folder.path().join("keys")).expect("is there").collect();
        assert_eq!(files.len(), 1, "no draft is left");
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("master.key");
        Vault::open(&path, &RandomIds).expect("is made");
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("is ours");
            let error = Vault::open(&path, &RandomIds).expect_err("is refused").to_string();
            assert!(error.contains(&format!("mode {mode:04o}")) && error.contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("is ours");
        Vault::open(&path, &RandomIds).expect("opens");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("is ours");
        fs::write(&path, "nonsense").expect("is ours");
        assert!(matches!(Vault::open(&path, &RandomIds), Err(VaultError::Format { .. })));
    }

    proptest! {
        #[test]
        fn every_altered_byte_is_noticed(value in ".{0,200}", at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let vault = vault();
            let sealed = vault.seal(&RandomIds, BINDING, &SecretString::from(value.as_str())).expect("seals");
            let opened = vault.open_sealed(BINDING, &sealed).expect("opens");
            prop_assert_eq!(opened.expose(), value);
            let mut in_value = sealed.clone();
            let place = at.index(in_value.ciphertext.len());
            in_value.ciphertext[place] ^= flip;
            prop_assert!(matches!(vault.open_sealed(BINDING, &in_value), Err(VaultError::Tampered)));
            let mut in_key = sealed.clone();
            let place = at.index(in_key.data_key.len());
            in_key.data_key[place] ^= flip;
            prop_assert!(matches!(vault.open_sealed(BINDING, &in_key), Err(VaultError::Tampered)));
            let mut cut = sealed;
            cut.ciphertext.truncate(at.index(cut.ciphertext.len()));
            prop_assert!(matches!(vault.open_sealed(BINDING, &cut), Err(VaultError::Tampered)));
        }
    }
}
