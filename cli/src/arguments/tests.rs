use clap::{Command as ClapCommand, CommandFactory as _};

use super::*;

/// Every command that does something, with its path.
fn verbs(command: &ClapCommand, path: &str, found: &mut Vec<(String, ClapCommand)>) {
    for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
        let path = format!("{path} {}", child.get_name());
        if child.has_subcommands() {
            verbs(child, &path, found);
        } else {
            found.push((path, child.clone()));
        }
    }
}

/// The words of the part of an example line that calls us.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for letter in line.chars() {
        match (letter, quote) {
            ('\'' | '"', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            ('|' | '<' | '>' | ';' | '&' | '#', None) => {
                if words.first().is_some_and(|word| word == "sawlog") {
                    break;
                }
                words.clear();
                word.clear();
            }
            (' ', None) => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (letter, _) => word.push(letter),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[test]
fn the_tree_of_commands_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn every_verb_has_two_examples_that_parse() {
    let mut found = Vec::new();
    verbs(&Arguments::command(), "sawlog", &mut found);
    assert!(found.len() >= 20, "{found:?}");
    for (path, command) in found {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<_> = help.lines().filter(|line| line.contains(&path)).collect();
        assert!(examples.len() >= 2, "{path} has {} examples:\n{help}", examples.len());
        for example in examples {
            let words = words(example);
            let parsed = Arguments::try_parse_from(&words);
            assert!(parsed.is_ok(), "{example}\n{words:?}\n{}", parsed.unwrap_err());
        }
    }
}

#[test]
fn every_argument_says_what_it_is() {
    let mut found = Vec::new();
    verbs(&Arguments::command(), "sawlog", &mut found);
    for (path, command) in found {
        assert!(command.get_about().is_some(), "{path}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{path}: {}", argument.get_id());
        }
    }
}
