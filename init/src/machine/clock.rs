//! The clock of a machine: it stands still while the machine does, and the one on its board goes on.

use std::{
    cell::Cell,
    fs::File,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, Timespec, clock_settime};

use crate::sys;

/// How far the two may be apart. The one on the board counts whole seconds.
const TOLERATED: Duration = Duration::from_secs(2);

/// How often they are compared while nobody connects.
const EVERY: Duration = Duration::from_secs(10);

/// Reading the one on the board takes the host a while, and whoever connects waits for it.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// Compares the machine's clock with the one on its board, and sets it.
pub(crate) struct Keeper {
    board: File,
    compared: Cell<Option<Instant>>,
}

impl Keeper {
    /// Sets the clock for the first time. `None` where there is nothing to set it by.
    pub(super) fn open() -> Option<Self> {
        let board = ["/dev/rtc0", "/dev/rtc"].iter().find_map(|path| File::open(path).ok())?;
        let keeper = Self { board, compared: Cell::new(None) };
        keeper.compare();
        Some(keeper)
    }

    /// Compares them now and then, for ever: somebody may look at the time while nobody is connected.
    pub(crate) async fn keep(&self) {
        loop {
            tokio::time::sleep(EVERY).await;
            self.compare();
        }
    }

    /// Compares them, unless that was just done.
    pub(crate) fn compare(&self) {
        let now = Instant::now();
        if self.compared.get().is_some_and(|last| now.saturating_duration_since(last) < AT_MOST_EVERY) {
            return;
        }
        self.compared.set(Some(now));
        let Ok(fields) = sys::time_on_board(&self.board) else { return };
        let Some(board) = since_epoch(fields) else { return };
        let own = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Some(right) = correction(own, board) else { return };
        let seconds = i64::try_from(right.as_secs()).unwrap_or(0);
        let time = Timespec { tv_sec: seconds, tv_nsec: right.subsec_nanos().into() };
        match clock_settime(ClockId::Realtime, time) {
            Ok(()) => tracing::info!(off_ms = own.abs_diff(right).as_millis(), "set the clock"),
            Err(error) => tracing::warn!(%error, "setting the clock"),
        }
    }
}

/// What the clock is to be set to, if at all: the middle of the second that the board is in.
fn correction(own: Duration, board: Duration) -> Option<Duration> {
    let right = board + Duration::from_millis(500);
    (own.abs_diff(right) > TOLERATED).then_some(right)
}

/// Seconds, minutes, hours, day of the month, month from 0 and year from 1900 as a time; `None` where they are none.
fn since_epoch(fields: [i32; 6]) -> Option<Duration> {
    let [second, minute, hour, day, month, year] = fields.map(i64::from);
    let valid = (0..=60).contains(&second)
        && (0..60).contains(&minute)
        && (0..24).contains(&hour)
        && (1..=31).contains(&day)
        && (0..12).contains(&month)
        && (70..1000).contains(&year);
    if !valid {
        return None;
    }
    // Years begin in March, so that the day that comes and goes is their last; 1970 began 306 days into one of those.
    let (year, month) = if month < 2 { (year + 1899, month + 10) } else { (year + 1900, month - 2) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_a_number_of_seconds() {
        for (fields, seconds) in [
            ([0, 0, 0, 1, 0, 70], 0),
            ([59, 59, 23, 28, 1, 100], 951_782_399),
            ([0, 0, 0, 29, 1, 100], 951_782_400),
            ([0, 0, 0, 1, 2, 100], 951_868_800),
            ([40, 46, 1, 9, 8, 101], 1_000_000_000),
            ([7, 14, 3, 19, 0, 138], 2_147_483_647),
            ([0, 0, 0, 1, 2, 200], 4_107_542_400),
        ] {
            assert_eq!(since_epoch(fields), Some(Duration::from_secs(seconds)), "{fields:?}");
        }
    }

    #[test]
    fn what_is_no_date_sets_no_clock() {
        for fields in [[0; 6], [-1, 0, 0, 1, 0, 70], [0, 0, 0, 1, 12, 70], [0, 0, 0, 1, 0, 69], [i32::MAX; 6]]
        {
            assert_eq!(since_epoch(fields), None, "{fields:?}");
        }
    }

    #[test]
    fn only_what_is_far_off_is_corrected() {
        let at = |ms: u64| Duration::from_millis(1_000_000_000_000 + ms);
        // The board's second is anywhere in its own.
        for own in [0, 500, 999, 2_400] {
            assert_eq!(correction(at(own), at(0)), None, "{own}");
        }
        assert_eq!(correction(at(0), at(3_000)), Some(at(3_500)));
        assert_eq!(correction(at(3_000), at(0)), Some(at(500)));
        assert_eq!(correction(Duration::ZERO, at(0)), Some(at(500)));
    }
}
