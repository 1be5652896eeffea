//! Rules for Rust files, and the small scanner that tells code, comments and texts in them apart.

use crate::Tree;

/// The parts of a Rust source file. Each part keeps its line breaks, so that lines can be counted.
#[derive(Debug, Default)]
pub struct Source {
    /// The code, with every comment and every text literal replaced by blanks.
    pub code: String,
    /// The text literals, as written, each with the line it begins on.
    pub texts: Vec<(usize, String)>,
}

impl Source {
    /// Splits a file. Text that is no Rust gives some split or other, never a panic.
    pub fn scan(text: &str) -> Self {
        let mut source = Self::default();
        let mut rest = text;
        let mut line = 1;
        let mut previous = ' ';
        while let Some(first) = rest.chars().next() {
            let (length, kind) = token(rest, previous);
            let (token, tail) = rest.split_at(length);
            match kind {
                Kind::Code => source.code.push_str(token),
                Kind::Comment | Kind::Text => {
                    if kind == Kind::Text {
                        source.texts.push((line, token.to_owned()));
                    }
                    source.code.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                }
            }
            line += token.matches('\n').count();
            previous = token.chars().next_back().unwrap_or(first);
            rest = tail;
        }
        source
    }

    /// The code without what stands behind the first `#[cfg(test)]`: by custom the tests of a file are its last module.
    pub fn product(&self) -> &str {
        self.code.find("#[cfg(test)]").map_or(&self.code, |at| &self.code[..at])
    }

    /// The number of the last line before the tests of this file.
    pub fn product_lines(&self) -> usize {
        self.product().matches('\n').count() + 1
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Text,
}

/// The length in bytes and the kind of what `rest` begins with; `previous` is the character before it.
fn token(rest: &str, previous: char) -> (usize, Kind) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), Kind::Comment);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), Kind::Comment);
    }
    let in_word = previous.is_alphanumeric() || previous == '_';
    if !in_word && let Some(length) = raw_text(rest) {
        return (length, Kind::Text);
    }
    if rest.starts_with('"') {
        return (quoted(rest, '"'), Kind::Text);
    }
    if rest.starts_with('\'') {
        // A character such as '"' or '\'', or else a lifetime.
        let mut chars = rest.chars().skip(1);
        let is_character = match chars.next() {
            Some('\\') => true,
            Some(_) => chars.next() == Some('\''),
            None => false,
        };
        return if is_character { (quoted(rest, '\''), Kind::Text) } else { (1, Kind::Code) };
    }
    (rest.chars().next().map_or(1, char::len_utf8), Kind::Code)
}

fn block_comment(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => (depth, at) = (depth.saturating_sub(1), at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, `br"…"`, `cr"…"`.
fn raw_text(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix("cr")).or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - body.len();
    Some(body.find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The names that directly follow `prefix` in `code`, such as `crate::`, with their lines: also those of a group in
/// braces, to any depth one level down.
pub fn names_after<'a>(code: &'a str, prefix: &str) -> Vec<(usize, &'a str)> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let line = 1 + code[..at].matches('\n').count();
        match rest.strip_prefix('{') {
            None => names.push((line, word(rest))),
            Some(group) => {
                let (mut depth, mut begins) = (0_usize, true);
                for (offset, character) in group.char_indices() {
                    match character {
                        '}' if depth == 0 => break,
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        _ if character.is_whitespace() => {}
                        _ if begins && depth == 0 => {
                            begins = false;
                            let line = line + group[..offset].matches('\n').count();
                            names.push((line, word(&group[offset..])));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// Every file below `src` opens with `//!`: what it is, before anything else.
pub fn opening(tree: &Tree) -> Vec<String> {
    tree.sources()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| format!("{path}:1: the first line must be `//! …`, saying what this file is"))
        .collect()
}

/// A file that no other file declares as its module is neither compiled nor tested, and the compiler does not say so.
/// Integration tests are one program per crate, `tests/it/main.rs`, unless `Cargo.toml` lists others.
pub fn forgotten(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for (path, _) in tree.rust("crates/") {
        let parts: Vec<&str> = path.split('/').collect();
        let is_module = match parts.as_slice() {
            [_, _, "src", "bin", ..] | [_, _, "src", "lib.rs" | "main.rs"] | [_, _, "tests", "it", "main.rs"] => false,
            [_, _, "src", ..] | [_, _, "tests", "it", _, ..] => true,
            _ => false,
        };
        let Some((folder, file)) = path.rsplit_once('/').filter(|_| is_module) else { continue };
        let (folder, name) = match file.strip_suffix(".rs") {
            Some("mod") => folder.rsplit_once('/').unwrap_or(("", folder)),
            Some(name) => (folder, name),
            None => continue,
        };
        let (above, own) = folder.rsplit_once('/').unwrap_or(("", folder));
        let parents = ["mod.rs", "lib.rs", "main.rs"].map(|parent| format!("{folder}/{parent}"));
        let sibling = format!("{above}/{own}.rs");
        let is_declared = parents.iter().chain([&sibling]).filter_map(|parent| tree.text(parent)).any(|text| {
            let code = Source::scan(text).code;
            code.match_indices(&format!("mod {name}")).any(|(at, found)| {
                let next = code[at + found.len()..].trim_start().chars().next();
                matches!(next, Some(';' | '{'))
            })
        });
        if !is_declared {
            offences.push(format!("{path}: no file declares `mod {name};`, so this is not compiled"));
        }
    }
    offences
}

/// Exceptions from lints are `#[expect(…, reason = "…")]`, which say why and end when the cause ends.
pub fn exceptions(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for (path, text) in tree.rust("crates/") {
        for (number, line) in Source::scan(text).code.lines().enumerate() {
            if line.contains("#[allow(") || line.contains("#![allow(") {
                offences.push(format!("{path}:{}: use #[expect(…, reason = \"…\")]", number + 1));
            }
        }
    }
    offences
}
