//! What went wrong in a command, its exit code, and what to do next.
//!
//! Invariant: every failure that reaches the user ends with one line that begins with `next:`.

use std::fmt;
use std::path::Path;

/// Exit codes of the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something failed.
    Failure = 1,
    /// The command or a setting is wrong.
    Usage = 2,
    /// A topic, partition or file that was named does not exist.
    NotFound = 3,
    /// The broker cannot be reached, or does not serve at present.
    Unavailable = 4,
    /// A check was carried out and its answer is no.
    CheckFailed = 5,
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Exit code.
    pub(crate) exit: Exit,
    /// What happened.
    pub(crate) what: String,
    /// Facts, one line each.
    pub(crate) facts: Vec<String>,
    /// What to do next, one line.
    pub(crate) next: String,
}

/// The result of a command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with this exit code.
    pub(crate) fn new(exit: Exit, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, what: what.into(), facts: Vec::new(), next: next.into() }
    }

    /// The command or a setting is wrong.
    pub(crate) fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, next)
    }

    /// A file could not be opened, read or written.
    pub(crate) fn file(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failure };
        let next = match error.kind() {
            std::io::ErrorKind::NotFound => "check the path; relative paths begin at the current directory",
            std::io::ErrorKind::PermissionDenied => "run as a user who may do this, or name another path",
            _ => "mend the cause and run the command again",
        };
        Self::new(exit, format!("cannot {action} {}: {error}", path.display()), next)
    }

    /// Adds a fact.
    pub(crate) fn fact(mut self, fact: impl Into<String>) -> Self {
        self.facts.push(fact.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.what)?;
        for fact in &self.facts {
            writeln!(f, "  {fact}")?;
        }
        write!(f, "next: {}", self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_what_to_do() {
        let failure = Failure::new(Exit::NotFound, "there is no topic a", "make it").fact("topic: a");
        assert_eq!(failure.to_string(), "error: there is no topic a\n  topic: a\nnext: make it");
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let error = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(Failure::file("open", Path::new("x"), &error).exit, Exit::NotFound);
    }
}
