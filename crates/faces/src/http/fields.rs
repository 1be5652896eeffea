//! Reading the fields of a request: one declarative reader, so that every request tells everything that is wrong at
//! once, and in the order of its schema.
//!
//! A wire struct implements [`FromFields`] by naming each field with a rule. What does not fit becomes a [`Fault`];
//! a face words faults in its own vocabulary. Bounds are part of the wire contract (they stand in the face's
//! `openapi.json`); what only the domain can judge is judged there.

use std::fmt::Write as _;

use backlot_domain::Timestamp;
use serde_json::{Map, Value};

/// A request that can be read from fields.
pub(crate) trait FromFields: Sized {
    /// Reads every field. The result counts only when no fault was found.
    fn read(fields: &mut Fields<'_>) -> Self;
}

/// A step on the way to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    Field(String),
    Index(usize),
}

/// What is wrong with one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) path: Vec<Segment>,
    pub(crate) problem: Problem,
}

/// The ways in which a value can be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    Missing,
    Null,
    NotText,
    NotInteger,
    NotBoolean,
    NotList,
    NotObject,
    NotATime,
    NoneOf(&'static [&'static str]),
    TooShort(usize),
    TooLong(usize),
    Pattern(String),
    NotGreaterEqual(i64),
    NotLessEqual(i64),
    UrlScheme,
    Other(String),
}

impl Problem {
    /// Recognises the wordings that the domain shares with the faces, so that they keep their types on the wire.
    pub(crate) fn from_message(message: &str) -> Self {
        let number = |prefix: &str| message.strip_prefix(prefix)?.split(' ').next()?.parse::<i64>().ok();
        let length = |prefix: &str| {
            message.ends_with(" characters").then(|| number(prefix)).flatten().and_then(|n| usize::try_from(n).ok())
        };
        if let Some(least) = length("ensure this value has at least ") {
            Self::TooShort(least)
        } else if let Some(most) = length("ensure this value has at most ") {
            Self::TooLong(most)
        } else if let Some(least) = number("ensure this value is greater than or equal to ") {
            Self::NotGreaterEqual(least)
        } else if let Some(most) = number("ensure this value is less than or equal to ") {
            Self::NotLessEqual(most)
        } else if let Some(pattern) =
            message.strip_prefix("string does not match regex \"").and_then(|rest| rest.strip_suffix('"'))
        {
            Self::Pattern(pattern.to_owned())
        } else if message.starts_with("invalid or missing URL scheme") {
            Self::UrlScheme
        } else {
            Self::Other(message.to_owned())
        }
    }
}

/// A value before it is understood.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Raw<'a> {
    /// From a JSON body.
    Json(&'a Value),
    /// From a query string, where everything is text.
    Text(&'a str),
}

/// Where fields come from.
enum Source<'a> {
    Json(&'a Map<String, Value>),
    Query(&'a [(String, String)]),
}

/// The fields of one object with the faults found so far.
pub(crate) struct Fields<'a> {
    source: Source<'a>,
    path: Vec<Segment>,
    faults: Vec<Fault>,
}

/// Reads `T` out of a JSON object.
///
/// # Errors
/// Every fault, in the order in which `T` reads its fields.
pub(crate) fn read_object<T: FromFields>(object: &Map<String, Value>) -> Result<T, Vec<Fault>> {
    finish(Fields { source: Source::Json(object), path: Vec::new(), faults: Vec::new() })
}

/// Reads `T` out of the pairs of a query string; the last of equal names counts.
///
/// # Errors
/// Every fault, in the order in which `T` reads its fields.
pub(crate) fn read_query<T: FromFields>(pairs: &[(String, String)]) -> Result<T, Vec<Fault>> {
    finish(Fields { source: Source::Query(pairs), path: Vec::new(), faults: Vec::new() })
}

fn finish<T: FromFields>(mut fields: Fields<'_>) -> Result<T, Vec<Fault>> {
    let value = T::read(&mut fields);
    if fields.faults.is_empty() { Ok(value) } else { Err(fields.faults) }
}

impl Fields<'_> {
    /// A field that must be there.
    pub(crate) fn required<R: Rule<Value: Default>>(&mut self, name: &str, rule: R) -> R::Value {
        match self.find(name) {
            None => self.fault(name, Problem::Missing),
            Some(Raw::Json(Value::Null)) => self.fault(name, Problem::Null),
            Some(_) => return self.apply(name, &rule).unwrap_or_default(),
        }
        R::Value::default()
    }

    /// A field that may be absent or null.
    pub(crate) fn optional<R: Rule>(&mut self, name: &str, rule: R) -> Option<R::Value> {
        match self.find(name) {
            None | Some(Raw::Json(Value::Null)) => None,
            Some(_) => self.apply(name, &rule),
        }
    }

    /// A field that may be absent, but not null: a change of something that always has a value.
    pub(crate) fn change<R: Rule>(&mut self, name: &str, rule: R) -> Option<R::Value> {
        match self.find(name) {
            None => None,
            Some(Raw::Json(Value::Null)) => {
                self.fault(name, Problem::Null);
                None
            }
            Some(_) => self.apply(name, &rule),
        }
    }

    /// A field where null means something else than absence.
    #[expect(clippy::option_option, reason = "absent, null and a value are three different wishes")]
    pub(crate) fn nullable<R: Rule>(&mut self, name: &str, rule: R) -> Option<Option<R::Value>> {
        match self.find(name) {
            None => None,
            Some(Raw::Json(Value::Null)) => Some(None),
            Some(_) => self.apply(name, &rule).map(Some),
        }
    }

    /// A rule that looks at several fields.
    pub(crate) fn fault(&mut self, name: &str, problem: Problem) {
        let mut path = self.path.clone();
        path.push(Segment::Field(name.to_owned()));
        self.faults.push(Fault { path, problem });
    }

    fn find(&self, name: &str) -> Option<Raw<'_>> {
        match self.source {
            Source::Json(object) => object.get(name).map(Raw::Json),
            Source::Query(pairs) => pairs.iter().rev().find(|(key, _)| key == name).map(|(_, value)| Raw::Text(value)),
        }
    }

    fn apply<R: Rule>(&mut self, name: &str, rule: &R) -> Option<R::Value> {
        let mut path = self.path.clone();
        path.push(Segment::Field(name.to_owned()));
        let mut faults = Vec::new();
        let value = self.find(name).and_then(|raw| rule.read(raw, &path, &mut faults));
        self.faults.append(&mut faults);
        value
    }
}

/// What a value must look like.
pub(crate) trait Rule {
    /// What it is turned into.
    type Value;

    /// Reads the value, or adds what is wrong with it to `faults`.
    fn read(&self, raw: Raw<'_>, path: &[Segment], faults: &mut Vec<Fault>) -> Option<Self::Value>;
}

fn refuse<T>(path: &[Segment], faults: &mut Vec<Fault>, problem: Problem) -> Option<T> {
    faults.push(Fault { path: path.to_vec(), problem });
    None
}

/// A grammar: its regular expression for people, and the function that decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pattern {
    pub(crate) regex: &'static str,
    pub(crate) fits: fn(&str) -> bool,
}

/// Text with bounds in characters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text {
    least: usize,
    most: usize,
    pattern: Option<Pattern>,
    takes_nul: bool,
}

/// Text of `least` to `most` characters without NUL, which not every database can store.
pub(crate) const fn text(least: usize, most: usize) -> Text {
    Text { least, most, pattern: None, takes_nul: false }
}

impl Text {
    /// The same, of a grammar.
    pub(crate) const fn of(mut self, pattern: Pattern) -> Self {
        self.pattern = Some(pattern);
        self
    }

    /// The same, where every character is allowed.
    pub(crate) const fn with_nul(mut self) -> Self {
        self.takes_nul = true;
        self
    }
}

impl Rule for Text {
    type Value = String;

    fn read(&self, raw: Raw<'_>, path: &[Segment], faults: &mut Vec<Fault>) -> Option<String> {
        let text = match raw {
            Raw::Json(Value::String(text)) => text.as_str(),
            Raw::Json(_) => return refuse(path, faults, Problem::NotText),
            Raw::Text(text) => text,
        };
        // Counting characters of megabytes is avoided where bytes decide.
        if text.len() > self.most && text.chars().count() > self.most {
            return refuse(path, faults, Problem::TooLong(self.most));
        }
        if text.len() < self.least || (self.least > 1 && text.chars().count() < self.least) {
            return refuse(path, faults, Problem::TooShort(self.least));
        }
        if !self.takes_nul && text.contains('\0') {
            return refuse(path, faults, Problem::Other(String::from("must not contain a NUL character")));
        }
        if let Some(pattern) = self.pattern
            && !(pattern.fits)(text)
        {
            return refuse(path, faults, Problem::Pattern(pattern.regex.to_owned()));
        }
        Some(text.to_owned())
    }
}

/// A whole number with bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Integer {
    least: u32,
    most: u32,
}

/// A whole number from `least` to `most`.
pub(crate) const fn integer(least: u32, most: u32) -> Integer {
    Integer { least, most }
}

impl Rule for Integer {
    type Value = u32;

    fn read(&self, raw: Raw<'_>, path: &[Segment], faults: &mut Vec<Fault>) -> Option<u32> {
        // i128 holds whatever a JSON integer or a short decimal can say, so that a huge number is "too large" and no fault
        // of type.
        let number: Option<i128> = match raw {
            Raw::Json(Value::Number(number)) => number
                .as_i64()
                .map(i128::from)
                .or_else(|| number.as_u64().map(i128::from))
                .or_else(|| number.as_f64().and_then(whole)),
            Raw::Json(_) => None,
            Raw::Text(text) => text.trim().parse::<i128>().ok().or_else(|| huge_integer(text.trim())),
        };
        let Some(number) = number else { return refuse(path, faults, Problem::NotInteger) };
        if number < i128::from(self.least) {
            return refuse(path, faults, Problem::NotGreaterEqual(i64::from(self.least)));
        }
        if number > i128::from(self.most) {
            return refuse(path, faults, Problem::NotLessEqual(i64::from(self.most)));
        }
        u32::try_from(number).ok()
    }
}

/// JSON knows one kind of number: `5.0` is the integer 5.
fn whole(number: f64) -> Option<i128> {
    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates, and a huge number is out of range anyway")]
    let integer = number as i128;
    (number.fract() == 0.0).then_some(integer)
}

/// An integer with more digits than any type of ours: only its sign matters.
fn huge_integer(text: &str) -> Option<i128> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_integer.then_some(if text.starts_with('-') { i128::MIN } else { i128::MAX })
}

/// `true` or `false`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boolean;

impl Rule for Boolean {
    type Value = bool;

    fn read(&self, raw: Raw<'_>, path: &[Segment], faults: &mut Vec<Fault>) -> Option<bool> {
        match raw {
            Raw::Json(Value::Bool(value)) => Some(*value),
            Raw::Text("true" | "True" | "1") => Some(true),
            Raw::Text("false" | "False" | "0") => Some(false),
            _ => refuse(path, faults, Problem::NotBoolean),
        }
    }
}

/// One of a few words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word<T> {
    words: &'static [&'static str],
    parse: fn(&str) -> Option<T>,
}

/// One of `words`, turned into a value by `parse`.
pub(crate) const fn word<T>(words: &'static [&'static str], parse: fn(&str) -> Option<T>) -> Word<T> {
    Word { words, parse }
}

impl<T> Rule for Word<T> {
    type Value = T;

    fn read(&self, raw: Raw<'_>, path: &[Segment], faults: &mut Vec<Fault>) -> Option<T> {
        let text = match raw {
            Raw::Json(Value::String(text)) => Some(text.as_str()),
            Raw::Json(_) => None,
            Raw::Text(text) => Some(text),
        };
        match text.and_then(self.parse) {
            Some(value) => Some(value),
            None => refuse(path, faults, Problem::NoneOf(self.words)),
        }
    }
}

/// A list whose items follow a rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List<R> {
    item: R,
    most: usize,
}

/// A list of at most `most` items.
pub(crate) const fn list<R>(item: R, most: usize) -> List<R> {
    List { item, most }
}

impl<R: Rule> Rule for List<R> {
    type Value = Vec<R::Value>;

    fn read(&self, raw: Raw<'_>, path: &[Segment], faults: &mut Vec<Fault>) -> Option<Vec<R::Value>> {
        let Raw::Json(Value::Array(items)) = raw else { return refuse(path, faults, Problem::NotList) };
        if items.len() > self.most {
            let message = format!("ensure this value has at most {} items", self.most);
            return refuse(path, faults, Problem::Other(message));
        }
        let before = faults.len();
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let mut place = path.to_vec();
            place.push(Segment::Index(index));
            values.extend(self.item.read(Raw::Json(item), &place, faults));
        }
        (faults.len() == before).then_some(values)
    }
}

/// An object with fields of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Object<T>(std::marker::PhantomData<T>);

/// An object that is read as a `T`.
pub(crate) const fn object<T: FromFields>() -> Object<T> {
    Object(std::marker::PhantomData)
}

impl<T: FromFields> Rule for Object<T> {
    type Value = T;

    fn read(&self, raw: Raw<'_>, path: &[Segment], faults: &mut Vec<Fault>) -> Option<T> {
        let Raw::Json(Value::Object(object)) = raw else { return refuse(path, faults, Problem::NotObject) };
        let mut inner = Fields { source: Source::Json(object), path: path.to_vec(), faults: Vec::new() };
        let value = T::read(&mut inner);
        let fits = inner.faults.is_empty();
        faults.append(&mut inner.faults);
        fits.then_some(value)
    }
}

/// A moment in ISO 8601, or a calendar day in UTC.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment;

impl Rule for Moment {
    type Value = Timestamp;

    fn read(&self, raw: Raw<'_>, path: &[Segment], faults: &mut Vec<Fault>) -> Option<Timestamp> {
        let text = match raw {
            Raw::Json(Value::String(text)) => text.as_str(),
            Raw::Json(_) => return refuse(path, faults, Problem::NotATime),
            Raw::Text(text) => text,
        };
        // In a query string an unescaped `+` of a zone arrives as a space.
        let text = text.replace(' ', "+");
        let moment = text.parse::<jiff::Timestamp>().ok().or_else(|| {
            let day = text.parse::<jiff::civil::Date>().ok()?;
            day.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|midnight| midnight.timestamp())
        });
        match moment {
            Some(moment) => Some(Timestamp(moment.as_millisecond())),
            None => refuse(path, faults, Problem::NotATime),
        }
    }
}

/// The pairs of a query string, decoded as forms are.
pub(crate) fn query_pairs(query: &str) -> Vec<(String, String)> {
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// `'a', 'b'`, as enumerations are told to people.
pub(crate) fn quoted(words: &[&str]) -> String {
    let mut text = String::new();
    for word in words {
        let separator = if text.is_empty() { "" } else { ", " };
        let _infallible = write!(text, "{separator}'{word}'");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Everything {
        name: String,
        note: Option<Option<String>>,
        turns: Option<u32>,
        flag: Option<bool>,
        kind: Option<bool>,
        tags: Option<Vec<String>>,
        inner: Option<Inner>,
    }

    #[derive(Debug, PartialEq)]
    struct Inner {
        depth: u32,
    }

    impl FromFields for Inner {
        fn read(fields: &mut Fields<'_>) -> Self {
            Self { depth: fields.required("depth", integer(1, 3)) }
        }
    }

    impl FromFields for Everything {
        fn read(fields: &mut Fields<'_>) -> Self {
            Self {
                name: fields.required("name", text(1, 5)),
                note: fields.nullable("note", text(0, 5)),
                turns: fields.change("turns", integer(1, 500)),
                flag: fields.optional("flag", Boolean),
                kind: fields.optional("kind", word(&["yes", "no"], |word| Some(word == "yes").filter(|_| word != "x"))),
                tags: fields.optional("tags", list(text(1, 3), 3)),
                inner: fields.optional("inner", object()),
            }
        }
    }

    fn faults(json: &str) -> Vec<(String, Problem)> {
        let Ok(Value::Object(object)) = serde_json::from_str(json) else { panic!("{json}") };
        let faults = read_object::<Everything>(&object).expect_err("faults");
        faults
            .into_iter()
            .map(|fault| {
                let path: Vec<_> = fault
                    .path
                    .iter()
                    .map(|segment| match segment {
                        Segment::Field(name) => name.clone(),
                        Segment::Index(index) => index.to_string(),
                    })
                    .collect();
                (path.join("."), fault.problem)
            })
            .collect()
    }

    #[test]
    fn everything_wrong_is_told_in_the_order_of_the_schema() {
        assert_eq!(
            faults(r#"{"inner":{"depth":9},"tags":["a",5,"long"],"kind":"x","flag":"true","turns":null,"note":1}"#),
            [
                ("name".to_owned(), Problem::Missing),
                ("note".to_owned(), Problem::NotText),
                ("turns".to_owned(), Problem::Null),
                ("flag".to_owned(), Problem::NotBoolean),
                ("kind".to_owned(), Problem::NoneOf(&["yes", "no"])),
                ("tags.1".to_owned(), Problem::NotText),
                ("tags.2".to_owned(), Problem::TooLong(3)),
                ("inner.depth".to_owned(), Problem::NotLessEqual(3)),
            ]
        );
    }

    #[test]
    fn numbers_beyond_every_type_are_too_large_and_fractions_are_no_integers() {
        let problem = |number: &str| faults(&format!(r#"{{"name":"a","turns":{number}}}"#)).remove(0).1;
        assert_eq!(problem("501"), Problem::NotLessEqual(500));
        assert_eq!(problem("-1"), Problem::NotGreaterEqual(1));
        assert_eq!(problem("18446744073709551615"), Problem::NotLessEqual(500));
        assert_eq!(problem("1.5"), Problem::NotInteger);
        assert_eq!(problem("501.0"), Problem::NotLessEqual(500));
        assert_eq!(problem("1e300"), Problem::NotLessEqual(500));
        assert_eq!(problem("true"), Problem::NotInteger);
        assert_eq!(problem("\"5\""), Problem::NotInteger);
    }

    #[test]
    fn queries_are_text_and_the_last_value_counts() {
        let pairs = query_pairs("name=a&turns=7&turns=8&flag=true&note=%C3%A4+b&kind=no");
        let read = read_query::<Everything>(&pairs).expect("fits");
        assert_eq!(read.turns, Some(8));
        assert_eq!(read.flag, Some(true));
        assert_eq!(read.note, Some(Some("ä b".to_owned())));
        assert_eq!(read.kind, Some(false));
        let pairs = query_pairs("name=a&turns=99999999999999999999999999999999999999999999");
        assert_eq!(read_query::<Everything>(&pairs).expect_err("too large")[0].problem, Problem::NotLessEqual(500));
    }

    #[test]
    fn lengths_count_characters_and_nul_is_refused() {
        let Ok(Value::Object(fits)) = serde_json::from_str(r#"{"name":"äöüäö"}"#) else { panic!("JSON") };
        assert!(read_object::<Everything>(&fits).is_ok());
        assert_eq!(faults(r#"{"name":"äöüäöü"}"#), [("name".to_owned(), Problem::TooLong(5))]);
        assert_eq!(faults(r#"{"name":""}"#), [("name".to_owned(), Problem::TooShort(1))]);
        assert!(matches!(faults("{\"name\":\"a\\u0000\"}")[0].1, Problem::Other(_)));
    }

    #[test]
    fn wordings_of_the_domain_keep_their_kind() {
        let same = |message: &str| Problem::from_message(message);
        assert_eq!(same("ensure this value has at least 1 characters"), Problem::TooShort(1));
        assert_eq!(
            same("ensure this value has at most 65536 bytes"),
            Problem::Other("ensure this value has at most 65536 bytes".to_owned())
        );
        assert_eq!(same("ensure this value is less than or equal to 600"), Problem::NotLessEqual(600));
        assert_eq!(same("string does not match regex \"^a$\""), Problem::Pattern("^a$".to_owned()));
        assert_eq!(same("invalid or missing URL scheme; https is supported"), Problem::UrlScheme);
        assert_eq!(same("`PATH` is reserved"), Problem::Other("`PATH` is reserved".to_owned()));
    }

    #[test]
    fn moments_are_read_with_zone_or_as_days() {
        let read = |text: &str| Moment.read(Raw::Text(text), &[], &mut Vec::new());
        assert_eq!(read("1970-01-02"), Some(Timestamp(86_400_000)));
        assert_eq!(read("1970-01-01T01:00:00 01:00"), Some(Timestamp(0)));
        assert_eq!(read("1970-01-01T00:00:01.5Z"), Some(Timestamp(1500)));
        assert_eq!(read("yesterday"), None);
    }
}
