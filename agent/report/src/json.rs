//! JSON that is fit for a terminal, too.

use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

use crate::human::is_unseen;

/// One JSON object on one line, without its end. Characters that nobody sees and terminals obey (RFC 8259 section 7 wants only
/// those below U+0020 escaped) are spelt out: to whoever parses it that is the same text.
pub fn json(value: &impl Serialize) -> String {
    let mut out = Vec::with_capacity(256);
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spelt));
    written.unwrap_or_else(|error| unreachable!("only strings and numbers: {error}"));
    String::from_utf8(out).unwrap_or_else(|error| unreachable!("made of strings: {error}"))
}

struct Spelt;

impl Formatter for Spelt {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, unseen)) = rest.char_indices().find(|(_, c)| is_unseen(*c)) {
            // All of them are of one UTF-16 unit.
            write!(writer, "{}\\u{:04x}", &rest[..at], u32::from(unseen))?;
            rest = &rest[at + unseen.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_is_spelt_out_and_means_the_same() {
        let text = "a\u{1b}[2J\u{7f}\u{9b}31m\u{202e}evil\u{2069} \"b\\ ü日\u{10348}";
        let line = json(&[text]);
        assert_eq!(line, "[\"a\\u001b[2J\\u007f\\u009b31m\\u202eevil\\u2069 \\\"b\\\\ ü日\u{10348}\"]");
        assert_eq!(serde_json::from_str::<[String; 1]>(&line).unwrap(), [text]);
        assert_eq!(json(&("", 1, "\u{85}")), "[\"\",1,\"\\u0085\"]");
    }
}
