//! The time of a record.

use super::RecordError;

/// Fails if it is no time, whether or not anybody asks for it.
#[inline(always)]
pub(super) fn check(text: &[u8]) -> Result<(), RecordError> {
    if is_usual(text) { Ok(()) } else { parse(text).map(drop) }
}

pub(super) fn parse(text: &[u8]) -> Result<jiff::Timestamp, RecordError> {
    let text = String::from_utf8_lossy(text);
    text.parse()
        .map_err(|_| RecordError::value("time", &text, "a point in time such as `2026-12-31T00:00:00Z`"))
}

/// Is it as the agent writes it, on one of the days that every month has, and in UTC?
#[inline(always)]
fn is_usual(text: &[u8]) -> bool {
    const FORM: &[u8; 19] = b"0000-00-00T00:00:00";
    let Some((time, rest)) = text.split_first_chunk::<19>() else { return false };
    let fits = |(form, byte): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { form == byte };
    if !FORM.iter().zip(time).all(fits) {
        return false;
    }
    let two = |at: usize| 10 * (time[at] - b'0') + time[at + 1] - b'0';
    let fraction = match rest {
        [b'Z'] => true,
        [b'.', digits @ .., b'Z'] => (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let day = (1..=12).contains(&two(5)) && (1..=28).contains(&two(8));
    day && two(11) < 24 && two(14) < 60 && two(17) < 60 && fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_is_a_time() {
        for (text, usual, is_time) in [
            ("2026-11-21T20:15:03Z", true, true),
            ("2026-11-21T20:15:03.123456Z", true, true),
            ("2026-11-30T20:15:03Z", false, true),
            ("2026-11-21T20:15:03+01:00", false, true),
            ("2026-02-30T20:15:03Z", false, false),
            ("2026-11-21T24:15:03Z", false, false),
            ("2026-13-21T20:15:03Z", false, false),
            ("2026-11-21T20:15:03.Z", false, false),
            ("yesterday", false, false),
            ("", false, false),
        ] {
            assert_eq!(
                (is_usual(text.as_bytes()), check(text.as_bytes()).is_ok()),
                (usual, is_time),
                "{text}"
            );
            assert_eq!(parse(text.as_bytes()).is_ok(), is_time, "{text}");
        }
    }
}
