use super::*;
use serde_json::json;
use std::fs;
use std::path::Path;

fn parsed(text: &str) -> Document {
    let (document, problems) = Document::parse(text);
    assert!(problems.is_empty(), "{problems:?}");
    document
}

/// The tree as JSON, every scalar as text.
fn shape(document: &Document, id: NodeId) -> serde_json::Value {
    match &document.node(id).kind {
        Kind::Scalar(scalar) => scalar.text.clone().into(),
        Kind::List(items) => items.iter().map(|item| shape(document, *item)).collect(),
        Kind::Map(children) => children
            .iter()
            .map(|child| match &document.node(*child).step {
                Step::Key(key, _) => (key.clone(), shape(document, *child)),
                Step::Root | Step::Index(_) => unreachable!("a map has keys"),
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

fn tree(text: &str) -> serde_json::Value {
    let document = parsed(text);
    shape(&document, ROOT)
}

#[test]
fn scalars_are_kept_as_written() {
    assert_eq!(
        tree("a: 10:30\nb: 0x10\nc: '1'\nd: yes\ne: 1.10\nf: ~\n"),
        serde_json::json!({"a": "10:30", "b": "0x10", "c": "1", "d": "yes", "e": "1.10", "f": "~"})
    );
}

#[test]
fn aliases_and_merges_are_copied() {
    assert_eq!(
        tree(
            "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd: {<<: [{x: 7}, *a]}\ne: &e t\nf: *e\n"
        ),
        serde_json::json!({
            "a": {"x": "1", "y": "2"},
            "b": {"x": "1", "y": "2"},
            "c": {"y": "3", "x": "1"},
            "d": {"x": "7", "y": "2"},
            "e": "t",
            "f": "t",
        })
    );
}

#[test]
fn copies_have_paths_of_their_own_and_places_of_the_original() {
    let document = parsed("a: &a\n  x: [1, 2]\nb: *a\n");
    let b = document.child(ROOT, "b").unwrap();
    let x = document.child(b, "x").unwrap();
    let Kind::List(items) = &document.node(x).kind else {
        panic!()
    };
    assert_eq!(document.path(items[1]), "b.x[1]");
    assert_eq!(document.node(items[1]).span.line, 2);
}

#[test]
fn places_are_counted_in_characters_and_octets() {
    let text = "é: {ü: x}\n";
    let document = parsed(text);
    let inner = document
        .child(document.child(ROOT, "é").unwrap(), "ü")
        .unwrap();
    let span = document.node(inner).span;
    assert_eq!((span.line, span.column), (1, 8));
    assert_eq!(&text[span.start..span.end], "x");
}

#[test]
fn json_on_one_long_line_is_yaml() {
    let elements: Vec<_> = (0..2000)
        .map(|n| format!("{{\"name\":\"b{n}\"}}"))
        .collect();
    let text = format!("{{\"list\":[{}]}}", elements.join(","));
    assert_eq!(tree(&text)["list"].as_array().unwrap().len(), 2000);
}

#[test]
fn a_small_file_cannot_become_a_huge_tree() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let list = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    let (document, problems) = Document::parse(&text);
    assert!(document.is_empty());
    assert!(
        format!("{problems:?}").contains("aliases included"),
        "{problems:?}"
    );
}

#[test]
fn nesting_has_a_limit_with_and_without_aliases() {
    let (_, problems) = Document::parse(&format!("{}{}", "[".repeat(200), "]".repeat(200)));
    assert!(!problems.is_empty());
    let mut text = String::from("a0: &a0 [x]\n");
    for level in 1..200 {
        text.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    let (_, problems) = Document::parse(&text);
    assert!(
        format!("{problems:?}").contains("levels deep"),
        "{problems:?}"
    );
}

#[test]
fn numbers_are_those_of_the_core_schema() {
    let number = |text: &str| {
        let scalar = Scalar {
            text: text.to_owned(),
            quoted: false,
            substituted: false,
            at_fault: false,
        };
        scalar.number()
    };
    for (text, whole) in [
        ("0", 0),
        ("80", 80),
        ("-1", -1),
        ("+7", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("007", 7),
    ] {
        assert_eq!(number(text), Some(Number::Whole(whole)), "{text}");
    }
    for (text, real) in [("3.5", 3.5), ("1e3", 1000.0), ("-0.5", -0.5), (".5", 0.5)] {
        assert_eq!(number(text), Some(Number::Real(real)), "{text}");
    }
    for text in [
        "", "eth0", "10.1.0.1", "1s", "10%", "infinity", "nan", "-", "+-1", "1_000", "0xg", "::1",
        "e5", ".",
    ] {
        assert_eq!(number(text), None, "{text}");
    }
}

#[test]
fn a_text_becomes_the_value_that_another_reader_makes_of_it() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut read = 0;
    for entry in fs::read_dir(examples).expect("examples").flatten() {
        if entry.path().extension().is_some_and(|it| it == "yaml") {
            let text = fs::read_to_string(entry.path()).expect("readable");
            assert_eq!(to_json(&text), Some(to_value(&text)), "{entry:?}");
            read += 1;
        }
    }
    assert!(read > 10);
    let scalars = "[1, 0x10, 1.5, true, ~, '1', \"true\", 'null', a b, -7]";
    assert_eq!(
        to_json(scalars),
        Some(json!([
            1, 16, 1.5, true, null, "1", "true", "null", "a b", -7
        ]))
    );
    assert_eq!(to_json("{a: "), None);
    assert_eq!(to_json("# nothing"), None);
}
