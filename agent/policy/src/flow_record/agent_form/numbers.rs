//! Numbers out of words of eight bytes, all digits at once.

use wide::u8x16;

const HIGH_BITS: u64 = all(0x80);

/// A word of eight times this byte.
const fn all(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The high bit of each byte that is not the value of a digit. A carry runs upwards, from the first such byte: above it
/// one may be found in error, below not.
#[inline(always)]
const fn no_digits(values: u64) -> u64 {
    (values.wrapping_add(all(0x80 - 10)) | values) & HIGH_BITS
}

/// The number that eight values of digits are, the last one highest: two, four, eight are put together at once.
#[inline(always)]
const fn together(values: u64) -> u64 {
    let pairs = values.wrapping_mul(10).wrapping_add(values >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff
}

/// How many digits the first ones of a number are; none if there may be more of them, or if it is none.
#[inline(always)]
pub(super) fn count_few_digits(text: &[u8; 8]) -> Option<usize> {
    let values = u64::from_le_bytes(*text) ^ all(b'0');
    let length = no_digits(values).trailing_zeros() / 8;
    let has_leading_zero = text[0] == b'0' && length != 1;
    (length != 0 && length != 8 && !has_leading_zero).then_some(length as usize)
}

/// The number that the first digits are, and how many they are; none if there may be more of them, or if it is none.
#[inline(always)]
pub(super) fn few_digits(text: &[u8; 8]) -> Option<(u64, usize)> {
    let length = count_few_digits(text)?;
    let values = u64::from_le_bytes(*text) ^ all(b'0');
    Some((together(values << (64 - 8 * length)), length))
}

/// The same of up to 18 digits, digit by digit.
#[inline(never)]
pub(super) fn digits(text: &[u8]) -> Option<(u64, usize)> {
    let values = || text.iter().map(|b| b.wrapping_sub(b'0')).take_while(|digit| *digit < 10);
    let length = values().take(19).count();
    let has_leading_zero = length != 1 && text.first() == Some(&b'0');
    if length == 0 || length == 19 || has_leading_zero {
        return None;
    }
    Some((values().fold(0, |number, digit| number * 10 + u64::from(digit)), length))
}

/// The number that the last `length` of eight bytes are.
#[inline(always)]
pub(super) fn last_digits(text: &[u8; 8], length: usize) -> Option<u64> {
    if !(1..=8).contains(&length) {
        return None;
    }
    let before = 64 - 8 * length;
    let values = (u64::from_le_bytes(*text) ^ all(b'0')) >> before << before;
    (no_digits(values) == 0).then(|| together(values))
}

/// The IPv4 address before the first quote, and how long it is.
#[inline(always)]
pub(super) fn octets(text: &[u8; 16]) -> Option<([u8; 4], usize)> {
    let lanes = u8x16::new(*text);
    let [dots, quotes] = [b'.', b'"'].map(|b| lanes.simd_eq(u8x16::splat(b)).to_bitmask());
    let quote = quotes & quotes.wrapping_neg();
    let mut ends = dots & quote.wrapping_sub(1) | quote;
    let (mut start, mut octets) = (0, [0; 4]);
    for octet in &mut octets {
        let end = ends.trailing_zeros() as usize;
        ends &= ends.wrapping_sub(1);
        *octet = self::octet(text.get(start..)?.first_chunk()?, end - start)?;
        start = end + 1;
    }
    (ends == 0).then_some((octets, start - 1))
}

/// The part of an IPv4 address that the first `length` bytes are.
#[inline(always)]
fn octet(text: &[u8; 4], length: usize) -> Option<u8> {
    if !(1..=3).contains(&length) {
        return None;
    }
    // The last digit comes to stand highest.
    let values = (u32::from_le_bytes(*text) ^ 0x3030_3030) << (32 - 8 * length);
    let [_, hundreds, tens, ones] = values.to_le_bytes().map(u32::from);
    let are_digits = no_digits(values.into()) == 0;
    let has_leading_zero = (hundreds == 0 && length == 3) || (tens == 0 && length == 2);
    let number = 100 * hundreds + 10 * tens + ones;
    u8::try_from(number).ok().filter(|_| are_digits && !has_leading_zero)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SPACES: &str = "                ";

    #[test]
    fn digits_are_put_together_as_one_by_one() {
        for text in ["0", "7", "42", "123", "65535", "4194303", "9999999", "12345678", "123456789012345678"] {
            for end in ["", ",", "}", ".", "\u{7f}\u{ff}"] {
                let line = format!("{text}{end}{SPACES}");
                let expected = Some((text.parse().unwrap(), text.len()));
                assert_eq!(digits(line.as_bytes()), expected, "{line}");
                let few = few_digits(line.as_bytes().first_chunk().unwrap());
                assert_eq!(few, expected.filter(|_| text.len() < 8), "{line}");
                let last = format!("{SPACES}{end}{text}");
                let last = last_digits(last.as_bytes().last_chunk().unwrap(), text.len());
                assert_eq!(last, expected.map(|(number, _)| number).filter(|_| text.len() <= 8), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in ["", "x", "-1", "01", "00", "+1", "9999999999999999999"] {
            let line = format!("{text}{SPACES}");
            assert_eq!(digits(line.as_bytes()), None, "{text}");
            assert_eq!(few_digits(line.as_bytes().first_chunk().unwrap()), None, "{text}");
        }
        for (text, length) in
            [("1234567x", 1), ("x1234567", 8), ("12345678", 0), ("12345678", 9), ("1234:678", 4)]
        {
            assert_eq!(last_digits(text.as_bytes().first_chunk().unwrap(), length), None, "{text}");
        }
    }

    /// Every octet in each place, and whatever else up to four characters can be.
    #[test]
    fn octets_are_read_as_the_standard_library_reads_them() {
        let numbers = (0..=1_000).map(|n| n.to_string());
        let others = [
            "", "0", "00", "01", "001", "1000", "0001", "a", "1a", ":1", "1/", "/1", "1:", " 1", "+1",
            "1\u{e9}",
        ];
        for part in numbers.chain(others.map(str::to_owned)) {
            for address in [
                format!("{part}.2.3.4"),
                format!("1.{part}.33.4"),
                format!("1.22.{part}.4"),
                format!("100.200.250.{part}"),
                format!("1.2.3.4.{part}"),
                part.clone(),
            ] {
                let line = format!("{address}\",\"port\":1.2.3.4,\"");
                let expected = address.parse().ok().map(|ip: Ipv4Addr| (ip.octets(), address.len()));
                assert_eq!(octets(line.as_bytes().first_chunk().unwrap()), expected, "{address}");
            }
        }
    }
}
