//! What people and programs see: tables and facts, JSON, and notes on standard error.
//!
//! Results go to standard output, everything else to standard error, so that any command can be piped.
//! Text that came from a server is made harmless for a terminal before it is shown to a person.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Row, Width};
use serde_json::Value;

use super::error::Error;
use crate::cli::GlobalOptions;

/// Width that a table fits when standard output is no terminal.
const DEFAULT_WIDTH: u16 = 80;
/// What is left to a column of free text, or of names, when space is short.
const TEXT_WIDTH: u16 = 8;

/// How this process prints.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// Print JSON instead of tables.
    pub(crate) json: bool,
    /// Print no notes.
    pub(crate) quiet: bool,
    color_stdout: bool,
    color_stderr: bool,
}

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Table {
    heads: Vec<Head>,
    rows: Vec<Vec<String>>,
}

/// How a column behaves when space is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// A name that people copy: kept whole as long as possible.
    Id(&'static str),
    /// Free text: cut first.
    Text(&'static str),
    /// A figure: right-aligned, never cut.
    Number(&'static str),
    /// A short word: never cut, coloured when it is a status.
    Word(&'static str),
}

impl Head {
    fn title(self) -> &'static str {
        match self {
            Self::Id(title) | Self::Text(title) | Self::Number(title) | Self::Word(title) => title,
        }
    }
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(heads: &[Head]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells beyond the columns are not shown.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|c| one_line(&c)).collect());
    }

    /// Width of a column's longest cell, by characters.
    fn natural(&self, index: usize) -> u16 {
        let cells = self.rows.iter().filter_map(|r| r.get(index)).map(|c| c.chars().count());
        let title = self.heads.get(index).map_or(0, |h| h.title().len());
        u16::try_from(cells.max().unwrap_or(0).max(title)).unwrap_or(u16::MAX)
    }

    /// Blanks between columns: two, or one when that makes everything fit.
    fn gap(&self, width: u16) -> u16 {
        let columns = self.heads.len();
        let content: u32 = (0..columns).map(|i| u32::from(self.natural(i))).sum();
        if content + 2 * u32::try_from(columns).unwrap_or(0) > u32::from(width) { 1 } else { 2 }
    }

    /// Up to which width names are kept whole: what the figures leave, less a little for each free text.
    fn identifier_bound(&self, width: u16, gap: u16) -> u16 {
        let mut left = width;
        let mut names = 0;
        for (index, head) in self.heads.iter().enumerate() {
            let taken = match head {
                Head::Number(_) | Head::Word(_) => self.natural(index).saturating_add(gap),
                Head::Text(_) => self.natural(index).min(TEXT_WIDTH) + gap,
                Head::Id(_) => {
                    names += 1;
                    gap
                }
            };
            left = left.saturating_sub(taken);
        }
        (left / names.max(1)).max(TEXT_WIDTH)
    }

    /// The table as lines of at most `width` columns.
    fn render(&self, width: u16, color: bool) -> String {
        let mut table = comfy_table::Table::new();
        table
            .load_preset(comfy_table::presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
        if color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_truncation_indicator("…");
        table.set_header(self.heads.iter().map(|h| {
            let cell = Cell::new(h.title());
            if matches!(h, Head::Number(_)) { cell.set_alignment(CellAlignment::Right) } else { cell }
        }));
        for cells in &self.rows {
            let mut row = Row::new();
            for (head, text) in self.heads.iter().zip(cells) {
                let mut cell = Cell::new(text);
                if matches!(head, Head::Number(_)) {
                    cell = cell.set_alignment(CellAlignment::Right);
                }
                if let (Head::Word(_), true, Some(tint)) = (head, color, status_color(text)) {
                    cell = cell.fg(tint);
                }
                row.add_cell(cell);
            }
            row.max_height(1);
            table.add_row(row);
        }
        let gap = self.gap(width);
        let bound = self.identifier_bound(width, gap);
        for (index, head) in self.heads.iter().enumerate() {
            let natural = self.natural(index);
            let Some(column) = table.column_mut(index) else { continue };
            column.set_padding((0, gap));
            // Padding counts as part of a column's width.
            match head {
                Head::Number(_) | Head::Word(_) => {
                    column.set_constraint(ColumnConstraint::ContentWidth);
                }
                Head::Id(_) => {
                    column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(natural.min(bound) + gap)));
                }
                Head::Text(_) => {}
            }
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn status_color(word: &str) -> Option<Color> {
    match word {
        "active" | "completed" | "succeeded" => Some(Color::Green),
        "error" | "failed" => Some(Color::Red),
        "deploying" | "running" => Some(Color::Yellow),
        "stopped" | "draft" => Some(Color::DarkGrey),
        _ => None,
    }
}

impl Output {
    /// Reads `--json`, `--quiet`, `NO_COLOR` and what kind of thing we print to.
    pub(crate) fn new(options: &GlobalOptions, env: impl Fn(&str) -> Option<String>) -> Self {
        let plain = env("NO_COLOR").is_some_and(|v| !v.is_empty()) || env("TERM").is_some_and(|t| t == "dumb");
        Self {
            json: options.json,
            quiet: options.quiet,
            color_stdout: !plain && !options.json && io::stdout().is_terminal(),
            color_stderr: !plain && !options.json && io::stderr().is_terminal(),
        }
    }

    /// True when progress may be drawn: a person is looking and did not ask for silence.
    pub(crate) fn progress(&self) -> bool {
        !self.json && !self.quiet && io::stderr().is_terminal()
    }

    /// Writes text to standard output exactly as it is.
    ///
    /// # Errors
    /// [`Error::BrokenPipe`] when the reader has gone.
    pub(crate) fn write(&self, text: &str) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(stdout_error)
    }

    /// Writes a result line to standard output.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn line(&self, text: &str) -> Result<(), Error> {
        self.write(&format!("{text}\n"))
    }

    /// Prints a JSON value, indented.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn json(&self, value: &Value) -> Result<(), Error> {
        self.line(&format!("{value:#}"))
    }

    /// Prints one JSON value per line, for streams.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn json_line(&self, value: &Value) -> Result<(), Error> {
        self.line(&value.to_string())
    }

    /// Prints a table; `empty` is said on standard error instead when there are no rows.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn table(&self, table: &Table, empty: &str) -> Result<(), Error> {
        if table.rows.is_empty() {
            self.note(empty);
            return Ok(());
        }
        let width = terminal_width().unwrap_or(DEFAULT_WIDTH).max(40);
        self.write(&table.render(width, self.color_stdout))
    }

    /// Prints aligned `label: value` lines.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn facts(&self, facts: &[(&str, String)]) -> Result<(), Error> {
        let width = facts.iter().map(|(l, _)| l.len()).max().unwrap_or(0) + 1;
        let mut text = String::new();
        for (label, value) in facts {
            let value = if value.is_empty() { "N/A".to_owned() } else { one_line(value) };
            text.push_str(&format!("{:width$} {value}\n", format!("{label}:")));
        }
        self.write(&text)
    }

    /// Says something to a person; silent with `--quiet`.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            stderr_line(&harmless(text));
        }
    }

    /// Says that something was done; silent with `--quiet`.
    pub(crate) fn done(&self, text: &str) {
        if !self.quiet {
            stderr_line(&format!("{} {}", self.paint("32", "✓"), harmless(text)));
        }
    }

    /// Suggests a next step; silent with `--quiet`.
    pub(crate) fn hint(&self, text: &str) {
        if !self.quiet {
            stderr_line(&format!("{} {}", self.paint("90", "→"), harmless(text)));
        }
    }

    /// Warns; shown even with `--quiet`.
    pub(crate) fn warn(&self, text: &str) {
        stderr_line(&format!("{} {}", self.paint("33", "warning:"), harmless(text)));
    }

    /// Reports why the command failed, with its hint; as one JSON line with `--json`.
    pub(crate) fn error(&self, error: &Error) {
        if self.json {
            let report = serde_json::json!({"error": {
                "code": error.code(), "message": error.to_string(), "status": error.status(), "hint": error.hint(),
            }});
            stderr_line(&report.to_string());
            return;
        }
        stderr_line(&format!("{} {}", self.paint("31", "error:"), harmless(&error.to_string())));
        if let Some(hint) = error.hint() {
            stderr_line(&format!("{} {}", self.paint("36", "hint:"), harmless(&hint)));
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color_stderr { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

fn terminal_width() -> Option<u16> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(&out).ok().map(|s| s.ws_col).filter(|w| *w > 0)
}

fn stdout_error(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Error::BrokenPipe
    } else {
        Error::failed(format!("cannot write to standard output: {error}"))
    }
}

/// Standard error may be closed; there is nowhere left to say so.
fn stderr_line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Replaces control characters, which could drive the terminal, and keeps line breaks and tabs.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if is_unsafe(c) && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// As [`harmless`], and line breaks and tabs become blanks.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => ' ',
            c if is_unsafe(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

fn is_unsafe(c: char) -> bool {
    // Besides control characters: the marks that reorder text and so can disguise a name.
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A long id cut for a table: 13 characters and `...`, as the imitated client does.
pub(crate) fn short_id(id: &str) -> String {
    if id.chars().count() > 16 { format!("{}...", id.chars().take(13).collect::<String>()) } else { id.to_owned() }
}

/// A time of the API in the local time zone, to the minute; unknown text is shown as it is.
pub(crate) fn moment(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) => text.to_owned(),
    }
}

/// A cost in US dollars, from the API's decimal string or number. What is not known is said, and never shown as zero:
/// `unpriced` counts the model calls whose price is unknown.
pub(crate) fn dollars(cost: &Value, unpriced: u64) -> String {
    let amount = match cost {
        Value::String(text) => text.parse::<f64>().ok(),
        Value::Number(number) => number.as_f64(),
        _ => None,
    };
    let known = match amount {
        Some(a) if a > 0.0 && a < 0.0001 => "<$0.0001".to_owned(),
        Some(a) if a > 0.0 || unpriced == 0 => format!("${a:.4}"),
        _ => return "price unknown".into(),
    };
    if unpriced > 0 { format!("{known} + unknown") } else { known }
}

/// A whole number with thousands separated.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count in at most five characters, for narrow tables.
pub(crate) fn compact(number: u64) -> String {
    match number {
        0..10_000 => thousands(number),
        10_000..1_000_000 => format!("{}k", number / 1000),
        1_000_000..10_000_000_000 => format!("{}M", number / 1_000_000),
        _ => format!("{}G", number / 1_000_000_000),
    }
}

/// A duration in milliseconds as people say it.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// A size in bytes as people say it.
pub(crate) fn bytes(size: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if size < 1024 {
        return format!("{size} B");
    }
    let mut tenths = u128::from(size) * 10;
    let mut unit = "B";
    for name in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = name;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(text: &str) -> String {
        text.repeat(30)
    }

    #[test]
    fn tables_fit_the_width_and_keep_names_whole() {
        let mut table = Table::new(&[Head::Text("NAME"), Head::Id("SLUG"), Head::Word("STATUS"), Head::Number("COST")]);
        table.row([wide("Long name "), "invoice-helper-for-the-desk".into(), "active".into(), "$0.0069".into()]);
        table.row(["名前の長いエージェント".repeat(5), "b".into(), "error".into(), "$12.0000".into()]);
        let text = table.render(80, false);
        for line in text.lines() {
            let cells: usize = line.chars().map(|c| if c > '\u{2e80}' { 2 } else { 1 }).sum();
            assert!(cells <= 80, "{cells} columns: {line}");
        }
        assert!(text.contains("invoice-helper-for-the-desk"), "{text}");
        assert!(text.contains("$12.0000") && text.contains("active"), "{text}");
        assert!(text.contains('…'), "{text}");
        assert_eq!(text.lines().count(), 3, "one line per row:\n{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_full_history_fits_without_cutting_ids() {
        let mut table = Table::new(&[
            Head::Id("ID"),
            Head::Word("STATUS"),
            Head::Number("TOKENS"),
            Head::Number("COST"),
            Head::Number("TIME"),
            Head::Word("CREATED"),
        ]);
        let id = format!("inv_{}", "0".repeat(26));
        table.row([
            id.clone(),
            "completed".into(),
            "9,999".into(),
            "$12.0000".into(),
            "599.9 s".into(),
            "03-02 09:14".into(),
        ]);
        let text = table.render(80, false);
        assert!(text.contains(&id) && text.lines().all(|l| l.chars().count() <= 80), "{text}");
        let mut table =
            Table::new(&[Head::Id("SESSION"), Head::Word("SANDBOX"), Head::Word("CREATED"), Head::Word("LAST")]);
        let time = || "2026-03-02 09:14".to_owned();
        table.row(["s".repeat(128), "sbx_01j8x0e3s...".into(), time(), time()]);
        let text = table.render(80, false);
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn hostile_text_cannot_drive_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\nc\r"), "a\u{fffd}[2Jb\nc\u{fffd}");
        assert_eq!(one_line("a\nb\u{9b}31m\u{202e}x"), "a b\u{fffd}31m\u{fffd}x");
    }

    #[test]
    fn figures_read_well() {
        use serde_json::json;
        assert_eq!(dollars(&json!("0.006960"), 0), "$0.0070");
        assert_eq!(dollars(&json!(0), 0), "$0.0000");
        assert_eq!(dollars(&json!("0.000010"), 0), "<$0.0001");
        assert_eq!(dollars(&Value::Null, 0), "price unknown");
        assert_eq!(dollars(&json!("0.000000"), 2), "price unknown");
        assert_eq!(dollars(&json!("0.500000"), 1), "$0.5000 + unknown");
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(compact(9_999), "9,999");
        assert_eq!(compact(12_345), "12k");
        assert_eq!(compact(9_999_999_999), "9999M");
        assert_eq!(duration(5210), "5.2 s");
        assert_eq!(duration(61_000), "1 min 1 s");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(100 << 20), "100.0 MiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
        assert_eq!(short_id("inv_01j8x0e3s4n5p6q7"), "inv_01j8x0e3s...");
        assert_eq!(short_id("desk-42"), "desk-42");
        assert_eq!(moment("yesterday"), "yesterday");
    }
}
