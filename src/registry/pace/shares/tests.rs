//! Readers in simulated time: each takes a turn, reads it at its server's speed once it is due, and
//! takes the next one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// A server that is never what is waited for.
const FAST: u64 = 1 << 50;

/// A reader of some limits.
#[derive(Clone, Debug)]
struct Reader {
    /// The limits, by their positions.
    limits: Vec<usize>,
    /// The bytes a second of its server.
    speed: u64,
    /// The time at which it begins.
    begin: Duration,
    /// The bytes that it reads.
    size: u64,
}

/// A turn that was taken.
#[derive(Clone, Copy, Debug)]
struct Taken {
    reader: usize,
    bytes: u64,
    asked: Duration,
    /// The time from which the bytes were read.
    read: Duration,
}

fn reader(limits: &[usize]) -> Reader {
    Reader { limits: limits.to_vec(), speed: FAST, begin: Duration::ZERO, size: u64::MAX }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn nanos(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * SECOND / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).unwrap())
}

/// Lets `readers` read until the time is over.
fn simulate(rates: &[u64], readers: &[Reader], until: Duration) -> Vec<Taken> {
    let mut shares = Shares::default();
    let limits: Vec<_> = rates.iter().map(|rate| shares.limit(NonZeroU64::new(*rate).unwrap())).collect();
    let of = |reader: &Reader| reader.limits.iter().map(|at| limits[*at]).collect::<Vec<_>>();
    let mut left: Vec<u64> = readers.iter().map(|reader| reader.size).collect();
    let begins = readers.iter().enumerate();
    let mut events: BinaryHeap<_> =
        begins.map(|(number, reader)| Reverse((reader.begin, number, true))).collect();
    let mut taken = Vec::new();
    while let Some(Reverse((now, number, joins))) = events.pop() {
        if now > until {
            break;
        }
        let (reader, limits) = (&readers[number], of(&readers[number]));
        if joins {
            shares.join(&limits, now);
        }
        if left[number] == 0 {
            shares.leave(&limits, 0);
            continue;
        }
        let Turn { bytes, due } = shares.take(&limits, left[number], now);
        assert!((1..=left[number]).contains(&bytes));
        left[number] -= bytes;
        let read = due.max(now);
        if read <= until {
            taken.push(Taken { reader: number, bytes, asked: now, read });
        }
        events.push(Reverse((read + nanos(bytes, reader.speed), number, false)));
    }
    taken
}

/// The bytes that each reader read.
fn by_reader(taken: &[Taken], readers: usize) -> Vec<u64> {
    let mut sums = vec![0; readers];
    for turn in taken {
        sums[turn.reader] += turn.bytes;
    }
    sums
}

fn is_about(found: u64, expected: u64) -> bool {
    (found.abs_diff(expected)) * 20 <= expected
}

#[test]
fn ten_seconds_have_the_bytes_of_ten_seconds_evenly_and_few_turns() {
    for rate in [KIB, 10 * KIB, 333_333, MIB, 20 * MIB, GIB, 10 * GIB] {
        for count in [1, 2, 6, 64, 128] {
            let taken = simulate(&[rate], &vec![reader(&[0]); count], seconds(10));
            let sums = by_reader(&taken, count);
            let (all, turn) = (sums.iter().sum::<u64>(), (rate / 10 / count as u64).max(LEAST));
            assert!(all <= 10 * rate && all + rate / 2 >= 10 * rate, "{rate} {count}: {all}");
            let (least, most) = (sums.iter().min().unwrap(), sums.iter().max().unwrap());
            // The first ones began when they were alone.
            assert!(most - least <= 2 * turn + rate / 10, "{rate} {count}: {sums:?}");
            let turns = taken.len() as u64;
            assert!(turns <= (10 * rate / turn).min(101 * count as u64) + 1, "{rate} {count}: {turns}");
        }
    }
}

#[test]
fn rates_are_exact_where_no_number_of_nanoseconds_is() {
    // A thousand bytes take 93.1… ns each time: rounded, they would be half a percent off.
    let readers = vec![Reader { size: 1000, ..reader(&[0]) }; 100_000];
    let taken = simulate(&[10 * GIB], &readers, seconds(10));
    let end = taken.iter().map(|turn| turn.read).max().unwrap();
    assert_eq!(end.as_nanos(), (100_000_000 * SECOND).div_ceil(u128::from(10 * GIB)));
}

#[test]
fn those_who_are_held_back_elsewhere_leave_their_share_to_the_others() {
    // Two of a registry with 2 MB/s, three of others, one whose server is slow: of 11 MB/s.
    let slow = Reader { speed: 300_000, ..reader(&[0]) };
    let readers = [reader(&[0, 1]), reader(&[0, 1]), slow, reader(&[0]), reader(&[0]), reader(&[0])];
    let sums = by_reader(&simulate(&[11_000_000, 2_000_000], &readers, seconds(10)), 6);
    assert!(is_about(sums[0], 10_000_000) && is_about(sums[1], 10_000_000), "{sums:?}");
    assert!(sums[2] <= 3_100_000 && sums[2] >= 1_800_000, "{sums:?}");
    for sum in &sums[3..] {
        assert!(is_about(*sum, (110_000_000 - sums[..3].iter().sum::<u64>()) / 3), "{sums:?}");
    }
    // A registry whose limit is above what is left for it is not held back by it.
    let sums = by_reader(&simulate(&[6_000_000, 5_000_000], &readers[1..], seconds(10)), 5);
    assert!(
        sums[..1].iter().chain(&sums[2..]).all(|sum| is_about(*sum, (60_000_000 - sums[1]) / 4)),
        "{sums:?}"
    );
}

#[test]
fn idle_time_is_lost_but_for_a_little() {
    let mut shares = Shares::default();
    let limits = [shares.limit(NonZeroU64::new(1000).unwrap())];
    shares.join(&limits, seconds(5));
    // Nothing is saved up before the first reader.
    let turn = shares.take(&limits, 10, seconds(5));
    assert_eq!(turn, Turn { bytes: 10, due: seconds(5) + Duration::from_millis(10) });
    let mut at_once = 0;
    while shares.take(&limits, 10, seconds(60)).due <= seconds(60) {
        at_once += 10;
    }
    assert_eq!(at_once, 300);
}

#[test]
fn bytes_that_are_not_used_are_given_back() {
    let mut shares = Shares::default();
    let limits = [shares.limit(NonZeroU64::new(10_000).unwrap())];
    shares.join(&limits, Duration::ZERO);
    shares.join(&limits, Duration::ZERO);
    let turn = shares.take(&limits, 10_000, Duration::ZERO);
    assert_eq!(turn.bytes, 500, "half of a turn");
    shares.leave(&limits, 400);
    let turn = shares.take(&limits, 10_000, Duration::ZERO);
    assert_eq!(turn, Turn { bytes: 1000, due: Duration::from_millis(110) });
}

fn any_reader(limits: usize) -> impl Strategy<Value = Reader> {
    let limits = proptest::sample::subsequence((0..limits).collect::<Vec<_>>(), 1..=limits);
    let speed = prop_oneof![Just(FAST), 100..1000_u64, (10..40_u32).prop_map(|power| 1 << power)];
    let size = prop_oneof![Just(u64::MAX), 1..100_u64, (0..40_u32).prop_map(|power| 1 << power)];
    (limits, speed, 0..4000_u64, size).prop_map(|(limits, speed, begin, size)| Reader {
        limits,
        speed,
        begin: Duration::from_millis(begin),
        size,
    })
}

/// The bytes that `rate` allows in `time`.
fn allowed(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_nanos() / SECOND).unwrap()
}

proptest! {
    #[test]
    fn no_window_has_more_than_its_rate_and_the_bucket_and_no_reader_starves(
        rate in (10..34_u32).prop_map(|power| 1_u64 << power),
        readers in prop::collection::vec(any_reader(1), 1..20),
    ) {
        let taken = simulate(&[rate], &readers, seconds(5));
        let mut reads: Vec<_> = taken.iter().map(|turn| (turn.read, turn.bytes)).collect();
        reads.sort_unstable();
        let turn = (rate / 10).max(LEAST);
        for (first, (begin, _)) in reads.iter().enumerate() {
            let mut sum = 0;
            for (end, bytes) in &reads[first..] {
                sum += bytes;
                prop_assert!(sum <= allowed(rate, end.saturating_sub(*begin) + BUCKET) + turn + 1);
            }
        }
        for Taken { asked, read, .. } in taken {
            let round = 2 * TURN + nanos(LEAST * readers.len() as u64, rate);
            prop_assert!(read.saturating_sub(asked) <= round * 2, "{asked:?} {read:?}");
        }
    }

    #[test]
    fn no_limit_of_several_is_broken_and_the_tightest_is_used_up(
        rates in prop::collection::vec((12..30_u32).prop_map(|power| 1_u64 << power), 3),
        readers in prop::collection::vec(any_reader(3), 1..12),
    ) {
        let taken = simulate(&rates, &readers, seconds(5));
        for (at, rate) in rates.iter().enumerate() {
            let of_limit = taken.iter().filter(|turn| readers[turn.reader].limits.contains(&at));
            let sum: u64 = of_limit.map(|turn| turn.bytes).sum();
            let turns = (rate / 10).max(LEAST * readers.len() as u64);
            prop_assert!(sum <= allowed(*rate, seconds(5) + BUCKET) + 2 * turns);
        }
        // A reader that nothing else holds back is as fast as the tightest of its limits.
        let alone = [Reader { speed: FAST, begin: Duration::ZERO, size: u64::MAX, ..readers[0].clone() }];
        let sum = by_reader(&simulate(&rates, &alone, seconds(5)), 1)[0];
        let tightest = *readers[0].limits.iter().map(|at| &rates[*at]).min().unwrap();
        prop_assert!(sum <= 5 * tightest && sum + tightest / 4 >= 5 * tightest, "{sum} of {tightest}");
    }
}
