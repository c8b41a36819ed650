//! The one form in which the agent writes a record, read in a fraction of the time that any JSON takes.
//!
//! Fields in the agent's order, no white space, plain ASCII: each step either finds what the agent would have written
//! next, or the line is left to the general reader. What is read here, it reads the same.

use std::borrow::Cow;

use bulkhead_common::{Address, Direction, Protocol, Verdict};

use super::{FlowRecord, port, protocol};

/// The record of a line in the agent's form; none of any other line, and none of one that is at fault.
pub(super) fn read(line: &[u8]) -> Option<FlowRecord<'_>> {
    let at = &mut Cursor { rest: line };
    at.pass(b"{\"time\":\"")?;
    let time = at.text()?;
    at.pass(b"\",\"verdict\":\"")?;
    let verdict = verdict(at.text()?)?;
    at.pass(b"\",\"mode\":\"")?;
    at.text()?;
    at.pass(b"\",\"direction\":\"")?;
    let direction = direction(at.text()?)?;
    at.pass(b"\",\"protocol\":\"")?;
    let transport = at.text()?;
    at.pass(b"\",\"workload\":{\"name\":")?;
    let workload = at.text_or_null()?;
    at.pass(b",\"environment\":")?;
    at.text_or_null()?;
    at.pass(b",\"cgroup\":")?;
    at.text_or_null()?;
    at.pass(b",\"unit\":")?;
    at.text_or_null()?;
    at.pass(b"},\"process\":")?;
    if !at.is_null() {
        at.process()?;
    }
    at.pass(b",\"peer\":{\"address\":\"")?;
    let peer_address = at.address()?;
    at.pass(b"\",\"port\":")?;
    if !at.is_null() {
        u16::try_from(at.number()?).ok()?;
    }
    at.pass(b",\"name\":")?;
    let peer_name = at.text_or_null()?;
    at.pass(b",\"environment\":")?;
    at.text_or_null()?;
    at.pass(b"},\"rule\":")?;
    if !at.is_null() {
        at.rule()?;
        at.pass(b"}")?;
    }
    at.pass(b",\"reason\":\"")?;
    at.text()?;
    at.pass(b"\",\"nearest_rule\":")?;
    if !at.is_null() {
        at.rule()?;
        at.differs()?;
        at.pass(b"}")?;
    }
    at.pass(b",\"count\":")?;
    let count = at.number()?;
    at.pass(b",\"suppressed\":")?;
    at.number()?;
    at.pass(b",\"generation\":")?;
    at.number()?;
    at.pass(b",\"service\":\"")?;
    let (protocol, port) = at.service(transport)?;
    at.pass(b"\"}")?;
    at.rest.is_empty().then_some(FlowRecord {
        verdict,
        direction,
        protocol,
        port,
        workload: workload.map(Cow::Borrowed),
        peer_name: peer_name.map(Cow::Borrowed),
        peer_address,
        count,
        time: Cow::Borrowed(time),
    })
}

fn verdict(text: &[u8]) -> Option<Verdict> {
    match text {
        b"denied" => Some(Verdict::Denied),
        b"allowed" => Some(Verdict::Allowed),
        b"would-deny" => Some(Verdict::WouldDeny),
        _ => None,
    }
}

fn direction(text: &[u8]) -> Option<Direction> {
    match text {
        b"egress" => Some(Direction::Egress),
        b"ingress" => Some(Direction::Ingress),
        _ => None,
    }
}

/// What is left of a line.
#[derive(Clone, Copy)]
struct Cursor<'l> {
    rest: &'l [u8],
}

impl<'l> Cursor<'l> {
    #[inline(always)]
    fn pass<const N: usize>(&mut self, text: &[u8; N]) -> Option<()> {
        let (next, rest) = self.rest.split_first_chunk()?;
        (next == text).then(|| self.rest = rest)
    }

    /// Passes a null, if there is one.
    #[inline(always)]
    fn is_null(&mut self) -> bool {
        self.pass(b"null").is_some()
    }

    #[inline(always)]
    #[expect(clippy::option_option, reason = "not in the agent's form, null, or a text")]
    fn text_or_null(&mut self) -> Option<Option<&'l [u8]>> {
        if self.is_null() { Some(None) } else { self.quoted().map(Some) }
    }

    /// What stands before the next quote, if it stands for itself.
    #[inline(always)]
    fn text(&mut self) -> Option<&'l [u8]> {
        let (text, rest) = self.rest.split_at_checked(plain(self.rest))?;
        self.rest = rest;
        Some(text)
    }

    #[inline(always)]
    fn quoted(&mut self) -> Option<&'l [u8]> {
        self.pass(b"\"")?;
        let text = self.text()?;
        self.pass(b"\"")?;
        Some(text)
    }

    /// A number as the agent writes counts: JSON knows no leading zeros, and 18 digits always fit.
    #[inline(always)]
    fn number(&mut self) -> Option<u64> {
        let (number, length) =
            self.rest.first_chunk().and_then(few_digits).unwrap_or_else(|| digits(self.rest));
        let leading_zero = length > 1 && self.rest[0] == b'0';
        self.rest = &self.rest[length..];
        ((1..=18).contains(&length) && !leading_zero).then_some(number)
    }

    #[inline(always)]
    fn address(&mut self) -> Option<Address> {
        let mut ahead = *self;
        if let Some(octets) = ahead.octets().filter(|_| ahead.rest.first() == Some(&b'"')) {
            *self = ahead;
            return Some(Address::v4(octets));
        }
        let ip: std::net::IpAddr = str::from_utf8(self.text()?).ok()?.parse().ok()?;
        Some(ip.into())
    }

    #[inline(always)]
    fn octets(&mut self) -> Option<[u8; 4]> {
        let a = self.number()?.try_into().ok()?;
        self.pass(b".")?;
        let b = self.number()?.try_into().ok()?;
        self.pass(b".")?;
        let c = self.number()?.try_into().ok()?;
        self.pass(b".")?;
        Some([a, b, c, self.number()?.try_into().ok()?])
    }

    /// The protocol that `transport` names, and the port of a service.
    #[inline(always)]
    fn service(&mut self, transport: &[u8]) -> Option<(Protocol, u16)> {
        let mut ahead = *self;
        let known = match transport {
            b"tcp" => ahead.pass(b"tcp/").map(|()| Protocol::TCP),
            b"udp" => ahead.pass(b"udp/").map(|()| Protocol::UDP),
            _ => None,
        };
        if let Some(protocol) = known
            && let Some(Ok(port)) = ahead.number().map(u16::try_from)
            && ahead.rest.first() == Some(&b'"')
        {
            *self = ahead;
            return Some((protocol, port));
        }
        let service = str::from_utf8(self.text()?).ok()?;
        Some((protocol(str::from_utf8(transport).ok()?)?, port(service)?))
    }

    #[inline(always)]
    fn process(&mut self) -> Option<()> {
        self.pass(b"{\"pid\":")?;
        self.number()?;
        self.pass(b",\"comm\":\"")?;
        self.text()?;
        self.pass(b"\",\"exe\":")?;
        self.text_or_null()?;
        self.pass(b",\"uid\":")?;
        self.number()?;
        self.pass(b"}")
    }

    #[inline(always)]
    fn rule(&mut self) -> Option<()> {
        self.pass(b"{\"id\":\"")?;
        self.text()?;
        self.pass(b"\",\"file\":\"")?;
        self.text()?;
        self.pass(b"\",\"line\":")?;
        self.number().map(drop)
    }

    #[inline(always)]
    fn differs(&mut self) -> Option<()> {
        self.pass(b",\"differs\":[")?;
        self.quoted()?;
        while self.pass(b",").is_some() {
            self.quoted()?;
        }
        self.pass(b"]")
    }
}

const HIGH_BITS: u64 = all(0x80);

/// A word of eight times this byte.
const fn all(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// How many bytes stand before the first that is a quote, escapes something, would have to be escaped, or is not ASCII.
#[inline(always)]
fn plain(text: &[u8]) -> usize {
    let mut rest = text;
    while let Some((word, more)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*word);
        let (quote, backslash) = (word ^ all(b'"'), word ^ all(b'\\'));
        let control = word.wrapping_sub(all(b' '));
        // A borrow runs upwards, from the first byte that is looked for: above it one may be found in error, below not.
        let found =
            (quote.wrapping_sub(all(1)) | backslash.wrapping_sub(all(1)) | control | word) & HIGH_BITS;
        if found != 0 {
            return text.len() - rest.len() + found.trailing_zeros() as usize / 8;
        }
        rest = more;
    }
    text.len() - rest.len() + plain_near_end(rest)
}

/// The same, byte by byte.
#[inline(never)]
fn plain_near_end(text: &[u8]) -> usize {
    text.iter().take_while(|b| (b' '..0x80).contains(*b) && **b != b'"' && **b != b'\\').count()
}

/// The number that the first digits are, and how many they are; none if there may be more of them.
#[inline(always)]
fn few_digits(text: &[u8; 8]) -> Option<(u64, usize)> {
    let values = u64::from_le_bytes(*text) ^ all(b'0');
    // A carry runs upwards, from the first byte that is no digit.
    let others = (values.wrapping_add(all(0x80 - 10)) | values) & HIGH_BITS;
    let length = others.trailing_zeros() / 8;
    if length == 0 || length == 8 {
        return None;
    }
    // The last digit comes to stand highest. Two, four, eight digits are put together at once.
    let aligned = values << (64 - 8 * length);
    let pairs = aligned.wrapping_mul(10).wrapping_add(aligned >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    let number = fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff;
    Some((number, length as usize))
}

/// The same, digit by digit.
#[inline(never)]
fn digits(text: &[u8]) -> (u64, usize) {
    let digits = text.iter().map(|b| b.wrapping_sub(b'0')).take_while(|digit| *digit < 10);
    digits.fold((0, 0), |(number, length), digit| {
        (u64::wrapping_mul(number, 10).wrapping_add(u64::from(digit)), length + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_at_the_first_byte_that_is_not_plain() {
        for length in 0..40 {
            for end in [b'"', b'\\', 0, b'\n', 0x1f, 0x80, 0xff] {
                // What follows may look like an end only because of a borrow.
                for after in [b'!', b'#', b' ', b'[', b']', 0x7f, 0xa2, 0xff, b'"'] {
                    let text = [vec![b'x'; length], vec![end], vec![after; 20]].concat();
                    assert_eq!(plain(&text), length, "{end:#x} and then {after:#x}");
                }
            }
            for byte in [b' ', b'!', b'#', b'[', b']', 0x7f] {
                assert_eq!(plain(&vec![byte; length]), length, "{byte:#x}");
            }
        }
    }

    #[test]
    fn digits_are_put_together_as_one_by_one() {
        for text in ["0", "7", "42", "123", "65535", "4194303", "9999999", "12345678", "123456789012345678"] {
            for end in ["", ",", "}", ".", "\u{7f}\u{ff}"] {
                let line = format!("{text}{end}        ");
                let expected = (text.parse().unwrap(), text.len());
                assert_eq!(digits(line.as_bytes()), expected, "{line}");
                if let Some(found) = few_digits(line.as_bytes().first_chunk().unwrap()) {
                    assert_eq!(found, expected, "{line}");
                }
            }
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
            let line = format!("{text}\",");
            let expected = text.parse().ok().map(|ip: std::net::IpAddr| ip.into());
            assert_eq!(Cursor { rest: line.as_bytes() }.address(), expected, "{text}");
        }
    }
}
