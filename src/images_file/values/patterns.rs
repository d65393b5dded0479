//! Patterns of `match`: each valid by itself, and none and not all together more work than reading
//! a file may be.
//!
//! A pattern costs the size of the program that it is compiled to: a few characters may stand for
//! megabytes. Each pattern is compiled under the smallest of a few limits that it fits, and that
//! limit is taken from a budget of the whole file. So the work is bounded by the budget, whatever
//! the file says.

use std::collections::BTreeSet;

use super::Fault;

/// The most bytes of one pattern. Tags have 128 at most.
const MAX_TEXT: usize = 4096;
/// The sizes by which compiled patterns are measured, in bytes; none may be larger than the last
/// one.
const SIZES: [usize; 3] = [2 << 10, 32 << 10, 256 << 10];
/// The cost of a byte of a pattern that is not valid: a class of Unicode's characters is that
/// large.
const COST_OF_A_BYTE: usize = 64;
/// The bytes of all compiled patterns of a file.
const BUDGET: usize = 16 << 20;

/// The patterns of one file.
#[derive(Debug)]
pub(in crate::images_file) struct Patterns {
    left: usize,
    /// True if there were too many: then one fault has said so.
    exceeded: bool,
    /// The valid patterns: the same text again costs nothing.
    known: BTreeSet<String>,
}

impl Default for Patterns {
    fn default() -> Self {
        Self { left: BUDGET, exceeded: false, known: BTreeSet::new() }
    }
}

impl Patterns {
    /// Anchors a pattern at both ends. Of a file with too many, the first one that does not fit is
    /// a fault; those after it are not looked at.
    pub(in crate::images_file) fn whole(&mut self, text: &str) -> Result<String, Fault> {
        let anchored = format!("^(?:{text})$");
        if self.known.contains(text) || self.exceeded {
            return Ok(anchored);
        }
        if text.len() > MAX_TEXT {
            let message = format!("is not a valid pattern: too long, more than {MAX_TEXT} bytes");
            return Err(Fault { message, hint: None });
        }
        // First alone: `a)(b` would become valid by the anchoring. Its syntax is looked at before
        // its size.
        if let Err(error) = compile(text, 1)
            && !matches!(error, regex::Error::CompiledTooBig(_))
        {
            // One that is wrong at its end costs as well.
            self.take(text.len() * COST_OF_A_BYTE)?;
            return Err(fault(&error));
        }
        for size in SIZES {
            let result = compile(&anchored, size);
            let last = size == SIZES[SIZES.len() - 1];
            match result {
                Err(regex::Error::CompiledTooBig(_)) if !last => {}
                result => {
                    let enough = self.take(size);
                    result.map_err(|error| fault(&error))?;
                    enough?;
                    self.known.insert(text.to_owned());
                    return Ok(anchored);
                }
            }
        }
        Ok(anchored)
    }

    fn take(&mut self, size: usize) -> Result<(), Fault> {
        if let Some(left) = self.left.checked_sub(size) {
            self.left = left;
            return Ok(());
        }
        self.exceeded = true;
        let message =
            format!("is one pattern too many: all of a file may need {} MiB compiled", BUDGET >> 20);
        Err(Fault { message, hint: Some("write smaller patterns, or several images files".to_owned()) })
    }
}

fn compile(text: &str, size: usize) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(text).size_limit(size).build()
}

fn fault(error: &regex::Error) -> Fault {
    if matches!(error, regex::Error::CompiledTooBig(_)) {
        let hint = r"\w and \d stand for thousands of characters: write [0-9A-Za-z_] and [0-9]";
        return Fault {
            message: "is not a valid pattern: too large".to_owned(),
            hint: Some(hint.to_owned()),
        };
    }
    // The last line of a syntax error says what is wrong; those before draw the pattern.
    let text = error.to_string();
    let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
    Fault { message: format!("is not a valid pattern: {reason}"), hint: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_of_usual_patterns_fit_and_the_same_one_costs_once() {
        let mut patterns = Patterns::default();
        for number in 0..1000 {
            patterns.whole(&format!(r"^v?{number}\.[0-9]+(\.[0-9]+)?-(slim|alpine)$")).unwrap();
        }
        let left = patterns.left;
        assert!(left >= BUDGET / 2, "{left}");
        for _ in 0..100_000 {
            patterns.whole(r"^v?7\.[0-9]+(\.[0-9]+)?-(slim|alpine)$").unwrap();
        }
        assert_eq!(patterns.left, left);
        patterns.whole(r"main-[0-9a-f]{7,40}-(?P<order>\d+)").unwrap();
    }

    #[test]
    fn a_large_pattern_is_refused_and_so_are_many_of_some_size() {
        let mut patterns = Patterns::default();
        for large in ["a{1000}{1000}{1000}", r"\w{500}", &"x".repeat(MAX_TEXT + 1)] {
            assert!(patterns.whole(large).is_err(), "{large}");
        }
        let faults = (0..5000).filter(|number| patterns.whole(&format!("[a-z]{{500}}{number}")).is_err());
        assert_eq!(faults.count(), 1);
    }
}
