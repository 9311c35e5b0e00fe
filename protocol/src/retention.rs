//! Which snapshots go when there are too many or they are too old. Both sides decide it in the same way, so that what goes
//! inside goes at home as well.

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How many.
    pub count: usize,
    /// For how long, in milliseconds.
    pub age_ms: u64,
}

/// Those that go, of moments in milliseconds in any order. The newest never does.
///
/// Old ones go; then, while there are too many, the one whose neighbours are closest together for its age. What is
/// left stands close together in the last minutes and further and further apart before.
pub fn expired(moments: &[u64], now_ms: u64, keep: Keep) -> Vec<u64> {
    let mut moments = moments.to_vec();
    moments.sort_unstable();
    moments.dedup();
    let Some(newest) = moments.pop() else { return Vec::new() };
    let old = moments.partition_point(|moment| now_ms.saturating_sub(*moment) > keep.age_ms);
    let mut gone: Vec<u64> = moments.drain(..old).collect();
    moments.push(newest);
    while moments.len() > keep.count.max(1) {
        let last = moments.len() - 1;
        // The oldest has no neighbour before it: it reaches as far as any may.
        let gap = |at: usize| {
            let before =
                if at == 0 { now_ms.saturating_sub(keep.age_ms).min(moments[0]) } else { moments[at - 1] };
            let width = u128::from(moments[at + 1] - before) << 32;
            width / u128::from(now_ms.saturating_sub(moments[at]).max(1))
        };
        let next = (0..last).min_by_key(|at| gap(*at)).unwrap_or(0);
        gone.push(moments.remove(next));
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const DAY: u64 = 24 * 60 * MINUTE;
    const KEEP: Keep = Keep { count: 50, age_ms: 7 * DAY };

    #[test]
    fn old_ones_go_and_the_newest_never() {
        let now = 100 * DAY;
        assert_eq!(expired(&[now - 8 * DAY, now - 6 * DAY, now], now, KEEP), [now - 8 * DAY]);
        assert_eq!(expired(&[now - 50 * DAY], now, KEEP), [0; 0]);
        assert_eq!(expired(&[], now, KEEP), [0; 0]);
        assert_eq!(expired(&[1, 2, 3], now, Keep { count: 0, age_ms: u64::MAX }).len(), 2);
        // From a clock that was ahead.
        assert_eq!(expired(&[now + DAY, now], now, KEEP), [0; 0]);
    }

    /// One a minute for ten days: the last minutes are all there, the first day is as well.
    #[test]
    fn what_is_left_stands_further_apart_the_older_it_is() {
        let mut there = Vec::new();
        let start = 100 * DAY;
        let mut now = start;
        while now < start + 10 * DAY {
            now += MINUTE;
            there.push(now);
            let gone = expired(&there, now, KEEP);
            there.retain(|moment| !gone.contains(moment));
            assert!(there.len() <= KEEP.count && there.last() == Some(&now));
        }
        let ages: Vec<u64> = there.iter().rev().map(|moment| (now - moment) / MINUTE).collect();
        assert!(ages[..4] == [0, 1, 2, 3], "{ages:?}");
        assert!(ages.last().is_some_and(|oldest| *oldest > 4 * 24 * 60), "{ages:?}");
        for (newer, older) in ages.iter().zip(&ages[1..]) {
            assert!(older - newer <= newer / 2 + 2, "{ages:?}");
        }
    }
}
