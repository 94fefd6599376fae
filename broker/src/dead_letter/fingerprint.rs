//! The fingerprint of a failure (rule DL-13): what failures of one cause have in common.
//!
//! Owns: which parts of an error count, and the hash. Must not know: records, entries, who counts fingerprints.
//!
//! Invariants: equal input gives an equal fingerprint, in every version of the broker (it is stored with entries and
//! asked for by selectors); numbers, addresses and ids in an error never matter.

use crate::limits;

/// Frames of a stack that count.
const FRAMES: usize = 6;
/// A word of hexadecimal digits is taken for an id from this length on.
const ID_DIGITS: usize = 8;
/// First line of a stack whose top is at its end, as Python prints it.
const REVERSED: &str = "Traceback (most recent call last)";

/// The fingerprint of an error: what the client gave, cut to [`limits::ERROR_CLASS_BYTES`], or 16 hexadecimal digits of
/// class and top stack frames. Without a stack the message takes its place.
pub fn fingerprint(class: &str, message: &str, stack: &str, given: Option<&str>) -> String {
    if let Some(given) = given.filter(|given| !given.is_empty()) {
        return cut(given, limits::ERROR_CLASS_BYTES).to_owned();
    }
    let mut hash = Hash::new();
    hash.text(class);
    let frames = top_frames(stack);
    if frames.is_empty() {
        hash.stripped(message);
    }
    for frame in frames {
        hash.stripped(frame);
    }
    format!("{:016x}", hash.0)
}

/// The beginning of `text` of at most `bytes` bytes, cut between characters.
pub fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The frames nearest to the failure. Lines that begin with `at` are frames in most languages; the other lines of such
/// a stack are messages. In a stack without them every line counts.
fn top_frames(stack: &str) -> Vec<&str> {
    let lines = || stack.lines().map(str::trim).filter(|line| !line.is_empty());
    let frames: Vec<&str> = lines().filter(|line| line.starts_with("at ")).take(FRAMES).collect();
    if !frames.is_empty() {
        return frames;
    }
    if stack.trim_start().starts_with(REVERSED) {
        // The last line is class and message.
        let mut frames: Vec<&str> = lines().collect();
        frames.pop();
        return frames.split_off(frames.len().saturating_sub(FRAMES));
    }
    lines().take(FRAMES).collect()
}

/// FNV-1a of 64 bits (Fowler, Noll, Vo): simple, and the same for ever.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }

    fn text(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.byte(byte));
        // No text has this byte: "a" + "bc" is not "ab" + "c".
        self.byte(0xff);
    }

    /// The text without its numbers: words that are ids as a whole, of other words their digits.
    fn stripped(&mut self, text: &str) {
        let joined = |c: char| c.is_ascii_alphanumeric() || c == '-';
        for word in text.split_inclusive(|c| !joined(c)) {
            if is_uuid(word.trim_end_matches(|c| !joined(c))) {
                continue;
            }
            for part in word.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
                let letters = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
                let kept = if is_id(letters) { &part[letters.len()..] } else { part };
                kept.bytes().filter(|byte| !byte.is_ascii_digit()).for_each(|byte| self.byte(byte));
            }
        }
        self.byte(0xff);
    }
}

/// Whether a word is a UUID: its groups of four may have no digit among their letters.
fn is_uuid(word: &str) -> bool {
    let digit = |(index, byte): (usize, u8)| match index {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    word.len() == 36 && word.bytes().enumerate().all(digit)
}

/// Whether a word is an address, or an id in hexadecimal digits.
fn is_id(word: &str) -> bool {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    let hexadecimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let long = digits.len() >= ID_DIGITS && digits.bytes().any(|byte| byte.is_ascii_digit());
    hexadecimal && (long || digits.len() < word.len())
}

#[cfg(test)]
mod tests;
