//! Speed of a run, and the time that it needs. No I/O.

use std::time::Duration;

/// Minimum time before a rate is shown: 2 s. The first bytes say little.
const SETTLED: Duration = Duration::from_secs(2);

/// Work of a run since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkDone {
    /// Time since the first look at the destination.
    pub elapsed: Duration,
    /// Bytes received.
    pub bytes: u64,
    /// Windows stored.
    pub windows: u64,
    /// Windows that are left.
    pub left: u64,
}

impl WorkDone {
    /// Returns the bytes per second; `None`: not known yet.
    pub fn bytes_per_second(&self) -> Option<u64> {
        let millis = u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX);
        (self.elapsed >= SETTLED && self.bytes > 0).then(|| self.bytes.saturating_mul(1000) / millis)
    }

    /// Returns the time that the windows left need at the speed so far; `None`: not known yet, or nothing is left.
    pub fn time_left(&self) -> Option<Duration> {
        if self.elapsed < SETTLED || self.windows == 0 || self.left == 0 {
            return None;
        }
        let seconds = self.elapsed.as_secs().saturating_mul(self.left) / self.windows;
        Some(Duration::from_secs(seconds))
    }
}

/// Formats a time as `45s`, `12m`, `3h 20m` or `2d 4h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days}d {}h", hours % 24),
        () if hours > 0 => format!("{hours}h {}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m"),
        () => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_estimated_from_the_windows_so_far() {
        let done = WorkDone {
            elapsed: Duration::from_mins(1),
            bytes: 60 << 20,
            windows: 10,
            left: 20,
        };
        assert_eq!(done.bytes_per_second(), Some(1 << 20));
        assert_eq!(done.time_left(), Some(Duration::from_mins(2)));
        for unknown in [
            WorkDone { windows: 0, ..done },
            WorkDone { left: 0, ..done },
            WorkDone {
                elapsed: Duration::from_secs(1),
                ..done
            },
        ] {
            assert_eq!(unknown.time_left(), None, "{unknown:?}");
        }
        assert_eq!(WorkDone { bytes: 0, ..done }.bytes_per_second(), None);
    }

    #[test]
    fn times_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (119, "1m"),
            (12_000, "3h 20m"),
            (187_200, "2d 4h"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }
}
