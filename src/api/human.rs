//! Formats numbers and times for text output: bytes in binary units, counts with thousands separators. No I/O.

use jiff::{Timestamp, Unit};

/// Formats a size as `1.5 MiB`, as the CLI page of the service does.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = UNITS[0];
    // Tenths, so that rounding never shows 1024.0 of a unit.
    let mut tenths = u128::from(count) * 10 / 1024;
    for next in UNITS.iter().skip(1) {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = next;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// Formats a count as `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a count with a noun: `1 day`, `12,345 days`. The plural is the noun with an s.
pub fn plural(number: u64, word: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {word}{plural}", count(number))
}

/// Formats a time to the second.
pub fn time(at: Timestamp) -> String {
    at.round(Unit::Second).unwrap_or(at).to_string()
}

/// Formats a time to the minute, where space is scarce.
pub fn short_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%MZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_no_fractions() {
        let at: Timestamp = "2018-06-28T12:50:36.012383445Z".parse().unwrap();
        assert_eq!(time(at), "2018-06-28T12:50:36Z");
        assert_eq!(short_time(at), "2018-06-28T12:50Z");
    }

    #[test]
    fn numbers_are_formatted_for_people() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1023.9 KiB"),
            (1_048_576, "1.0 MiB"),
            (10_737_418_240, "10.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
        assert_eq!(
            [count(0), count(999), count(1000), count(12_345_678)],
            ["0", "999", "1,000", "12,345,678"]
        );
        assert_eq!(
            (plural(1, "day"), plural(2000, "day")),
            ("1 day".to_owned(), "2,000 days".to_owned())
        );
    }
}
