//! The one form in which the agent writes a record, read in a sixth of the time that any JSON takes.
//!
//! Fields in the agent's order, no white space, nothing escaped, ASCII alone: each step either finds what the agent
//! would have written next, or the line is left to the general reader. What is read here, it reads the same.

use std::borrow::Cow;

use super::fields::{Fields, Peer, Workload};

/// The fields of a line in the agent's form; none of any other line.
pub(super) fn read(line: &[u8]) -> Option<Fields<'_>> {
    let at = &mut Cursor { rest: line };
    at.pass(b"{\"time\":")?;
    let time = at.string()?;
    at.pass(b",\"verdict\":")?;
    let verdict = at.string()?;
    at.pass(b",\"mode\":")?;
    at.text()?;
    at.pass(b",\"direction\":")?;
    let direction = at.string()?;
    at.pass(b",\"protocol\":")?;
    let protocol = at.string()?;
    at.pass(b",\"workload\":{\"name\":")?;
    let workload = Workload { name: at.nullable(Cursor::string)? };
    at.pass(b",\"environment\":")?;
    at.nullable(Cursor::text)?;
    at.pass(b",\"cgroup\":")?;
    at.nullable(Cursor::text)?;
    at.pass(b",\"unit\":")?;
    at.nullable(Cursor::text)?;
    at.pass(b"},\"process\":")?;
    at.nullable(Cursor::process)?;
    at.pass(b",\"peer\":{\"address\":")?;
    let address = at.string()?;
    at.pass(b",\"port\":")?;
    let port = at.nullable(|at| at.number()?.try_into().ok())?;
    at.pass(b",\"name\":")?;
    let name = at.nullable(Cursor::string)?;
    at.pass(b",\"environment\":")?;
    at.nullable(Cursor::text)?;
    at.pass(b"},\"rule\":")?;
    at.nullable(|at| at.rule(|_| Some(())))?;
    at.pass(b",\"reason\":")?;
    at.text()?;
    at.pass(b",\"nearest_rule\":")?;
    at.nullable(|at| at.rule(Cursor::differs))?;
    at.pass(b",\"count\":")?;
    let count = at.number()?;
    at.pass(b",\"suppressed\":")?;
    at.number()?;
    at.pass(b",\"generation\":")?;
    at.number()?;
    at.pass(b",\"service\":")?;
    let service = Some(at.string()?);
    at.pass(b"}")?;
    let peer = Peer { address, port, name };
    at.rest.is_empty().then_some(Fields {
        time,
        verdict,
        direction,
        protocol,
        service,
        workload,
        peer,
        count,
    })
}

/// What is left of a line.
struct Cursor<'l> {
    rest: &'l [u8],
}

impl<'l> Cursor<'l> {
    #[inline(always)]
    fn pass<const N: usize>(&mut self, text: &[u8; N]) -> Option<()> {
        let (next, rest) = self.rest.split_first_chunk()?;
        (next == text).then(|| self.rest = rest)
    }

    #[inline(always)]
    #[expect(clippy::option_option, reason = "not in the agent's form, null, or a value")]
    fn nullable<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.rest.first() == Some(&b'n') {
            return self.pass(b"null").map(|()| None);
        }
        read(self).map(Some)
    }

    #[inline(always)]
    fn string(&mut self) -> Option<Cow<'l, str>> {
        str::from_utf8(self.text()?).ok().map(Cow::Borrowed)
    }

    #[inline(always)]
    fn text(&mut self) -> Option<&'l [u8]> {
        self.pass(b"\"")?;
        let (text, rest) = self.rest.split_at_checked(plain_length(self.rest))?;
        self.rest = rest;
        self.pass(b"\"")?;
        Some(text)
    }

    /// A number as the agent writes counts: JSON knows no leading zeros, and 18 digits always fit.
    #[inline(always)]
    fn number(&mut self) -> Option<u64> {
        let length = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        let leading_zero = length > 1 && digits[0] == b'0';
        let value = || digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        ((1..=18).contains(&length) && !leading_zero).then(value)
    }

    fn process(&mut self) -> Option<()> {
        self.pass(b"{\"pid\":")?;
        self.number()?;
        self.pass(b",\"comm\":")?;
        self.text()?;
        self.pass(b",\"exe\":")?;
        self.nullable(Self::text)?;
        self.pass(b",\"uid\":")?;
        self.number()?;
        self.pass(b"}")
    }

    #[inline(always)]
    fn rule(&mut self, more: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        self.pass(b"{\"id\":")?;
        self.text()?;
        self.pass(b",\"file\":")?;
        self.text()?;
        self.pass(b",\"line\":")?;
        self.number()?;
        more(self)?;
        self.pass(b"}")
    }

    fn differs(&mut self) -> Option<()> {
        self.pass(b",\"differs\":[")?;
        self.text()?;
        while self.pass(b",").is_some() {
            self.text()?;
        }
        self.pass(b"]")
    }
}

/// How many bytes stand before a quote, a backslash, a control character or anything that is not ASCII.
#[inline(always)]
fn plain_length(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = ONES << 7;
    let mut length = 0;
    while let Some(chunk) = text[length..].first_chunk() {
        let chunk = u64::from_le_bytes(*chunk);
        // A borrow runs upwards, past the lowest byte that is found: above it a byte may be found in error, below not.
        let below = |limit: u8, chunk: u64| chunk.wrapping_sub(ONES * u64::from(limit)) & !chunk;
        let equal = |byte: u8| below(1, chunk ^ (ONES * u64::from(byte)));
        let found = (equal(b'"') | equal(b'\\') | below(b' ', chunk) | chunk) & HIGH_BITS;
        if found != 0 {
            return length + found.trailing_zeros() as usize / 8;
        }
        length += size_of::<u64>();
    }
    let is_plain = |b: &u8| (b' '..0x80).contains(b) && !matches!(b, b'"' | b'\\');
    length + text[length..].iter().take_while(|b| is_plain(b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_text_ends_at_the_first_byte_that_is_not() {
        for length in 0..40 {
            for end in [b'"', b'\\', 0, b'\n', 0x1f, 0x80, 0xff] {
                // What follows may look like an end only because of a borrow.
                for after in [b'!', b'#', b'[', b']', b' ', 0x7f, b'"'] {
                    let text = [vec![b'x'; length], vec![end], vec![after; 20]].concat();
                    assert_eq!(plain_length(&text), length, "{end:#x} and then {after:#x}");
                }
            }
            assert_eq!(plain_length(&vec![b'~'; length]), length);
        }
    }

    #[test]
    fn numbers_are_whole_and_have_no_leading_zeros() {
        let number = |text: &str| Cursor { rest: text.as_bytes() }.number();
        assert_eq!(
            [number("0"), number("10"), number("999999999999999999,")],
            [Some(0), Some(10), Some(999_999_999_999_999_999)]
        );
        assert_eq!([number(""), number("01"), number("-1"), number("9999999999999999999")], [None; 4]);
    }
}
