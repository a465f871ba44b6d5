//! Durations in the format of the API: GEP-2257, `1h30m`. No I/O.

use jiff::SignedDuration;

/// Maximum of `spec.settleAfter`: 30 days.
pub const MAX_SETTLE_AFTER: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Minimum of `spec.verification.every`: an hour.
pub const MIN_VERIFICATION_INTERVAL: SignedDuration = SignedDuration::from_hours(1);

/// Maximum of `spec.verification.every`: 365 days.
pub const MAX_VERIFICATION_INTERVAL: SignedDuration = SignedDuration::from_hours(365 * 24);

/// Maximum number of components of a duration (GEP-2257).
const MAX_NUMBERS: usize = 4;
/// Maximum number of digits in a component (GEP-2257).
const MAX_DIGITS: usize = 5;

/// Parses one to four numbers of up to five digits, each with its unit: h, m, s or ms. Returns `None` for any other
/// text, including Go's fractions, signs and days.
pub fn parse_duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text;
    let mut total = SignedDuration::ZERO;
    let mut numbers = 0;
    while !rest.is_empty() {
        numbers += 1;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if numbers > MAX_NUMBERS || digits > MAX_DIGITS {
            return None;
        }
        let (number, after) = rest.split_at_checked(digits)?;
        let number: i64 = number.parse().ok()?;
        // `ms` before `m`: the longest match wins.
        let (unit, after) = if let Some(after) = after.strip_prefix("ms") {
            (SignedDuration::from_millis(1), after)
        } else if let Some(after) = after.strip_prefix('h') {
            (SignedDuration::from_hours(1), after)
        } else if let Some(after) = after.strip_prefix('m') {
            (SignedDuration::from_mins(1), after)
        } else {
            (SignedDuration::from_secs(1), after.strip_prefix('s')?)
        };
        total = total.checked_add(unit.checked_mul(i32::try_from(number).ok()?)?)?;
        rest = after;
    }
    (numbers > 0).then_some(total)
}

/// Formats a duration for [`parse_duration`], without zero units: `1h30m`, `0s`. A negative duration becomes `0s`.
pub fn format_duration(duration: SignedDuration) -> String {
    let millis = duration.as_millis().max(0);
    let parts = [
        (millis / 3_600_000, "h"),
        (millis / 60_000 % 60, "m"),
        (millis / 1000 % 60, "s"),
        (millis % 1000, "ms"),
    ];
    let written = parts.iter().filter(|(number, _)| *number > 0);
    let text = written.fold(String::new(), |text, (number, unit)| {
        text + &number.to_string() + unit
    });
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_follow_gep_2257() {
        for (text, seconds) in [
            ("6h", 21_600),
            ("1h30m", 5400),
            ("0s", 0),
            ("90s", 90),
            ("720h", 2_592_000),
            ("1m1h", 3660),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(SignedDuration::from_secs(seconds)),
                "{text}"
            );
        }
        assert_eq!(parse_duration("5ms"), Some(SignedDuration::from_millis(5)));
        for text in [
            "",
            "6",
            "h",
            "1d",
            "-1h",
            "+1h",
            "1.5h",
            "6 h",
            "100000h",
            "1h1h1h1h1h",
            "1H",
            "1h ",
            "٣h",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn durations_round_trip(seconds in 0..=2_592_000_i64) {
            let duration = SignedDuration::from_secs(seconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }
    }
}
