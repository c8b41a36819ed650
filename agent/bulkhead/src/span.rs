//! Stretches of time as people write them.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// `90s`, `2h`, `1h 30m`, `30 days`: a day has 24 hours.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let expected = || "a time such as 2h, 30m or 7 days is expected".to_owned();
    let span: Span = text.parse().map_err(|_| expected())?;
    let time = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| expected())?;
    match Duration::try_from(time) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("it has to be longer than nothing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_24_hours() {
        for (text, seconds) in
            [("90s", 90), ("2h", 7200), ("1h 30m", 5400), ("7d", 604_800), ("30 days", 2_592_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "2", "yesterday", "-2h", "0s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
