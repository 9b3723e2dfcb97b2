//! `strftime` in UTC, with the names of the C locale.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

/// A moment by calendar and clock, in UTC.
struct Moment {
    year: i64,
    /// 1 to 12.
    month: u32,
    /// 1 to 31.
    day: u32,
    /// 1 to 366.
    day_of_year: u32,
    /// 0 is Sunday.
    weekday: usize,
    hour: u32,
    minute: u32,
    second: u32,
    micros: u32,
}

impl Moment {
    /// Moments before 1970 become 1970.
    fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let days = (since.as_secs() / 86_400) as i64;
        let clock = (since.as_secs() % 86_400) as u32;
        let (year, month, day) = civil(days);
        let day_of_year = (days - days_before(year) + 1) as u32;
        Self {
            year,
            month,
            day,
            day_of_year,
            weekday: ((days + 4) % 7) as usize,
            hour: clock / 3600,
            minute: clock / 60 % 60,
            second: clock % 60,
            micros: since.subsec_micros(),
        }
    }

    /// The text of one directive; none for one that does not exist.
    fn directive(&self, directive: char) -> Option<String> {
        let month = MONTHS[self.month as usize - 1];
        let weekday = DAYS[self.weekday];
        let hour12 = (self.hour + 11) % 12 + 1;
        let all = |format: &str| self.format(format);
        Some(match directive {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{:02}", self.month),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'w' => self.weekday.to_string(),
            'u' => ((self.weekday + 6) % 7 + 1).to_string(),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{hour12:02}"),
            'M' => format!("{:02}", self.minute),
            'S' => format!("{:02}", self.second),
            'f' => format!("{:06}", self.micros),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'z' => "+0000".to_owned(),
            'Z' => "UTC".to_owned(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            'F' => all("%Y-%m-%d"),
            'D' | 'x' => all("%m/%d/%y"),
            'T' | 'X' => all("%H:%M:%S"),
            'R' => all("%H:%M"),
            'c' => all("%a %b %e %H:%M:%S %Y"),
            _ => return None,
        })
    }

    fn format(&self, format: &str) -> String {
        let mut out = String::with_capacity(format.len() * 2);
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            let plain = &rest[at + 1..];
            let unpadded = plain.strip_prefix('-');
            let mut after = unpadded.unwrap_or(plain).chars();
            match after.next().and_then(|directive| self.directive(directive)) {
                Some(text) if unpadded.is_some() => {
                    let trimmed = text.trim_start_matches(['0', ' ']);
                    out.push_str(if trimmed.is_empty() { "0" } else { trimmed });
                    rest = after.as_str();
                }
                Some(text) => {
                    out.push_str(&text);
                    rest = after.as_str();
                }
                None => {
                    out.push('%');
                    rest = plain;
                }
            }
        }
        out + rest
    }
}

/// Formats `time` in UTC. A directive that does not exist stays as it is; `%-d` is `%d` without padding.
pub(super) fn strftime(format: &str, time: SystemTime) -> String {
    Moment::of(time).format(format)
}

/// Days from 1970-01-01 to the first of January of `year`, 1970 or later.
fn days_before(year: i64) -> i64 {
    let y = year - 1;
    365 * (year - 1970) + (y / 4 - 492) - (y / 100 - 19) + (y / 400 - 4)
}

/// Year, month and day of a number of days since 1970-01-01.
fn civil(days: i64) -> (i64, u32, u32) {
    let mut year = 1970 + days / 366;
    while days_before(year + 1) <= days {
        year += 1;
    }
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let mut left = days - days_before(year);
    let mut month = 1;
    for length in [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left as u32 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64, format: &str) -> String {
        strftime(format, UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn known_moments() {
        // From `date -u -d @N +FORMAT`.
        assert_eq!(at(0, "%Y-%m-%d %H:%M:%S %a %j"), "1970-01-01 00:00:00 Thu 001");
        assert_eq!(at(951_782_400, "%d %b %Y %A %j"), "29 Feb 2000 Tuesday 060");
        assert_eq!(at(1_735_689_599, "%d %B %y %I:%M:%S %p %j %u"), "31 December 24 11:59:59 PM 366 2");
        assert_eq!(at(4_102_444_800, "%F %T %-d.%-m. %Z"), "2100-01-01 00:00:00 1.1. UTC");
        assert_eq!(at(4_107_542_400, "%F"), "2100-03-01");
        assert_eq!(at(0, "%-H %q %"), "0 %q %");
    }
}
