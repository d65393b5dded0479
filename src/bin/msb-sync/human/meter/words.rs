//! Numbers and tasks in the words of bars and lines.

use msb_sync::progress::Task;

/// `7 of 28 layers`.
pub(super) fn of(done: usize, all: usize, what: &str) -> String {
    format!("{done} of {all} {what}{}", if all == 1 { "" } else { "s" })
}

/// `12.1 of 63.6 MiB`: both in the unit of the whole.
pub(super) fn of_bytes((done, all): (u64, u64)) -> String {
    let unit = unit_of(all);
    let ([done, _], [all, name]) = (in_unit(done, unit), in_unit(all, unit));
    format!("{done} of {all} {name}")
}

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// The unit, by its number, in which `bytes` are less than 1024.
fn unit_of(bytes: u64) -> usize {
    (0..UNITS.len() - 1).find(|unit| bytes >> (10 * unit) < 1024).unwrap_or(UNITS.len() - 1)
}

/// The number of `bytes` in a unit, and the name of that.
fn in_unit(bytes: u64, unit: usize) -> [String; 2] {
    let name = UNITS[unit].to_owned();
    if unit == 0 {
        return [bytes.to_string(), name];
    }
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    let decimal = if tenths < 1000 { format!(".{}", tenths % 10) } else { String::new() };
    [format!("{}{decimal}", tenths / 10), name]
}

/// `45 s left`, `12 min left`, `3.2 h left`; empty where nobody knows.
pub(super) fn time_left(bytes: u64, rate: Option<u64>) -> String {
    let Some(seconds) = rate.and_then(|rate| bytes.checked_div(rate)) else { return String::new() };
    match seconds {
        _ if bytes == 0 => String::new(),
        0..60 => format!("{} s left", seconds + 1),
        60..3600 => format!("{} min left", seconds.div_ceil(60)),
        3600..360_000 => format!("{}.{} h left", seconds / 3600, seconds / 360 % 10),
        _ => "days left".to_owned(),
    }
}

/// `1.8 MiB/s`.
pub(super) fn speed(rate: u64) -> String {
    format!("{}/s", in_unit(rate, unit_of(rate)).join(" "))
}

/// `7 of 28 layers compared`.
pub(super) fn of_task(task: Task, done: usize, all: usize) -> String {
    match task {
        Task::CompareLayers => of(done, all, "layer") + " compared",
        Task::CompareBlobs => of(done, all, "kept blob") + " compared",
        Task::CompareEngines => of(done, all, "reference") + " compared",
        Task::RemoveLayers => of(done, all, "layer") + " removed",
        Task::WriteBundle => of(done, all, "blob") + " written",
        Task::Load(engine) => format!("{} loaded into {engine}", of(done, all, "image")),
        _ => of(done, all, "thing") + " done",
    }
}

/// The words with which a line tells that a task begins; `None` where others tell.
pub(super) fn begins(task: Task) -> Option<(&'static str, &'static str)> {
    match task {
        Task::CompareLayers => Some(("comparing", "layer")),
        Task::CompareBlobs => Some(("comparing", "kept blob")),
        Task::CompareEngines => Some(("comparing", "reference")),
        Task::RemoveLayers => Some(("removing", "layer")),
        Task::WriteBundle => Some(("writing", "blob")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(of(1, 1, "layer"), "1 of 1 layer");
        assert_eq!(of_bytes((1 << 19, 66_700_000)), "0.5 of 63.6 MiB");
        assert_eq!(of_bytes((5, 1023)), "5 of 1023 B");
        assert_eq!(of_bytes((u64::MAX, u64::MAX)), "16383 of 16383 PiB");
        assert_eq!(speed(1_900_000), "1.8 MiB/s");
        let left = |bytes, rate| time_left(bytes, rate);
        assert_eq!([left(10, None), left(0, Some(5)), left(10, Some(0))], ["", "", ""]);
        assert_eq!(left(44, Some(1)), "45 s left");
        assert_eq!(left(600, Some(1)), "10 min left");
        assert_eq!(left(11_520, Some(1)), "3.2 h left");
        assert_eq!(left(u64::MAX, Some(1)), "days left");
    }
}
