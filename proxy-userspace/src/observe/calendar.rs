//! Local times of day as logs write them, made once per second.

/// Seconds east of Greenwich at a moment, which is in seconds since the epoch.
type Offset = fn(i64) -> i32;

/// Text of the last few seconds asked for.
#[derive(Clone, Debug)]
pub struct Calendar {
    offset: Offset,
    /// A log may ask for an exchange's begin and its end in turn.
    slots: [Second; 2],
    older: usize,
}

#[derive(Clone, Copy, Debug)]
struct Second {
    at: u64,
    /// `28/Nov/2026:13:58:28 +0000`
    clf: [u8; 26],
    /// `2026-11-28T13:58:28+00:00`
    iso: [u8; 25],
    /// `2026-11-28T13:58:28`, in UTC.
    utc: [u8; 19],
}

impl Calendar {
    /// In the zone of this process (`TZ`, `/etc/localtime`).
    pub fn local() -> Self {
        Self::new(local_offset)
    }

    /// In the zone that `offset` tells.
    pub fn new(offset: Offset) -> Self {
        let epoch = Second::new(0, offset);
        Self {
            offset,
            slots: [epoch; 2],
            older: 0,
        }
    }

    /// As in the Common Log Format: `28/Nov/2026:13:58:28 +0000`.
    pub fn clf(&mut self, second: u64) -> &[u8; 26] {
        &self.at(second).clf
    }

    /// With the zone's offset: `2026-11-28T13:58:28+00:00`.
    pub fn iso(&mut self, second: u64) -> &[u8; 25] {
        &self.at(second).iso
    }

    /// In UTC, without saying so: `2026-11-28T13:58:28`.
    pub fn utc(&mut self, second: u64) -> &[u8; 19] {
        &self.at(second).utc
    }

    fn at(&mut self, second: u64) -> &Second {
        let slot = match self.slots.iter().position(|slot| slot.at == second) {
            Some(slot) => slot,
            None => {
                let slot = self.older;
                self.slots[slot] = Second::new(second, self.offset);
                slot
            }
        };
        self.older = 1 - slot;
        &self.slots[slot]
    }
}

impl Second {
    fn new(at: u64, offset: Offset) -> Self {
        let utc = i64::try_from(at).unwrap_or(i64::MAX / 2).min(LAST_SECOND);
        let east = offset(utc);
        let local = Civil::of(utc + i64::from(east));
        let sign = if east < 0 { b'-' } else { b'+' };
        let minutes = east.unsigned_abs() / 60;
        let (hours, minutes) = (minutes / 60, minutes % 60);

        let mut clf = *b"00/Jan/0000:00:00:00 +0000";
        digits(&mut clf[0..2], local.day);
        clf[3..6].copy_from_slice(MONTHS[local.month as usize - 1]);
        digits(&mut clf[7..11], local.year);
        local.time(&mut clf[12..20]);
        clf[21] = sign;
        digits(&mut clf[22..24], hours);
        digits(&mut clf[24..26], minutes);

        let mut iso = *b"0000-00-00T00:00:00+00:00";
        local.date_and_time(&mut iso);
        iso[19] = sign;
        digits(&mut iso[20..22], hours);
        digits(&mut iso[23..25], minutes);

        let mut plain = *b"0000-00-00T00:00:00";
        Civil::of(utc).date_and_time(&mut plain);
        Self {
            at,
            clf,
            iso,
            utc: plain,
        }
    }
}

/// 9999-12-31T00:00:00: the years of all formats have four digits, in every zone.
const LAST_SECOND: i64 = 253_402_214_400;

const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// A date and a time in the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl Civil {
    /// Of a moment in seconds since the epoch; those before it count as the epoch.
    fn of(seconds: i64) -> Self {
        let seconds = seconds.max(0);
        let (days, rest) = (seconds / 86_400, (seconds % 86_400) as u32);
        // Days since 0000-03-01: years then end with the leap day, and eras of 400 years are alike.
        let days = days + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Self {
            year: year as u32,
            month: month as u32,
            day: day as u32,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    fn time(self, out: &mut [u8]) {
        digits(&mut out[0..2], self.hour);
        digits(&mut out[3..5], self.minute);
        digits(&mut out[6..8], self.second);
    }

    fn date_and_time(self, out: &mut [u8]) {
        digits(&mut out[0..4], self.year);
        digits(&mut out[5..7], self.month);
        digits(&mut out[8..10], self.day);
        self.time(&mut out[11..19]);
    }
}

/// Writes a number with leading zeros.
fn digits(out: &mut [u8], mut number: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn local_offset(second: i64) -> i32 {
    let time: libc::time_t = second;
    let mut fields = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values of the right types, and the function writes only
    // the second. It reads the environment's `TZ`, which this process sets nowhere.
    let done = unsafe { libc::localtime_r(&raw const time, fields.as_mut_ptr()) };
    if done.is_null() {
        return 0;
    }
    // SAFETY: zeroed is valid for this struct of integers and a pointer, and it was filled in.
    let fields = unsafe { fields.assume_init() };
    fields.tm_gmtoff as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(octets: &[u8]) -> &str {
        std::str::from_utf8(octets).expect("ASCII")
    }

    #[test]
    fn a_second_is_written_in_its_zone() {
        let mut east = Calendar::new(|_| 5 * 3600 + 30 * 60);
        assert_eq!(text(east.clf(1_709_161_200)), "29/Feb/2024:04:30:00 +0530");
        assert_eq!(text(east.iso(1_709_161_200)), "2024-02-29T04:30:00+05:30");
        assert_eq!(text(east.utc(1_709_161_200)), "2024-02-28T23:00:00");
        let mut west = Calendar::new(|_| -(3 * 3600 + 30 * 60));
        assert_eq!(text(west.clf(1_704_067_200)), "31/Dec/2023:20:30:00 -0330");
    }

    #[test]
    fn two_seconds_are_kept_and_a_third_replaces_the_older() {
        let mut calendar = Calendar::new(|_| 0);
        for second in [1, 2, 1, 3, 2, u64::MAX, 3] {
            let expected = Second::new(second, |_| 0).clf;
            assert_eq!(calendar.clf(second), &expected);
        }
    }

    #[test]
    fn days_follow_each_other() {
        let mut before = Civil::of(0);
        for day in 1..200_000 {
            let civil = Civil::of(day * 86_400);
            let next_day = civil.day == before.day + 1 && civil.month == before.month;
            let next_month = civil.day == 1 && civil.month == before.month + 1 && before.day >= 28;
            let next_year = (civil.day, civil.month) == (1, 1)
                && (before.day, before.month) == (31, 12)
                && civil.year == before.year + 1;
            assert!(next_day || next_month || next_year, "{before:?} {civil:?}");
            before = civil;
        }
    }
}
