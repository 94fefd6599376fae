//! Holds the sources to the import table and the limits of size, and looks for stray clocks, locks and files.

mod exceptions;
mod forged;
mod promises;
mod rules;
mod source;

#[test]
fn the_sources_keep_the_rules() {
    let sources = source::workspace();
    assert!(sources.len() > 30, "the workspace was not found: {} files", sources.len());
    let offences: Vec<_> = sources.iter().flat_map(rules::check).collect();
    let told: Vec<_> = offences.iter().map(|offence| format!("{}: {}", offence.place, offence.what)).collect();
    assert!(told.is_empty(), "{} offences\n{}", told.len(), told.join("\n"));
}

#[test]
fn each_rule_that_is_delivered_has_a_test_that_names_it() {
    let unnamed = promises::unnamed(&source::workspace());
    assert!(unnamed.is_empty(), "no test names {}", unnamed.join(", "));
}
