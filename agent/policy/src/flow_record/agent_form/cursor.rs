//! What is left of a line, and the steps along it.

use std::net::IpAddr;

use bulkhead_common::Address;
use wide::i8x16;

use super::numbers::{count_few_digits, digits, few_digits, last_digits, octets};

#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'l> {
    pub(super) rest: &'l [u8],
}

impl<'l> Cursor<'l> {
    pub(super) const fn new(line: &'l [u8]) -> Self {
        Self { rest: line }
    }

    /// Passes this text, if it comes next.
    #[inline(always)]
    pub(super) fn pass<const N: usize>(&mut self, text: &[u8; N]) -> Option<()> {
        let (next, rest) = self.rest.split_first_chunk()?;
        (next == text).then(|| self.rest = rest)
    }

    /// What stands before the next quote, if it stands for itself. At the end of a line, where no text is in the agent's
    /// form, there is none.
    #[inline(always)]
    pub(super) fn text(&mut self) -> Option<&'l [u8]> {
        let mut length = 0;
        loop {
            let found = not_plain(self.rest.get(length..)?.first_chunk()?);
            if found != 0 {
                length += found.trailing_zeros() as usize;
                let (text, rest) = self.rest.split_at_checked(length)?;
                self.rest = rest;
                return Some(text);
            }
            length += 16;
        }
    }

    /// A text in quotes, or null.
    #[inline(always)]
    #[expect(clippy::option_option, reason = "neither, null, or a text")]
    pub(super) fn text_or_null(&mut self) -> Option<Option<&'l [u8]>> {
        if self.pass(b"\"").is_none() {
            return self.pass(b"null").map(|()| None);
        }
        let text = self.text()?;
        self.pass(b"\"").map(|()| Some(text))
    }

    /// A number as the agent writes counts: JSON knows no leading zeros, and 18 digits always fit.
    #[inline(always)]
    pub(super) fn number(&mut self) -> Option<u64> {
        let few = self.rest.first_chunk().and_then(few_digits);
        let (number, length) = few.or_else(|| digits(self.rest))?;
        self.rest = self.rest.get(length..)?;
        Some(number)
    }

    /// Passes a number, whatever it is.
    #[inline(always)]
    pub(super) fn any_number(&mut self) -> Option<()> {
        let few = self.rest.first_chunk().and_then(count_few_digits);
        let length = few.or_else(|| digits(self.rest).map(|(_, length)| length))?;
        self.rest = self.rest.get(length..)?;
        Some(())
    }

    /// The number that is all that comes after `text`, but for the end of the line.
    #[inline(always)]
    pub(super) fn last_number<const N: usize>(&self, text: &[u8; N]) -> Option<u64> {
        let mut ahead = *self;
        ahead.pass(text)?;
        let length = ahead.rest.len().checked_sub(2)?;
        let (before, b"\"}") = self.rest.split_last_chunk()? else { return None };
        last_digits(before.last_chunk()?, length)
    }

    /// The text that is all that comes, but for its quote and the end of the line.
    #[inline(always)]
    pub(super) fn last_text(&self) -> Option<&'l [u8]> {
        let (text, b"\"}") = self.rest.split_last_chunk()? else { return None };
        let is_plain = text.iter().all(|b| (b' '..0x80).contains(b) && *b != b'"' && *b != b'\\');
        is_plain.then_some(text)
    }

    #[inline(always)]
    pub(super) fn address(&mut self) -> Option<Address> {
        if let Some((octets, length)) = self.rest.first_chunk().and_then(octets) {
            self.rest = self.rest.get(length..)?;
            return Some(Address::v4(octets));
        }
        self.any_address()
    }

    #[inline(never)]
    fn any_address(&mut self) -> Option<Address> {
        let ip: IpAddr = str::from_utf8(self.text()?).ok()?.parse().ok()?;
        Some(ip.into())
    }
}

/// A bit for each byte that is a quote, escapes something, would have to be escaped, or is not ASCII; the first one lowest.
#[inline(always)]
fn not_plain(text: &[u8; 16]) -> u32 {
    let lanes = i8x16::new(text.map(u8::cast_signed));
    let [quote, backslash, space] = [b'"', b'\\', b' '].map(|b| i8x16::splat(b.cast_signed()));
    // As signed numbers, what is not ASCII comes before all of it.
    (lanes.simd_eq(quote) | lanes.simd_eq(backslash) | lanes.simd_lt(space)).to_bitmask()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_at_the_first_byte_that_is_not_plain() {
        let plain = |text: &[u8]| Cursor::new(text).text().map(<[u8]>::len);
        for length in 0..40 {
            for end in [b'"', b'\\', 0, b'\n', 0x1f, 0x80, 0xff] {
                for after in [b'!', b'#', b' ', b'[', b']', 0x7f, 0xa2, 0xff, b'"'] {
                    let text = [vec![b'x'; length], vec![end], vec![after; 20]].concat();
                    assert_eq!(plain(&text), Some(length), "{end:#x} and then {after:#x}");
                }
            }
            for byte in [b' ', b'!', b'#', b'[', b']', 0x7f] {
                let text = [vec![byte; length], b"\",\"more\":\"than this\"".to_vec()].concat();
                assert_eq!(plain(&text), Some(length), "{byte:#x}");
            }
            assert_eq!(plain(&vec![b'x'; length]), None, "no end");
        }
    }

    #[test]
    fn numbers_are_whole_and_have_no_leading_zeros() {
        let number = |text: &str| Cursor::new(text.as_bytes()).number();
        assert_eq!(
            [number("0"), number("10"), number("999999999999999999,")],
            [Some(0), Some(10), Some(999_999_999_999_999_999)]
        );
        assert_eq!([number(""), number("01"), number("-1"), number("9999999999999999999")], [None; 4]);
    }

    #[test]
    fn addresses_are_read_as_the_standard_library_reads_them() {
        for text in [
            "0.0.0.0",
            "10.0.3.7",
            "255.255.255.255",
            "256.0.0.1",
            "1.2.3",
            "1.2.3.4.",
            "01.2.3.4",
            "1..2.3",
            "::1",
            "",
        ] {
            let line = format!("{text}\",\"port\":5432,\"name\":null");
            let expected = text.parse().ok().map(|ip: IpAddr| ip.into());
            assert_eq!(Cursor::new(line.as_bytes()).address(), expected, "{text}");
        }
    }
}
