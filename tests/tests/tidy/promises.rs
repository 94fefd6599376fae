//! Each rule of the contract that is delivered has a test that names it: `ko_2_a_record_waits ...`, `ak_12_and_g7_ ...`.
//!
//! A rule is a letter or two and a number; the numbers of a family are those of the contract.

use crate::source::Source;

/// The families of delivered rules, each with its numbers.
const DELIVERED: &[(&str, &[u8])] = &[
    ("pr", &[1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13]),
    ("gm", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
    ("ak", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
    ("ko", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ("rt", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ("pi", &[1, 2, 3, 4]),
    ("cb", &[1, 2, 3, 4, 5]),
    ("dl", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
    ("rd", &[1, 2, 3, 4, 5, 6, 7, 8]),
    ("fc", &[1, 2, 3, 4, 5, 6, 7, 8]),
    ("of", &[1, 2, 3, 4, 5, 6, 7, 8]),
    ("rp", &[1, 2, 3, 4, 5, 6, 7]),
    ("rm", &[1, 2, 3, 4, 5, 6, 7, 8]),
    ("rw", &[1, 2, 3, 4]),
    ("re", &[1, 2, 3, 4, 5, 6, 9, 10]),
    ("sc", &[1]),
    ("ob", &[1, 2, 3, 4]),
    ("d", &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ("c", &[1, 2, 3, 4, 5]),
    ("f", &[1, 2, 3, 4, 5, 6]),
    ("g", &[1, 2, 3, 4, 5, 6, 7]),
    ("s", &[1, 2, 3, 4, 5, 6]),
];

/// Delivered rules that no function names.
pub(crate) fn unnamed(sources: &[Source]) -> Vec<String> {
    let names: Vec<&str> = sources.iter().flat_map(|source| functions(&source.code)).collect();
    let rules = DELIVERED.iter().flat_map(|(family, numbers)| numbers.iter().map(move |number| (*family, *number)));
    rules
        .filter(|(family, number)| !names.iter().any(|name| says(name, family, *number)))
        .map(|(family, number)| format!("{}-{number}", family.to_uppercase()))
        .collect()
}

/// Names of functions.
fn functions(code: &str) -> impl Iterator<Item = &str> {
    code.split("fn ").skip(1).map(|rest| {
        let end = rest.find(|one: char| !(one.is_ascii_alphanumeric() || one == '_')).unwrap_or(rest.len());
        &rest[..end]
    })
}

/// Whether a name has the rule among its words, as `ko_2` or `ko2`.
fn says(name: &str, family: &str, number: u8) -> bool {
    let (joined, number) = (format!("{family}{number}"), number.to_string());
    let words: Vec<&str> = name.split('_').collect();
    words.contains(&joined.as_str()) || words.windows(2).any(|pair| pair == [family, number.as_str()])
}

#[test]
fn a_rule_is_found_as_a_word_of_its_own() {
    assert!(says("ko_2_a_record_waits", "ko", 2) && says("ak_12_and_g7_a_cut", "g", 7));
    assert!(!says("ko_21_a_record", "ko", 2) && !says("a_ko_is_2", "ko", 2) && !says("g70_a_cut", "g", 7));
    let forged = Source::new("broker/tests/forged.rs", "#[test]\nfn ko_2_a() {}\n// fn ko_3_b() {}\n");
    let missing = unnamed(&[forged]);
    assert!(!missing.contains(&"KO-2".to_owned()) && missing.contains(&"KO-3".to_owned()), "a comment is no test");
}
