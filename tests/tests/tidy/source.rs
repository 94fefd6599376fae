//! A Rust source file as the checks see it: comments, strings and test modules blanked, line numbers kept.

use std::path::{Path, PathBuf};

/// A source file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path from the root of the workspace, with `/`.
    pub(crate) path: String,
    /// The text as it is.
    pub(crate) text: String,
    /// The text with comments and the insides of strings blanked by spaces; line ends stay.
    pub(crate) code: String,
    /// `code` with inline test modules blanked too.
    pub(crate) shipped: String,
    /// Lines of the inline test modules.
    pub(crate) test_lines: usize,
}

/// A finding: where, and what is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Offence {
    /// File and line.
    pub(crate) place: String,
    /// What is wrong.
    pub(crate) what: String,
}

impl Source {
    /// Takes a file's text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = blank_comments_and_strings(text);
        let (shipped, test_lines) = blank_test_modules(&code);
        Self { path: path.to_owned(), text: text.to_owned(), code, shipped, test_lines }
    }

    /// Whether the whole file is a test.
    pub(crate) fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        // Support of tests is compiled for them alone, and so under their rules.
        name == "tests.rs"
            || name.ends_with("_support.rs")
            || name.ends_with("_tests.rs")
            || self.path.contains("/tests/")
            || self.path.contains("/benches/")
    }

    /// An offence at a byte of the text.
    pub(crate) fn offence(&self, at: usize, what: impl Into<String>) -> Offence {
        Offence { place: format!("{}:{}", self.path, line_of(&self.text, at)), what: what.into() }
    }

    /// The module path inside the crate: `broker/src/log/storage/mod.rs` is `["log", "storage"]`.
    pub(crate) fn module(&self) -> Vec<&str> {
        let inside = self.path.split_once("/src/").map_or("", |(_, inside)| inside);
        let inside = inside.strip_suffix(".rs").unwrap_or(inside);
        let mut parts: Vec<_> = inside.split('/').collect();
        if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
            parts.pop();
        }
        parts
    }
}

/// The line of a byte, from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Every Rust file of the workspace's crates.
pub(crate) fn workspace() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is a folder of the workspace");
    let mut files = Vec::new();
    for package in ["proto", "broker", "client", "cli", "tests", "benches", "xtask"] {
        collect(&root.join(package), &mut files);
    }
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let text = std::fs::read_to_string(&file).expect("a source file is readable text");
            let path =
                file.strip_prefix(root).expect("it was found below the root").to_string_lossy().replace('\\', "/");
            Source::new(&path, &text)
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Blanks comments, and what stands between the quotes of strings and characters.
fn blank_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => end_of_block_comment(bytes, at),
            b'r' if !follows_word(bytes, at) => match raw_string(bytes, at) {
                Some((inside, end)) => {
                    blank(&mut out, inside.0, inside.1);
                    at = end;
                    continue;
                }
                None => {
                    at += 1;
                    continue;
                }
            },
            b'"' => {
                let end = end_of_string(bytes, at);
                blank(&mut out, at + 1, end.saturating_sub(1).max(at + 1));
                at = end;
                continue;
            }
            b'\'' => {
                at = end_of_character(bytes, at, &mut out);
                continue;
            }
            _ => {
                at += 1;
                continue;
            }
        };
        blank(&mut out, at, end);
        at = end;
    }
    String::from_utf8(out).expect("only whole characters were blanked")
}

fn blank(out: &mut [u8], from: usize, to: usize) {
    for byte in &mut out[from..to] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    // `br"` begins a raw string too.
    at > 0 && is_word(bytes[at - 1]) && !(bytes[at - 1] == b'b' && (at < 2 || !is_word(bytes[at - 2])))
}

/// Whether a byte belongs to a name.
pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn end_of_block_comment(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn raw_string(bytes: &[u8], start: usize) -> Option<((usize, usize), usize)> {
    let hashes = bytes[start + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = start + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let closing = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let inside = open + 1;
    let length = bytes[inside..].windows(closing.len()).position(|window| window == closing)?;
    Some(((inside, inside + length), inside + length + closing.len()))
}

fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Blanks a character literal; a lifetime is passed over.
fn end_of_character(bytes: &[u8], start: usize, out: &mut [u8]) -> usize {
    let close = if bytes.get(start + 1) == Some(&b'\\') {
        bytes[start + 3..].iter().position(|byte| *byte == b'\'').map(|length| start + 3 + length)
    } else {
        // One character of at most four bytes, then the quote; otherwise it is a lifetime.
        (start + 2..(start + 6).min(bytes.len()))
            .find(|at| bytes[*at] == b'\'')
            .filter(|at| str::from_utf8(&bytes[start + 1..*at]).is_ok_and(|inside| inside.chars().count() == 1))
    };
    match close {
        Some(close) => {
            blank(out, start + 1, close);
            close + 1
        }
        None => start + 1,
    }
}

/// Blanks `#[cfg(test)] mod name { … }` and everything else that stands behind `#[cfg(test)]`; tells their lines.
fn blank_test_modules(code: &str) -> (String, usize) {
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    let mut lines = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let end = end_of_item(code, start + "#[cfg(test)]".len());
        blank(&mut out, start, end);
        lines += line_of(code, end) - line_of(code, start) + 1;
        from = end;
    }
    (String::from_utf8(out).expect("only whole items were blanked"), lines)
}

/// The end of the item that begins at `start`: its closing brace, or its semicolon.
pub(crate) fn end_of_item(code: &str, start: usize) -> usize {
    let mut round: i32 = 0;
    for (offset, byte) in code.as_bytes()[start..].iter().enumerate() {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round -= 1,
            b';' if round == 0 => return start + offset + 1,
            b'{' if round == 0 => return matching_brace(code, start + offset),
            _ => {}
        }
    }
    code.len()
}

/// The byte after the brace that closes the one at `open`.
fn matching_brace(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (offset, byte) in code.as_bytes()[open..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return open + offset + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}
