//! The scanner tells code, comments and texts apart.

use backlot_tidy::rust::{Source, names_after};

fn code(text: &str) -> String {
    Source::scan(text).code.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn comments_and_texts_are_no_code() {
    for (text, expected) in [
        ("a // b\nc", "a c"),
        ("a /* b /* c */ d */ e", "a e"),
        (r#"f("b // c", d)"#, "f( , d)"),
        (r#"f("b \" c", d)"#, "f( , d)"),
        (r###"f(r#"b " c"#, d)"###, "f( , d)"),
        (r#"f(br"b\", d)"#, "f( , d)"),
        ("f('\"', '\\'', b)", "f( , , b)"),
        ("fn f<'a>(x: &'a str) -> Cow<'a, str>", "fn f<'a>(x: &'a str) -> Cow<'a, str>"),
        ("for_r\"text\"", "for_r"),
        ("\"never ended", ""),
        ("/* never ended", ""),
        ("'", "'"),
        ("", ""),
    ] {
        assert_eq!(code(text), expected, "{text}");
    }
}

#[test]
fn lines_are_counted_through_everything() {
    let source = Source::scan("/* 1\n2 */ let a = \"3\n4\"; // 5\nlet b = \"six\";\n#[cfg(test)]\nmod tests {}\n");
    assert_eq!(source.texts, [(2, "\"3\n4\"".to_owned()), (4, "\"six\"".to_owned())]);
    assert_eq!(source.product_lines(), 5);
    assert_eq!(source.code.lines().count(), 6);
}

#[test]
fn names_are_found_in_paths_and_groups() {
    let code = "use crate::{\n    a::{x, y},\n    b,\n};\ncrate::c::f(); my_crate::d; crate::e";
    let names: Vec<_> = names_after(code, "crate::");
    assert_eq!(names, [(2, "a"), (3, "b"), (5, "c"), (5, "e")]);
    assert_eq!(names_after("super::super::runs::Runs", "super::"), [(1, "super"), (1, "runs")]);
    assert_eq!(names_after("crate::{", "crate::"), []);
}
